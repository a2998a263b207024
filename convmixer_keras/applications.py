"""The named builders: the paper's variants under their own names."""

import os
import sys

from convmixer_keras import pretrained
from convmixer_keras.models import presets
from convmixer_keras.models.convmixer import ConvMixer
from convmixer_keras.utils import checks, hub
from convmixer_keras.utils.errors import InputError


def ConvMixer1536_20(
    *,
    include_preprocessing=False,
    include_top=True,
    weights=None,
    input_tensor=None,
    input_shape=None,
    pooling=None,
    classes=None,
    classifier_activation=None,
    name="ConvMixer1536_20",
):
    """ConvMixer-1536/20: patch 7, kernel 9, GELU. The paper's most accurate network.

    51.6 M parameters, 51.10 G multiply-adds at 224x224; published ImageNet top-1 81.37 %, top-5 95.61 %.

    Args: As in `ConvMixer`, and
        include_preprocessing: Whether the model takes pixels 0..255, and normalises them by ImageNet's mean
            and standard deviation.
        weights: As in `ConvMixer`, or "imagenet" for the published ones, fetched on first use; with other
            `classes` or without the top, only those of the body.
        input_shape, classes: By default (224, 224, 3) and 1000.
    """
    return _build(presets.CONVMIXER_1536_20, **locals())


def ConvMixer768_32(
    *,
    include_preprocessing=False,
    include_top=True,
    weights=None,
    input_tensor=None,
    input_shape=None,
    pooling=None,
    classes=None,
    classifier_activation=None,
    name="ConvMixer768_32",
):
    """ConvMixer-768/32: patch 7, kernel 7, ReLU.

    21.1 M parameters, 20.68 G multiply-adds at 224x224; published ImageNet top-1 80.16 %, top-5 95.08 %.

    Args: As in `ConvMixer`, and
        include_preprocessing: Whether the model takes pixels 0..255, and normalises them by ImageNet's mean
            and standard deviation.
        weights: As in `ConvMixer`, or "imagenet" for the published ones, fetched on first use; with other
            `classes` or without the top, only those of the body.
        input_shape, classes: By default (224, 224, 3) and 1000.
    """
    return _build(presets.CONVMIXER_768_32, **locals())


def ConvMixer1024_20(
    *,
    include_preprocessing=False,
    include_top=True,
    weights=None,
    input_tensor=None,
    input_shape=None,
    pooling=None,
    classes=None,
    classifier_activation=None,
    name="ConvMixer1024_20",
):
    """ConvMixer-1024/20: patch 14, kernel 9, GELU. The fastest with published weights.

    24.4 M parameters, 5.95 G multiply-adds at 224x224; published ImageNet top-1 76.94 %, top-5 93.36 %.

    Args: As in `ConvMixer`, and
        include_preprocessing: Whether the model takes pixels 0..255, and normalises them by ImageNet's mean
            and standard deviation.
        weights: As in `ConvMixer`, or "imagenet" for the published ones, fetched on first use; with other
            `classes` or without the top, only those of the body.
        input_shape, classes: By default (224, 224, 3) and 1000.
    """
    return _build(presets.CONVMIXER_1024_20, **locals())


def ConvMixer1536_20_P14(
    *,
    include_preprocessing=False,
    include_top=True,
    weights=None,
    input_tensor=None,
    input_shape=None,
    pooling=None,
    classes=None,
    classifier_activation=None,
    name="ConvMixer1536_20_P14",
):
    """ConvMixer-1536/20 with patch 14: kernel 9, GELU.

    52.3 M parameters, 12.95 G multiply-adds at 224x224; the paper reports ImageNet top-1 78.9 %, and its
    weights were never released.

    Args: As in `ConvMixer`, and
        include_preprocessing: Whether the model takes pixels 0..255, and normalises them by ImageNet's mean
            and standard deviation.
        input_shape, classes: By default (224, 224, 3) and 1000.
    """
    return _build(presets.CONVMIXER_1536_20_P14, **locals())


def ConvMixer512_16(
    *,
    include_preprocessing=False,
    include_top=True,
    weights=None,
    input_tensor=None,
    input_shape=None,
    pooling=None,
    classes=None,
    classifier_activation=None,
    name="ConvMixer512_16",
):
    """ConvMixer-512/16: patch 7, kernel 8, GELU.

    5.4 M parameters, 4.91 G multiply-adds at 224x224; the paper reports ImageNet top-1 73.76 %, and its
    weights were never released. `convmixer-convert` reads those that keras-cv trained for it.

    Args: As in `ConvMixer`, and
        include_preprocessing: Whether the model takes pixels 0..255, and normalises them by ImageNet's mean
            and standard deviation.
        input_shape, classes: By default (224, 224, 3) and 1000.
    """
    return _build(presets.CONVMIXER_512_16, **locals())


def ConvMixer256_8(
    *,
    include_preprocessing=False,
    include_top=True,
    weights=None,
    input_tensor=None,
    input_shape=None,
    pooling=None,
    classes=None,
    classifier_activation=None,
    name="ConvMixer256_8",
):
    """ConvMixer-256/8 for CIFAR-10: patch 1, kernel 9, GELU.

    0.7 M parameters, 0.71 G multiply-adds at 32x32; the paper reports over 96 % on CIFAR-10, without an exact
    figure. The recipe `cifar10` trains the authors' faster network, `ConvMixer256_8_P2`.

    Args: As in `ConvMixer`, and
        include_preprocessing: Whether the model takes pixels 0..255, and normalises them by CIFAR-10's mean
            and standard deviation.
        input_shape, classes: By default (32, 32, 3) and 10.
    """
    return _build(presets.CONVMIXER_256_8, **locals())


def ConvMixer256_8_P2(
    *,
    include_preprocessing=False,
    include_top=True,
    weights=None,
    input_tensor=None,
    input_shape=None,
    pooling=None,
    classes=None,
    classifier_activation=None,
    name="ConvMixer256_8_P2",
):
    """ConvMixer-256/8 of the authors' CIFAR-10 script: patch 2, kernel 5, GELU. Its weights come along.

    0.6 M parameters, 0.15 G multiply-adds at 32x32; CIFAR-10 top-1 89.44 % with `weights="cifar10"`, our own
    of the recipe `cifar10_fast`, 25 epochs.

    Args: As in `ConvMixer`, and
        include_preprocessing: Whether the model takes pixels 0..255, and normalises them by CIFAR-10's mean
            and standard deviation.
        weights: As in `ConvMixer`, or "cifar10" for those in this package; with other `classes` or without
            the top, only those of the body.
        input_shape, classes: By default (32, 32, 3) and 10.
    """
    return _build(presets.CONVMIXER_256_8_P2, **locals())


def _build(
    preset,
    *,
    include_preprocessing=False,
    include_top=True,
    weights=None,
    input_tensor=None,
    input_shape=None,
    classes=None,
    **options,
):
    checks.boolean("include_preprocessing", include_preprocessing)
    if input_shape is None and input_tensor is None:
        input_shape = (preset.image_size, preset.image_size, 3)
    if include_top and classes is None:
        classes = preset.classes
    _check_weights(weights, preset)
    model = ConvMixer(
        preset.hidden_dim,
        preset.depth,
        preset.kernel_size,
        preset.patch_size,
        activation=preset.activation,
        input_mean=[255 * m for m in preset.mean] if include_preprocessing else None,
        input_std=[255 * s for s in preset.std] if include_preprocessing else None,
        include_top=include_top,
        input_tensor=input_tensor,
        input_shape=input_shape,
        classes=classes,
        weights=None if weights in pretrained.NAMES else weights,
        **options,
    )
    if weights in pretrained.NAMES:
        pretrained.load_published_weights(model, preset)
    return model


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


def default_builder():
    """Returns the default builder: ConvMixer1024_20 if its weights have been fetched.

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
