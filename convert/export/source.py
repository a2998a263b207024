"""What is exported: a model or its file, checked at the door, in float32."""

import dataclasses
import os

from convmixer_keras.images import preprocessing as preprocessing_module
from convmixer_keras.images.reading import MOST_PIXELS
from convmixer_keras.models import inputs, outputs, parts, saving
from convmixer_keras.utils.errors import InputError, arg, first_line


def opened(model, class_names=None, preprocessing=None, size=None):
    """Returns the model, its class names and its `Preprocessing`, either of which may be None.

    The model may be the path of a `.keras` file, whose names and preprocessing count where none are given.
    `size` (height, width) of the images replaces the model's own and what is recorded.

    Raises:
        InputError: If the file cannot be loaded, the model is no ConvMixer with finite weights and a known
            number of channels, the names are not one line for each class, or `size` or `preprocessing` does
            not fit.
    """
    if isinstance(model, (str, os.PathLike)):
        path = os.fspath(model)
        model = saving.load_model(path)
        class_names = saving.load_class_names(path) if class_names is None else class_names
        preprocessing = preprocessing_module.of(path) if preprocessing is None else preprocessing
    found = parts.of(model)
    parts.check_finite(model)
    if model.inputs[0].shape[-1] is None:
        raise InputError(f"{model.name} leaves the number of its channels open: it must be fixed")
    if class_names is not None:
        class_names = [str(name) for name in class_names]
        _check_names(class_names, found.sizes.classes)
    if size is not None:
        check_size(size, found.sizes.patch_size)
        try:
            model = inputs.in_float32(model, size)
        except Exception as error:  # Whatever a layer says that has a fixed size.
            raise InputError(
                f"{model.name} cannot be run on images of {size[0]}x{size[1]}: {first_line(error)}"
            ) from None
        preprocessing = preprocessing and dataclasses.replace(preprocessing, size=size)
    if preprocessing is not None:
        saving.check_preprocessing(model, preprocessing)
    return model, class_names, preprocessing


def check_size(size, patch_size):
    """Raises InputError for images (height, width) that are smaller than one patch, or too large."""
    height, width = size
    if min(size) < patch_size or height * width > MOST_PIXELS:
        raise InputError(
            f"images must be at least {patch_size}x{patch_size}, one patch, and have at most {MOST_PIXELS:,} "
            f"pixels, got {height}x{width}"
        )


def _check_names(names, classes):
    if classes is None:
        raise InputError("labels are the names of classes, and this model has none")
    if len(names) != classes:
        raise InputError(f"there must be {classes} labels, one for each class, got {len(names)}")
    for name in names:
        if name.splitlines() != [name]:
            raise InputError(f"each label must be one line that is not empty, got {name!r}")


def scored(model, logits=False):
    """Returns the float32 model of a file, and what it gives: "probabilities", "logits" or "features".

    `logits` says that the scores stay as they are before a softmax or sigmoid. Without, it is an InputError
    where the classifier ends in another activation.
    """
    model = inputs.in_float32(model)
    found = parts.of(model)
    if found.head is None:
        return model, "features"
    kind = outputs.ending(model).kind
    if logits:
        return model if kind == "other" else outputs.logits_model(model), "logits"
    if kind == "other":
        raise InputError(
            f"{model.name} ends in {found.head_activation!r}, which gives neither logits nor probabilities: "
            f"exported as they are ({arg('logits', True)}) they may be anything"
        )
    return outputs.probabilities(model), "probabilities"
