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
    cost = f"{preset.parameters / 1e6:.1f} M parameters, {preset.multiply_adds / 1e9:.2f} G multiply-adds"
    if preset.weights:
        published = f""", or "{preset.weights}" for the published ones; with other `classes` or
            without the top, only those of the body"""
    return f"""ConvMixer-{preset.hidden_dim}/{preset.depth}: {about}

    {_accuracy(preset)}{cost}
    at {size}x{size}; patch {preset.patch_size}, kernel {preset.kernel_size}, activation {preset.activation}.
    Arguments that are not described here are those of `ConvMixer`.

    Args:
        include_preprocessing: Whether the model takes pixels 0..255 and normalises them, by the
            mean {preset.mean} and the deviation {preset.std} of 0..1.
        weights: As in `ConvMixer`{published}.
        input_shape: By default ({size}, {size}, 3), or the shape of `input_tensor`.
        classes: By default {preset.classes}. Only with `include_top=True`.

    Returns:
        A `keras.Model`, as `ConvMixer` does.
    """


def _accuracy(preset):
    if preset.top1 is None:
        return ""
    top5 = f", top-5 {preset.top5} %" if preset.top5 else ""
    return f"{'CIFAR-10' if preset.classes == 10 else 'ImageNet'} top-1 {preset.top1} %{top5}. "


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


ConvMixer1536_20 = _builder(presets.CONVMIXER_1536_20, "the paper's most accurate network.")
ConvMixer768_32 = _builder(presets.CONVMIXER_768_32, "the paper's network with ReLU.")
ConvMixer1024_20 = _builder(presets.CONVMIXER_1024_20, "the fastest with published weights.")
ConvMixer1536_20_P14 = _builder(
    presets.CONVMIXER_1536_20_P14, "in the paper's table; its weights were never released."
)
ConvMixer512_16 = _builder(
    presets.CONVMIXER_512_16,
    "in the paper's table; its weights were never released. `convmixer-convert` reads keras-cv's.",
)
ConvMixer256_8 = _builder(presets.CONVMIXER_256_8, "96.03 % on CIFAR-10 by the paper's Table 4.")
ConvMixer256_8_P2 = _builder(
    presets.CONVMIXER_256_8_P2, "the network of the authors' CIFAR-10 script, with our own weights."
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
