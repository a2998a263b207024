"""ConvMixer as a functional Keras model of stock layers, under any Keras backend."""

from collections.abc import Sequence

import keras

from convmixer_keras.models import arguments
from convmixer_keras.models.weights import load_weights
from convmixer_keras.utils import checks
from convmixer_keras.utils.files import Path

# PyTorch's values, with which the published weights were trained; Keras' momentum is 1 minus PyTorch's.
NORMALIZATION_EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.9


def ConvMixer(
    hidden_dim: int,
    depth: int,
    kernel_size: int,
    patch_size: int,
    *,
    activation: str = "gelu",
    normalization: str = "batch",
    residual: bool = True,
    input_mean: float | Sequence[float] | None = None,
    input_std: float | Sequence[float] | None = None,
    include_top: bool = True,
    weights: Path | None = None,
    input_tensor: keras.KerasTensor | None = None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    pooling: str | None = None,
    classes: int | None = None,
    classifier_activation: str | None = None,
    name: str | None = None,
) -> keras.Model:
    """Builds the network of "Patches Are All You Need?" (arXiv:2201.09792).

    Patch embedding, then `depth` times a depthwise convolution with a residual connection (mixing
    places) and a 1x1 convolution (mixing channels), each followed by activation and normalisation;
    global average pooling and a linear classifier.

    Args:
        hidden_dim: Number of channels throughout, h in the paper.
        depth: Number of blocks, d.
        kernel_size: Side of the depthwise kernels, k. An even one, such as the paper's 8, reaches one place
            further down and to the right than up and to the left, as PyTorch's "same" padding has it.
        patch_size: Side and stride of the patch embedding in pixels, p. Rows and columns of the image
            beyond a multiple of it are not seen.
        activation: Name of a Keras activation. "gelu" is the exact (erf) one.
        normalization: "batch", or "layer" (over channels), one of the paper's ablations.
        residual: Whether the depthwise half of a block is added to its input; False is an ablation.
        input_mean, input_std: Per channel, in units of 0..255: both or neither. Given, the model takes
            raw pixels 0..255 and its first layer is `input_normalization`; otherwise the model takes
            channels that are already normalised. A number counts for every channel.
        include_top: Whether the model ends in a classifier, or in features.
        weights: None for random ones, the path of a `.weights.h5` or `.keras` file of this network, or
            "hf://USER/REPO", a Hugging Face repository that holds one.
        input_tensor: A Keras tensor to build on, in place of a new input.
        input_shape: (height, width, channels); height and width may be None. Default (224, 224, 3), or
            the shape of `input_tensor`.
        pooling: "avg" or "max" pooling over places. None means "avg" with the classifier, and without
            it the feature map itself.
        classes: Number of classes, default 1000. Only with `include_top=True`.
        classifier_activation: Name of a Keras activation such as "softmax"; None gives logits. Only with
            `include_top=True`.
        name: Name of the model.

    Returns:
        A `keras.Model` from float32 images (batch, height, width, channels) to logits (batch, classes),
        float32 under every dtype policy; with `include_top=False` to features (batch, hidden_dim), or
        (batch, height // patch_size, width // patch_size, hidden_dim) without pooling.

    Raises:
        ValueError, TypeError: For arguments outside what is stated here.
    """
    hidden_dim = checks.positive_int("hidden_dim", hidden_dim)
    depth = checks.positive_int("depth", depth)
    kernel_size = checks.positive_int("kernel_size", kernel_size)
    patch_size = checks.positive_int("patch_size", patch_size)
    arguments.activation_name("activation", activation)
    checks.boolean("residual", residual)
    checks.one_of("normalization", normalization, ("batch", "layer"))
    checks.one_of("pooling", pooling, (None, "avg", "max"))
    classes = arguments.top_arguments(include_top, classes, classifier_activation)
    input_shape = arguments.image_shape(input_shape, input_tensor, patch_size)
    channels = input_shape[-1]
    input_mean, input_std = arguments.mean_and_std(input_mean, input_std, channels)
    arguments.network_size(hidden_dim, depth, kernel_size, patch_size, channels, classes)

    inputs = keras.Input(input_shape, dtype="float32", name="image") if input_tensor is None else input_tensor
    x = inputs
    if input_mean is not None:
        # float32 under every policy: bfloat16 would round the mean itself.
        variance = [std**2 for std in input_std]
        x = keras.layers.Normalization(
            mean=input_mean, variance=variance, dtype="float32", name="input_normalization"
        )(x)

    x = keras.layers.Conv2D(
        hidden_dim,
        patch_size,
        strides=patch_size,
        activation=activation,
        data_format="channels_last",
        **_torch_default_init(fan_in=patch_size**2 * channels),
        name="stem_conv",
    )(x)
    x = _normalize(x, normalization, "stem")
    for i in range(depth):
        x = _block(x, kernel_size, activation, normalization, residual, f"block{i}")

    if include_top and pooling is None:
        pooling = "avg"
    if pooling == "avg":
        x = keras.layers.GlobalAveragePooling2D(data_format="channels_last", name="pool")(x)
    elif pooling == "max":
        x = keras.layers.GlobalMaxPooling2D(data_format="channels_last", name="pool")(x)
    if include_top:
        # float32 under every policy, so that the loss is computed from full-precision logits.
        x = keras.layers.Dense(
            classes,
            activation=classifier_activation,
            dtype="float32",
            **_torch_default_init(fan_in=hidden_dim),
            name="head",
        )(x)

    if input_tensor is not None:
        inputs = keras.utils.get_source_inputs(input_tensor)
    model = keras.Model(inputs, x, name=name)
    if weights is not None:
        load_weights(model, weights, any_classes=not include_top)
    return model


def _block(x, kernel_size, activation, normalization, residual, name):
    """One block: x + norm(act(depthwise(x))), then norm(act(pointwise(x)))."""
    hidden_dim = x.shape[-1]
    y = keras.layers.DepthwiseConv2D(
        kernel_size,
        padding="same",
        activation=activation,
        data_format="channels_last",
        **_torch_default_init(fan_in=kernel_size**2, kernel="depthwise_initializer"),
        name=f"{name}_depthwise",
    )(x)
    y = _normalize(y, normalization, f"{name}_depthwise")
    x = keras.layers.Add(name=f"{name}_add")([x, y]) if residual else y
    x = keras.layers.Conv2D(
        hidden_dim,
        1,
        activation=activation,
        data_format="channels_last",
        **_torch_default_init(fan_in=hidden_dim),
        name=f"{name}_pointwise",
    )(x)
    return _normalize(x, normalization, f"{name}_pointwise")


def _normalize(x, normalization, name):
    if normalization == "layer":
        return keras.layers.LayerNormalization(epsilon=NORMALIZATION_EPSILON, name=f"{name}_ln")(x)
    return keras.layers.BatchNormalization(
        momentum=BATCH_NORM_MOMENTUM, epsilon=NORMALIZATION_EPSILON, name=f"{name}_bn"
    )(x)


def _torch_default_init(fan_in, kernel="kernel_initializer"):
    """PyTorch's default for convolutions and linear layers, with which the official model starts.

    Uniform in +-1/sqrt(fan_in) for kernel and bias. Stated explicitly, because Keras would count a
    depthwise kernel's fan-in as k*k*channels and start it far too small.
    """
    bound = fan_in**-0.5
    # Two instances: an unseeded Keras initializer draws its seed when it is made.
    return {
        kernel: keras.initializers.RandomUniform(-bound, bound),
        "bias_initializer": keras.initializers.RandomUniform(-bound, bound),
    }
