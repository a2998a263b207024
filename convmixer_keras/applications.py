"""The named builders: the paper's variants under their own names."""

import os
import sys

import keras

from convmixer_keras import pretrained
from convmixer_keras.models import arguments, presets
from convmixer_keras.models.convmixer import ConvMixer
from convmixer_keras.utils import checks, hub
from convmixer_keras.utils.errors import InputError
from convmixer_keras.utils.files import Path


def _builder(preset, about):
    """Returns the function that builds a variant; `about` is a sentence of its docstring."""

    def build(
        *,
        include_preprocessing: bool = False,
        include_top: bool = True,
        weights: Path | None = None,
        input_tensor: keras.KerasTensor | None = None,
        input_shape: tuple[int | None, int | None, int] | None = None,
        pooling: str | None = None,
        classes: int | None = None,
        classifier_activation: str | None = None,
        name: str = preset.name,
    ) -> keras.Model:
        checks.boolean("include_preprocessing", include_preprocessing)
        if input_shape is None and input_tensor is None:
            input_shape = (preset.image_size, preset.image_size, 3)
        _check_weights(weights, preset)
        channels = arguments.image_shape(input_shape, input_tensor, preset.patch_size)[-1]

        def pixels(values):
            return [255 * value for value in presets.for_channels(values, channels)]

        model = ConvMixer(
            preset.hidden_dim,
            preset.depth,
            preset.kernel_size,
            preset.patch_size,
            activation=preset.activation,
            input_mean=pixels(preset.mean) if include_preprocessing else None,
            input_std=pixels(preset.std) if include_preprocessing else None,
            include_top=include_top,
            weights=None if weights in pretrained.NAMES else weights,
            input_tensor=input_tensor,
            input_shape=input_shape,
            pooling=pooling,
            classes=preset.classes if include_top and classes is None else classes,
            classifier_activation=classifier_activation,
            name=name,
        )
        if weights in pretrained.NAMES:
            pretrained.load_published_weights(model, preset)
        return model

    build.__name__ = build.__qualname__ = preset.name
    build.__doc__ = _docstring(preset, about)
    return build


def _docstring(preset, about):
    size, published = preset.image_size, ""
    if preset.weights:
        published = f""", or "{preset.weights}" for the published ones; with other `classes` or
            without the top, only those of the body"""
    return f"""ConvMixer-{preset.hidden_dim}/{preset.depth}: {about}

    {preset.parameters / 1e6:.1f} M parameters, {preset.multiply_adds / 1e9:.2f} G multiply-adds
    at {size}x{size}; patch {preset.patch_size}, kernel {preset.kernel_size}, activation {preset.activation}.

    Args: As in `ConvMixer`, and
        include_preprocessing: Whether the model takes pixels 0..255 and normalises them, by the
            mean {preset.mean} and the deviation {preset.std} of 0..1.
        weights: As in `ConvMixer`{published}.
        input_shape, classes: By default ({size}, {size}, 3) and {preset.classes}.
    """


def _check_weights(weights, preset):
    """Raises InputError for `weights` that do not exist, before a large model is built."""
    if weights is None or hub.is_name(weights):
        return
    if weights in pretrained.NAMES:
        pretrained.check_published(preset, weights)
    elif not os.path.isfile(os.path.expanduser(weights)):
        published = f"{preset.weights!r}, " if preset.weights else ""
        raise InputError(
            f"weights must be None, {published}'hf://USER/REPO' or the path of a .keras or .weights.h5 file, "
            f"got {os.fspath(weights)!r}: there is no such file"
        )


ConvMixer1536_20 = _builder(
    presets.CONVMIXER_1536_20, "the paper's most accurate network, ImageNet top-1 81.37 %, top-5 95.61 %."
)
ConvMixer768_32 = _builder(
    presets.CONVMIXER_768_32, "the paper's network with ReLU, ImageNet top-1 80.16 %, top-5 95.08 %."
)
ConvMixer1024_20 = _builder(
    presets.CONVMIXER_1024_20,
    "the fastest with published weights, ImageNet top-1 76.94 %, top-5 93.36 %.",
)
ConvMixer1536_20_P14 = _builder(
    presets.CONVMIXER_1536_20_P14, "ImageNet top-1 78.9 % in the paper; its weights were never released."
)
ConvMixer512_16 = _builder(
    presets.CONVMIXER_512_16,
    "ImageNet top-1 73.76 % in the paper. `convmixer-convert` reads keras-cv's weights for it.",
)
ConvMixer256_8 = _builder(
    presets.CONVMIXER_256_8, "over 96 % on CIFAR-10 in the paper, which gives no exact figure."
)
ConvMixer256_8_P2 = _builder(
    presets.CONVMIXER_256_8_P2,
    "the network of the authors' CIFAR-10 script, with our own weights: CIFAR-10 top-1 89.44 %.",
)


def default_builder():
    """Returns the name of a builder: ConvMixer1024_20 if its weights have been fetched.

    Otherwise it is the one whose weights come with this package, with a note on standard error.
    """
    if pretrained.are_here(presets.CONVMIXER_1024_20):
        return presets.CONVMIXER_1024_20.name
    name = presets.CONVMIXER_256_8_P2.name
    print(
        f"note: using {name} (CIFAR-10, ten classes); pass {presets.CONVMIXER_1024_20.name} to download the "
        "ImageNet weights",
        file=sys.stderr,
    )
    return name
