"""Whether two networks compute the same: a file and its model, Keras and PyTorch."""

from typing import NamedTuple

import numpy as np

from convmixer_keras.utils.errors import Failure

# Of the largest logit. Float32 in another order of additions gives 1e-7 to 1e-5.
TOLERANCE = 1e-4
_SMALLEST = 1e-3  # Outputs smaller than this are compared as if they had this size.
# Logits of more than so many times the typical size are no measure: a class that a bias of -1e4 rules out.
_USUAL = 20
_ROUNDING = 1e-6  # Share of an output that may be lost in float32, however large it is.


class Agreement(NamedTuple):
    """How far two networks' outputs on the same images are apart.

    Attributes:
        difference: The largest between any two outputs.
        largest: The largest output of the network compared with, absolute.
        same_top1: On how many images the highest output is the same; None where the outputs are no classes.
        images: How many were compared.
        varies: Whether the outputs compared with depend on the image. Those of a classifier of zeros do not,
            and agree with those of any network.
    """

    difference: float
    largest: float
    same_top1: int | None
    images: int
    varies: bool = True

    def __str__(self):
        what = "feature" if self.same_top1 is None else "logit"
        words = f"largest {what} difference {self.difference:.2e} (largest {what} {self.largest:.3g})"
        if self.same_top1 is not None:
            words += f", same top-1 on {self.same_top1} of {self.images}"
        if not self.varies:
            words += f", but these {what}s are the same for every image"
        return words


def check(
    got, expected, between, *, features=False, probabilities=False, tolerance=TOLERANCE, mean_tolerance=None
):
    """Returns the `Agreement` of two arrays of logits, or of features, one row for each image.

    What all logits of an image have in common, and the few that a large bias sets apart from the others, are
    no measure of a difference: behind them a wrong network would agree with the right one.

    Args:
        got, expected: The arrays, of one shape.
        between: Names both for the message, `expected`'s last: "ONNX Runtime and Keras".
        features: Whether the outputs are features and not logits.
        probabilities: Whether they are probabilities. Of many classes all are small, and so are their
            differences: compare logits, too.
        tolerance: How large the largest difference may be, as a share of the largest of `expected`, or of 20
            times the typical one if that is less.
        mean_tolerance: For weights in fewer bits, in place of `tolerance`: how large the root mean square
            of the differences may be, as a share of that of `expected`.

    Raises:
        Failure: If they differ by more, or an output is NaN or infinite.
    """
    if np.shape(got) != np.shape(expected):
        raise Failure(f"{between} give different shapes, {np.shape(got)} and {np.shape(expected)}")
    if not (np.isfinite(got).all() and np.isfinite(expected).all()):
        raise Failure(f"{between} cannot be compared: some are NaN or infinite; nothing was written")
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    difference, sizes = np.abs(got - expected), np.abs(expected)
    same_top1 = None if features else int(np.sum(_top1(got) == _top1(expected)))
    varies = len(expected) == 1 or bool(np.any(expected != expected[0]))
    found = Agreement(float(difference.max()), float(sizes.max()), same_top1, len(expected), varies)
    if not features and not probabilities:
        got, expected = _apart(got), _apart(expected)
    usual = np.inf if probabilities else _USUAL * _typical(expected)
    if mean_tolerance is None:
        size, limit = "the largest output", tolerance
        share = np.max(difference - _ROUNDING * sizes, initial=0) / max(min(found.largest, usual), _SMALLEST)
    else:
        size, limit = "the outputs' root mean square", mean_tolerance
        counted = np.abs(expected) <= usual
        share = _root_mean_square((got - expected)[counted])
        share /= max(_root_mean_square(expected[counted]), _SMALLEST)
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


def _apart(logits):
    """Returns logits without what those of an image have in common: their median. A single one has none."""
    return logits if logits.shape[-1] == 1 else logits - np.median(logits, axis=-1, keepdims=True)


def _typical(outputs):
    sizes = np.abs(outputs)
    return np.median(sizes[sizes > 0]) if np.any(sizes > 0) else 0.0


def _top1(logits):
    # One logit is "yes" from 0 on.
    return logits[:, 0] > 0 if logits.shape[-1] == 1 else logits.argmax(-1)


def _root_mean_square(values):
    return np.sqrt(np.mean(np.square(values)))
