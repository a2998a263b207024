"""How good predictions are: mean cross-entropy, top-1 and top-5."""

from typing import NamedTuple

import numpy as np

# As Keras' cross-entropy over probabilities has it, so that a probability of 0 has a finite loss.
_LEAST_PROBABILITY = 1e-7


class Scores(NamedTuple):
    """Mean cross-entropy in nats, accuracies 0..1, and over how many images."""

    loss: float
    top1: float
    top5: float
    images: int


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
