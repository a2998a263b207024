"""Which classes score highest, and how good that is: mean cross-entropy, top-1 and top-5."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from convmixer_keras.utils.errors import InputError

MOST_MISTAKES = 48
SCORES = ("logits", "probabilities")  # What a caller may say that a model's outputs are.
# What a probability of 0, as int8 files give it, counts as: the epsilon of Keras' cross-entropy.
_FOR_ZERO = 1e-7


class Mistake(NamedTuple):
    """An image, by its number from 0 in the order of evaluation, that was taken for another class.

    `truth` and `taken_for` are numbers of classes, `probability` is that of the second, 0..1.
    """

    image: int
    truth: int
    taken_for: int
    probability: float


class Scores(NamedTuple):
    """How a model does on a split.

    Attributes:
        loss: Mean cross-entropy in nats.
        top1, top5: Accuracies, 0..1.
        images: Over how many images.
        confusion: How many images of class i (row) were taken for class j (column), an integer array
            (classes, classes).
        mistakes: The `MOST_MISTAKES` most confident `Mistake`s, the most confident first.
        split: Name of the split, or None.
        class_names: Its class names, or None.
        named_images: Function from numbers of images to a dictionary from each to its name and the image, as
            a `Preprocessing` takes it; or None.
    """

    loss: float
    top1: float
    top5: float
    images: int
    confusion: np.ndarray
    mistakes: list[Mistake]
    split: str | None = None
    class_names: list[str] | None = None
    named_images: Callable | None = None

    def of_classes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns precision, recall and F1 of each class, three float arrays (classes,), 0..1.

        A class without images has no recall, NaN; if none was taken for it either, no precision and no F1.
        The precision of another class that no image was taken for is 0.
        """
        right, there, taken = self.confusion.diagonal(), self.confusion.sum(1), self.confusion.sum(0)
        with np.errstate(invalid="ignore"):
            precision = right / np.where(there > 0, np.maximum(taken, 1), taken)
            return precision, right / there, 2 * right / (there + taken)


def shows_top5(classes):
    """Whether top-5 is worth showing: of five classes or fewer it is 100 % for any network."""
    return classes > 5


def best(scores, k):
    """Returns the numbers of the `k` highest scores of each row (rows, classes), the highest first.

    Of equal scores the first one comes first, as with `argmax`.

    Raises:
        InputError: If a score is NaN, which has no place in an order.
    """
    scores = np.asarray(scores, np.float64)
    if np.isnan(scores).any():
        raise InputError("scores must be numbers, and hold NaN")
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def scores_of(batches):
    """Returns the `Scores` of batches: pairs of probabilities (n, classes) and integer labels (n,).

    Raises:
        InputError: If there are no images, labels are not an integer for each image, one is none of the
            classes, or a probability is NaN.
    """
    found, of_truth, of_found, truth = [], [], [], []
    for probabilities, labels in batches:
        labels = np.asarray(labels)
        if labels.shape != (len(probabilities),) or labels.dtype.kind not in "ui":
            raise InputError(
                f"labels must be {len(probabilities)} integers, got {labels.dtype} of shape {labels.shape}"
            )
        if (wrong := labels[(labels < 0) | (labels >= probabilities.shape[1])]).size:
            raise InputError(f"labels must be from 0 to {probabilities.shape[1] - 1}, got {wrong[0]}")
        found.append(best(probabilities, 5))
        # As in Keras' cross-entropy, of what the scores add up to: sigmoids, and int8 ones, to about 1 only.
        shares = probabilities / np.maximum(probabilities.sum(1, keepdims=True), _FOR_ZERO)
        of_truth.append(shares[np.arange(len(labels)), labels])
        of_found.append(shares.max(1))
        truth.append(labels)
    if not any(map(len, truth)):
        raise InputError("there are no images to evaluate on")
    found, of_truth, of_found, truth = map(np.concatenate, (found, of_truth, of_found, truth))
    of_truth = np.where(of_truth > 0, of_truth, _FOR_ZERO).astype(np.float64)
    classes = probabilities.shape[1]
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (truth, found[:, 0]), 1)
    hits = found == truth[:, None]
    wrong = np.flatnonzero(~hits[:, 0])
    wrong = wrong[np.argsort(-of_found[wrong], kind="stable")][:MOST_MISTAKES]
    return Scores(
        loss=float(-np.log(of_truth).mean()),
        top1=float(hits[:, 0].mean()),
        top5=float(hits.any(1).mean()),
        images=len(truth),
        confusion=confusion,
        mistakes=[Mistake(int(i), int(truth[i]), int(found[i, 0]), float(of_found[i])) for i in wrong],
    )


def softmax(logits):
    """Returns probabilities (..., classes) of logits, float32."""
    powers = np.exp(logits - np.max(logits, -1, keepdims=True))
    return (powers / powers.sum(-1, keepdims=True)).astype(np.float32)
