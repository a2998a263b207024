"""ImageNet's and CIFAR-10's class names, and from scores to names."""

import functools
import importlib.resources
import unicodedata
from collections.abc import Sequence

import numpy as np

from convmixer_keras.images.scores import best
from convmixer_keras.utils import checks
from convmixer_keras.utils.errors import InputError

CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
)  # fmt: skip


def decode_predictions(
    predictions: np.ndarray, top: int = 5, class_names: Sequence[str] | None = None
) -> list[list[tuple]]:
    """Names the highest scores of each row.

    Args:
        predictions: Scores (batch, classes), logits or probabilities: an array or tensor.
        top: How many to name.
        class_names: Sequence of `classes` strings; for a saved model, `load_class_names(path)` gives it.
            None means ImageNet's 1,000 classes.

    Returns:
        For each row a list of (id, name, score), the highest score first. The id is the class's WordNet id,
        such as "n02099601", for ImageNet, and its index as a string for `class_names`.

    Raises:
        InputError: If the shapes and the number of names do not fit together, or a score is NaN.
    """
    predictions = np.asarray(predictions)
    top = checks.positive_int("top", top)
    if predictions.ndim != 2:
        raise InputError(f"predictions must have the shape (batch, classes), got {predictions.shape}")
    if class_names is None:
        classes = imagenet_classes()
    else:
        classes = [(str(i), name) for i, name in enumerate(class_names)]
    if predictions.shape[1] != len(classes):
        raise InputError(
            f"predictions must have one column for each of the {len(classes)} class names, "
            f"got the shape {predictions.shape}"
        )
    return [
        [(*classes[i], float(row[i])) for i in numbers]
        for row, numbers in zip(predictions, best(predictions, top), strict=True)
    ]


@functools.cache
def imagenet_classes():
    """Returns ImageNet's 1,000 classes as pairs of WordNet id and name, in the usual order."""
    file = importlib.resources.files("convmixer_keras.images") / "imagenet_classes.txt"
    return tuple(tuple(line.split(" ", 1)) for line in file.read_text("ascii").splitlines())


@functools.cache
def known_as(name):
    """Returns the name by which classes are compared: in one form of Unicode, of a WordNet id the word."""
    name = unicodedata.normalize("NFC", name)
    return dict(imagenet_classes()).get(name, name)


def is_same_class(name, other):
    """Whether two names mean one class: in either form of Unicode, ImageNet's by WordNet id or by name."""
    return known_as(name) == known_as(other)


def published_classes(weights):
    """Returns the class names of published weights as a list: `weights` is "imagenet" or "cifar10"."""
    return list(CIFAR10_CLASSES) if weights == "cifar10" else [name for _, name in imagenet_classes()]
