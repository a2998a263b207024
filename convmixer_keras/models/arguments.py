"""Checks of the arguments that a ConvMixer is built with."""

import keras
import numpy as np

from convmixer_keras.models.inputs import OPEN_SIZE
from convmixer_keras.utils.checks import boolean, positive_int
from convmixer_keras.utils.errors import InputError

DEFAULT_CLASSES = 1000
MOST_PARAMETERS = 10**9  # 4 GB; the largest published network has 52 million.


def activation_name(name, value):
    """Only names: a function would make the saved model depend on `custom_objects`."""
    wanted = f"{name} must be the name of a Keras activation such as 'gelu' or 'relu', got {value!r}"
    if not isinstance(value, str):
        raise TypeError(wanted)
    try:
        given = keras.ops.zeros((1, 4))
        keeps_channels = keras.ops.shape(keras.activations.get(value)(given)) == given.shape
    except (ValueError, TypeError, AttributeError):
        raise InputError(wanted) from None
    if not keeps_channels:  # Such as "glu".
        raise InputError(f"{name} must keep the number of channels, got {value!r}")


def top_arguments(include_top, classes, classifier_activation):
    """Returns the number of classes, or None for a model without its top."""
    boolean("include_top", include_top)
    if include_top:
        if classifier_activation is not None:
            activation_name("classifier_activation", classifier_activation)
        return positive_int("classes", DEFAULT_CLASSES if classes is None else classes)
    for name, value in (("classes", classes), ("classifier_activation", classifier_activation)):
        if value is not None:
            raise InputError(
                f"{name} is only allowed with include_top=True, got include_top=False and {name}={value!r}"
            )
    return None


def image_shape(input_shape, input_tensor, patch_size):
    """Returns (height or None, width or None, channels) of the images that the model takes."""
    if input_tensor is not None:
        if not isinstance(input_tensor, keras.KerasTensor):
            raise TypeError(
                "input_tensor must be a Keras tensor, such as keras.Input(...) or a layer's output, "
                f"got {type(input_tensor).__name__}"
            )
        tensor_shape = tuple(input_tensor.shape[1:])
        if input_shape is not None and tuple(input_shape) != tensor_shape:
            raise InputError(
                "input_shape must equal the shape of input_tensor without its batch dimension, "
                f"{tensor_shape}, or be left out, got {input_shape}"
            )
        input_shape = tensor_shape
    elif input_shape is None:
        input_shape = (OPEN_SIZE, OPEN_SIZE, 3)

    try:
        height, width, channels = input_shape
        sides = [None if side is None else positive_int("side", side) for side in (height, width)]
        channels = positive_int("channels", channels)
    except (TypeError, ValueError):
        raise InputError(
            "input_shape must be (height, width, channels) with positive integers, or None for a free height "
            f"or width, got {input_shape!r}"
        ) from None
    if any(side is not None and side < patch_size for side in sides):
        raise InputError(
            f"input_shape must be at least patch_size={patch_size} high and wide, got {input_shape}"
        )
    return (*sides, channels)


def network_size(hidden_dim, depth, kernel_size, patch_size, channels, classes):
    """Raises InputError if a ConvMixer would have more than `MOST_PARAMETERS`, before they are allocated."""
    block = hidden_dim * (hidden_dim + kernel_size**2)
    parameters = hidden_dim * channels * patch_size**2 + depth * block + hidden_dim * (classes or 0)
    if parameters > MOST_PARAMETERS:
        raise InputError(
            f"a ConvMixer of hidden_dim {hidden_dim}, depth {depth}, kernel_size {kernel_size}, patch_size "
            f"{patch_size} and {classes or 0} classes has over {MOST_PARAMETERS:,} parameters"
        )


def mean_and_std(mean, std, channels):
    """Returns two lists of `channels` floats, or (None, None)."""
    if (mean is None) != (std is None):
        raise InputError(
            "input_mean and input_std must be given together or not at all, "
            f"got input_mean={mean!r} and input_std={std!r}"
        )
    if mean is None:
        return None, None
    mean = _per_channel("input_mean", mean, channels)
    std = _per_channel("input_std", std, channels)
    if not min(std) > 0:
        raise InputError(f"input_std must be positive, in units of 0..255, got {std}")
    return mean, std


def _per_channel(name, value, channels):
    try:
        values = np.asarray(value)
        if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
            raise ValueError
        return np.broadcast_to(values, channels).astype(float).tolist()
    except ValueError:
        raise InputError(
            f"{name} must be one finite number or {channels} of them, one for each channel, got {value!r}"
        ) from None
