"""A ConvMixer rewritten for inference: the same function in fewer and faster operations.

XNNPACK, which runs `.tflite` files on phones and desktops alike, has fast depthwise kernels of up to 25
taps, and slow ones beyond. Four things are done, all of them exact up to rounding:

* A large depthwise kernel becomes a sum of small ones. One of every third row and column of a 9x9 kernel
  is a 3x3 kernel with dilation 3; nine of them have 81 taps, none of which is counted twice or is zero.
* Depthwise kernels see at most 256 channels at a time. XNNPACK walks through all channels of one place
  before it goes on to the next place, and with 1024 channels the neighbours that both places share have
  left the first-level cache by then: 2.6 times slower per tap.
* Normalisation moves into the weights around it wherever that divides by nothing (`_Scaled`).
* The patch embedding reads a whole row of a patch at once, where a plain convolution would read
  three channels.
"""

import functools
from typing import NamedTuple

import keras
import numpy as np

from convmixer_keras.errors import InputError

LARGEST_KERNEL = 15

# What one piece costs in XNNPACK by the size of its microkernel, its addition to the others included;
# relative, measured on AVX-512. A piece of 10 taps costs as much as one of 25.
_PIECE_COST = {4: 0.07, 9: 0.09, 25: 0.22}
_INTEGER_PIECE_COST = {9: 0.09, 25: 0.17}

_GROUP_CHANNELS = 256


def mobile(model, *, size=None, input_mean=None, input_std=None, integer=False):
    """Rewrites a ConvMixer for inference on a phone.

    Args:
        model: A `keras.Model` made by `convmixer_keras.ConvMixer` or a named builder, with kernels of at
            most 15x15. Its dtype policy does not matter: the result computes in float32.
        size: (height, width) of the images; needed where the model leaves them free.
        input_mean, input_std: Per channel, in units of 0..255, for a model that takes normalised
            channels: the result then takes raw pixels. Both or neither.
        integer: Whether the result will be quantised to integers throughout, for which other sizes of
            pieces are faster and fewer roundings better.

    Returns:
        A `keras.Model` of stock layers from float32 images (1, height, width, channels) to what `model`
        gives, to within 1e-5 of its largest value.

    Raises:
        InputError: If the model is not such a ConvMixer, or an argument does not fit it.
    """
    parts = _Parts.of(model)
    front, input_shape = _front(model, parts, size)
    image = keras.Input(batch_shape=(1, *input_shape), dtype="float32", name="image")
    x = image if front is None else front(image)

    x = _stem(x, parts, input_mean, input_std)
    for i in range(parts.depth):
        x = _block(x, parts, i, integer)
    return keras.Model(image, _top(x, parts), name=f"{model.name}_mobile")


class _Parts(NamedTuple):
    """A ConvMixer's layers by their names, with what is read off them."""

    layers: dict
    depth: int
    normalization: str
    residual: bool

    @classmethod
    def of(cls, model):
        if not isinstance(model, keras.Model):
            raise InputError(f"mobile() takes a keras.Model, got {type(model).__name__}")
        layers = {layer.name: layer for layer in model.layers}
        depth = 0
        while f"block{depth}_depthwise" in layers:
            depth += 1
        normalization = "bn" if "stem_bn" in layers else "ln"
        wanted = {"stem_conv", f"stem_{normalization}"}
        for i in range(depth):
            for half in ("depthwise", "pointwise"):
                wanted |= {f"block{i}_{half}", f"block{i}_{half}_{normalization}"}
        missing = sorted(wanted - set(layers))
        if missing or not depth or len(model.inputs) != 1 or len(model.outputs) != 1:
            raise InputError(
                "mobile() takes a model made by convmixer_keras.ConvMixer, with one input and one output; "
                + (f"{model.name} has no layer {missing[0]}" if missing else f"{model.name} is not one")
            )
        kernel = max(layers["block0_depthwise"].kernel_size)
        if kernel > LARGEST_KERNEL:
            raise InputError(f"mobile() takes kernels of at most {LARGEST_KERNEL}, got {kernel}")
        return cls(layers, depth, normalization, "block0_add" in layers)

    def weights(self, name):
        """Returns kernel and bias of a layer in float64, in which everything is folded."""
        return [w.astype(np.float64) for w in _numpy_weights(self.layers[name])]

    def activation(self, name):
        return self.layers[name].activation


class _Scaled(NamedTuple):
    """Stands for `scale * tensor + shift` per channel, not computed yet.

    What comes next decides: a 1x1 convolution or the classifier takes both into its weights by
    multiplication alone; a depthwise convolution cannot take the shift, because it pads with zeros.
    """

    tensor: object
    scale: np.ndarray
    shift: np.ndarray

    def folded_into(self, kernel, bias):
        """Returns the kernel (..., in, out) and bias (out) of a layer that then takes `tensor` itself."""
        shifted = bias + (kernel * self.shift[:, None]).sum(axis=tuple(range(kernel.ndim - 1)))
        return kernel * self.scale[:, None], shifted

    def computed(self, name):
        """Returns the tensor scaled and shifted."""
        return _affine(self.tensor, self.scale, self.shift, name)


def _front(model, parts, size):
    """Returns what stands before the network, as a model or None, and the shape of one image."""
    height, width, channels = model.inputs[0].shape[1:]
    if size is not None:
        if (height or size[0], width or size[1]) != tuple(size):
            raise InputError(f"size must be the model's own, {(height, width)}, got {tuple(size)}")
        height, width = size
    if height is None or width is None:
        raise InputError("the model leaves the image's height or width free: size must be given")
    first = parts.layers.get("input_normalization", parts.layers["stem_conv"])
    if first.input is model.inputs[0]:
        return None, (height, width, channels)
    return keras.Model(model.inputs[0], first.input), (height, width, channels)


def _stem(x, parts, mean, std):
    """Patch embedding and its normalisation; takes pixels, gives a `_Scaled`."""
    kernel, bias = parts.weights("stem_conv")
    patch, _, channels, hidden = kernel.shape
    has_normalization = "input_normalization" in parts.layers
    if has_normalization and mean is not None:
        raise InputError("the model normalises its input itself: input_mean and input_std must be left out")
    if has_normalization:
        layer = parts.layers["input_normalization"]
        mean = np.reshape(keras.ops.convert_to_numpy(layer.mean), -1).astype(np.float64)
        variance = np.reshape(keras.ops.convert_to_numpy(layer.variance), -1).astype(np.float64)
        std = np.maximum(np.sqrt(variance), keras.config.epsilon())
    if mean is not None:
        # The embedding pads nothing, so that the shift reaches every place alike.
        mean, std = np.broadcast_to(mean, channels), np.broadcast_to(std, channels)
        kernel, bias = _Scaled(x, 1 / std, -mean / std).folded_into(kernel, bias)

    # (h, w * patch, c) and (h, w, patch * c) are the same numbers in memory: the convolution then has
    # patch * c channels at each of `patch` places, and not c at patch * patch.
    height, width = x.shape[1] // patch, x.shape[2] // patch
    cut = (x.shape[1] - height * patch, x.shape[2] - width * patch)
    if any(cut):
        x = keras.layers.Cropping2D(((0, cut[0]), (0, cut[1])), dtype="float32", name="stem_crop")(x)
    x = keras.layers.Reshape(
        (height * patch, width, patch * channels), dtype="float32", name="stem_rows"
    )(x)
    x = _weighted(
        keras.layers.Conv2D(hidden, (patch, 1), strides=(patch, 1), **_options("stem_conv")),
        x,
        kernel.reshape(patch, 1, patch * channels, hidden),
        bias,
    )
    x = _activated(x, parts.activation("stem_conv"), "stem_activation")
    return _normalized(x, parts, "stem")


def _block(x, parts, i, integer):
    """One block; takes and gives a `_Scaled`."""
    name = f"block{i}"
    activation = parts.activation(f"{name}_depthwise")
    groups = 1 if integer else _groups(x.tensor.shape[-1])
    kernel, bias = parts.weights(f"{name}_depthwise")
    norm = parts.layers[f"{name}_depthwise_{parts.normalization}"]
    # A layer norm sums over all channels.
    split_further = parts.normalization == "bn"

    inputs = _split(x.tensor, groups, f"{name}_split")
    outputs = []
    for g, part in enumerate(inputs):
        at = slice(g * part.shape[-1], (g + 1) * part.shape[-1])
        label = f"{name}_group{g}" if groups > 1 else name
        inputs[g] = part = _Scaled(part, x.scale[at], x.shift[at]).computed(f"{label}_scale")
        y = _depthwise(part, kernel[:, :, at], bias[at], integer, f"{label}_depthwise")
        y = _activated(y, activation, f"{label}_depthwise_activation")
        if split_further and parts.residual:
            scale, _ = _scale_and_shift(norm)
            y = _affine(y, scale[at], None, f"{label}_depthwise_scale")
            y = keras.layers.Add(dtype="float32", name=f"{label}_add")([part, y])
        outputs.append(y)
    y = _joined(outputs, f"{name}_join")

    scale, shift = _scale_and_shift(norm)
    if not split_further:
        y = _standardized(y, norm.epsilon, f"{name}_depthwise_ln")
        if parts.residual:
            y = _affine(y, scale, None, f"{name}_depthwise_scale")
            y = keras.layers.Add(dtype="float32", name=f"{name}_add")([_joined(inputs, f"{name}_rejoin"), y])
    z = _Scaled(y, np.ones_like(scale) if parts.residual else scale, shift)

    kernel, bias = z.folded_into(*parts.weights(f"{name}_pointwise"))
    layer = keras.layers.Conv2D(len(bias), 1, **_options(f"{name}_pointwise"))
    y = _weighted(layer, z.tensor, kernel, bias)
    y = _activated(y, parts.activation(f"{name}_pointwise"), f"{name}_pointwise_activation")
    return _normalized(y, parts, f"{name}_pointwise")


def _top(x, parts):
    pool, head = parts.layers.get("pool"), parts.layers.get("head")
    if pool is None:
        return x.computed("features")
    if isinstance(pool, keras.layers.GlobalMaxPooling2D):
        # A negative scale would make the largest value the smallest.
        y = x.computed("features")
        y = keras.layers.MaxPooling2D(y.shape[1:3], dtype="float32", data_format="channels_last", name="pool")(y)
        x = _Scaled(y, np.ones_like(x.scale), np.zeros_like(x.shift))
    else:
        average = keras.layers.GlobalAveragePooling2D(
            keepdims=True, data_format="channels_last", dtype="float32", name="pool"
        )
        x = x._replace(tensor=average(x.tensor))
    if head is None:
        return _flat(x.computed("features_scale"), "features_flat")
    kernel, bias = x.folded_into(*parts.weights("head"))
    layer = keras.layers.Dense(len(bias), dtype="float32", kernel_initializer="zeros", name="head")
    y = _weighted(layer, _flat(x.tensor, "flat"), kernel, bias)
    return _activated(y, head.activation, "head_activation")


def _flat(x, name):
    return keras.layers.Reshape((x.shape[-1],), dtype="float32", name=name)(x)


def _normalized(x, parts, name):
    layer = parts.layers[f"{name}_{parts.normalization}"]
    if parts.normalization == "ln":
        x = _standardized(x, layer.epsilon, layer.name)
    return _Scaled(x, *_scale_and_shift(layer))


def _scale_and_shift(layer):
    """Returns what a normalisation comes to at inference, per channel in float64."""
    if isinstance(layer, keras.layers.LayerNormalization):
        return [w.astype(np.float64) for w in _numpy_weights(layer)]
    gamma, beta, mean, variance = (w.astype(np.float64) for w in _numpy_weights(layer))
    scale = gamma / np.sqrt(variance + layer.epsilon)
    return scale, beta - mean * scale


def _standardized(x, epsilon, name):
    """Layer normalisation without its scale and shift."""
    layer = keras.layers.LayerNormalization(
        epsilon=epsilon, center=False, scale=False, dtype="float32", name=name
    )
    return layer(x)


def _depthwise(x, kernel, bias, integer, name):
    """A "same" depthwise convolution as a sum of dilated ones with few taps each."""
    side = kernel.shape[0]
    reach = side // 2
    step_down, step_right = tiling(side, integer)
    pieces = []
    for i in range(step_down):
        for j in range(step_right):
            piece = kernel[i::step_down, j::step_right]
            last_i = i + (piece.shape[0] - 1) * step_down
            last_j = j + (piece.shape[1] - 1) * step_right
            label = f"{name}_{i}_{j}"
            # Padding by a layer of its own is merged into the convolution by XNNPACK.
            padding = ((reach - i, last_i - reach), (reach - j, last_j - reach))
            padded = x
            if reach:
                padded = keras.layers.ZeroPadding2D(
                    padding, data_format="channels_last", dtype="float32", name=f"{label}_pad"
                )(x)
            layer = keras.layers.DepthwiseConv2D(
                piece.shape[:2],
                dilation_rate=(step_down, step_right),
                use_bias=not pieces,
                data_format="channels_last",
                dtype="float32",
                depthwise_initializer="zeros",
                name=label,
            )
            pieces.append(_weighted(layer, padded, piece, *([] if pieces else [bias])))
    y = pieces[0]
    for n, piece in enumerate(pieces[1:], start=1):
        y = keras.layers.Add(dtype="float32", name=f"{name}_sum{n}")([y, piece])
    return y


@functools.cache
def tiling(side, integer=False):
    """Chooses how a depthwise kernel is cut: piece (i, j) is `kernel[i::step_down, j::step_right]`.

    Args:
        side: Odd side of the kernel.
        integer: Whether the pieces are computed in int8.

    Returns:
        (step_down, step_right); (1, 1) where a kernel stays whole.
    """
    costs = _INTEGER_PIECE_COST if integer else _PIECE_COST

    def cost(step_down, step_right):
        total = 0
        for i in range(step_down):
            for j in range(step_right):
                taps = len(range(i, side, step_down)) * len(range(j, side, step_right))
                fitting = [c for size, c in costs.items() if taps <= size]
                total += fitting[0] if fitting else np.inf
        return total

    # With steps up to the reach + 1 every piece spans the centre, so that none needs its input cropped.
    steps = range(1, side // 2 + 2)
    return min(((down, right) for down in steps for right in steps), key=lambda pair: cost(*pair))


def _groups(channels):
    """In how many equal groups the channels are taken; 1 where they do not divide well."""
    for groups in range(-(-channels // _GROUP_CHANNELS), channels // 64 + 1):
        if channels % (16 * groups) == 0:
            return groups
    return 1


def _split(x, groups, name):
    if groups == 1:
        return [x]
    return list(keras.ops.split(x, groups, axis=-1))


def _joined(parts, name):
    if len(parts) == 1:
        return parts[0]
    return keras.layers.Concatenate(dtype="float32", name=name)(parts)


def _affine(x, scale, shift, name):
    layer = keras.layers.DepthwiseConv2D(
        1,
        use_bias=shift is not None,
        data_format="channels_last",
        dtype="float32",
        depthwise_initializer="zeros",
        name=name,
    )
    return _weighted(layer, x, scale[None, None, :, None], *([] if shift is None else [shift]))


def _activated(x, activation, name):
    if activation is keras.activations.linear:
        return x
    return keras.layers.Activation(activation, dtype="float32", name=name)(x)


def _options(name):
    return {"data_format": "channels_last", "dtype": "float32", "kernel_initializer": "zeros", "name": name}


def _weighted(layer, x, *weights):
    y = layer(x)
    layer.set_weights([w.astype(np.float32) for w in weights])
    return y


def _numpy_weights(layer):
    return [keras.ops.convert_to_numpy(w) for w in layer.weights]
