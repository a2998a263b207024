"""How good predictions are: mean cross-entropy, top-1 and top-5."""

from typing import NamedTuple

import numpy as np

# As Keras' cross-entropy over probabilities has it, so that a probability of 0 has a finite loss.
_LEAST_PROBABILITY = 1e-7


class Scores(NamedTuple):
    """How a model does on a split.

    Attributes:
        loss: Mean cross-entropy in nats.
        top1, top5: Accuracies, 0..1.
        images: Over how many images.
        split: Name of the split, or None.
        class_names: Its class names, or None.
        confusion: How many images of class i (row) were taken for class j (column), an integer array
            (classes, classes); None where it was not asked for.
    """

    loss: float
    top1: float
    top5: float
    images: int
    split: str | None = None
    class_names: list[str] | None = None
    confusion: np.ndarray | None = None

    @property
    def accuracy_of_class(self):
        """Share of each class's images that were taken for it, 0..1; NaN for a class without images."""
        with np.errstate(invalid="ignore"):
            return self.confusion.diagonal() / self.confusion.sum(1)


def scores(probabilities, labels):
    """Returns the `Scores` of probabilities (images, classes) for integer labels (images,)."""
    probabilities, labels = np.asarray(probabilities, np.float64), np.asarray(labels)
    of_truth = probabilities[np.arange(len(labels)), labels]
    ranks = (probabilities > of_truth[:, None]).sum(1)
    loss = -np.log(np.clip(of_truth, _LEAST_PROBABILITY, 1)).mean()
    return Scores(float(loss), float((ranks < 1).mean()), float((ranks < 5).mean()), len(labels))


def softmax(logits):
    """Returns probabilities (..., classes) of logits, float32."""
    powers = np.exp(logits - np.max(logits, -1, keepdims=True))
    return (powers / powers.sum(-1, keepdims=True)).astype(np.float32)
