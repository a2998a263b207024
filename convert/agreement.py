"""Whether two networks compute the same: a file and its model, Keras and PyTorch."""

from typing import NamedTuple

import numpy as np

from convmixer_keras.utils.errors import Failure

# Of the largest logit. Float32 in another order of additions gives 1e-7 to 1e-5.
TOLERANCE = 1e-4
_SMALLEST = 1e-3  # Outputs smaller than this are compared as if they had this size.


class Agreement(NamedTuple):
    """How far two networks' outputs on the same images are apart.

    Attributes:
        difference: The largest between any two outputs.
        largest: The largest output of the network compared with, absolute.
        same_top1: On how many images the highest output is the same; None where the outputs are no classes.
        images: How many were compared.
    """

    difference: float
    largest: float
    same_top1: int | None
    images: int

    def __str__(self):
        what = "feature" if self.same_top1 is None else "logit"
        words = f"largest {what} difference {self.difference:.2e} (largest {what} {self.largest:.3g})"
        if self.same_top1 is not None:
            words += f", same top-1 on {self.same_top1} of {self.images}"
        return words


def check(got, expected, between, *, features=False, tolerance=TOLERANCE, mean_tolerance=None):
    """Returns the `Agreement` of two arrays of logits, or of features, one row for each image.

    Not of probabilities: of many classes all are small, and so are their differences.

    Args:
        got, expected: The arrays, of one shape.
        between: Names both for the message, `expected`'s last: "ONNX Runtime and Keras".
        features: Whether the outputs are features and not logits.
        tolerance: How large the largest difference may be, as a share of the largest of `expected`.
        mean_tolerance: For weights in fewer bits, in place of `tolerance`: how large the root mean square
            of the differences may be, as a share of that of `expected`.

    Raises:
        Failure: If they differ by more, or an output is NaN or infinite.
    """
    if np.shape(got) != np.shape(expected):
        raise Failure(f"{between} give different shapes, {np.shape(got)} and {np.shape(expected)}")
    if not (np.isfinite(got).all() and np.isfinite(expected).all()):
        raise Failure(f"{between} cannot be compared: some are NaN or infinite; nothing was written")
    difference = np.abs(np.subtract(got, expected, dtype=np.float64))
    same_top1 = None if features else int(np.sum(_top1(got) == _top1(expected)))
    found = Agreement(float(difference.max()), float(np.abs(expected).max()), same_top1, len(expected))
    size, share, limit = "the largest output", found.difference / max(found.largest, _SMALLEST), tolerance
    if mean_tolerance is not None:
        size, limit = "the outputs' root mean square", mean_tolerance
        share = _root_mean_square(difference) / max(_root_mean_square(expected), _SMALLEST)
    if share > limit:
        raise Failure(
            f"{between} differ by {share:.2g} of {size}, over {limit:g}: {found}; nothing was written"
        )
    return found


def outputs_of(model, images):
    """Returns what a `keras.Model` gives for an array of images, as an array."""
    import keras

    with keras.device("cpu:0"):  # A GPU may compute convolutions with fewer bits.
        (outputs,) = keras.tree.flatten(model(images, training=False))  # It may be in a dictionary.
        return keras.ops.convert_to_numpy(outputs)


def _top1(logits):
    # One logit is "yes" from 0 on.
    return logits[:, 0] > 0 if logits.shape[-1] == 1 else logits.argmax(-1)


def _root_mean_square(values):
    return np.sqrt(np.mean(np.square(values, dtype=np.float64)))
