"""Whether a converted file computes what its model does."""

import numpy as np

from convmixer_keras.utils.errors import Failure, InputError

# Root mean square of the difference over that of the model's outputs, by mode. Trained networks have 1e-6 in
# float32, 1e-3 in float16, 0.02 in dynamic and 0.1 in int8; random weights of a full-size network up to 0.3
# in dynamic and 0.92 in int8. A file that gives zeros has 1, one that computes something else about 1.4.
TOLERANCES = {"float32": 1e-3, "float16": 0.03, "dynamic": 0.6, "int8": 0.97}


def check_finite_outputs(outputs):
    """Raises InputError if a model gives NaN or infinite outputs, which cannot be compared."""
    if not np.isfinite(outputs).all():
        raise InputError("the model gives NaN or infinite outputs: there is nothing to convert")


def check_agreement(got, expected, mode):
    """Raises Failure if a file's outputs differ from its model's by more than its mode can explain.

    Args:
        got, expected: Outputs of the file and of the model, of the same shape.
        mode: A key of `TOLERANCES`.
    """
    if not np.isfinite(got).all():
        raise Failure(f"the {mode} file gives NaN or infinite outputs; nothing was written")
    size = np.sqrt(np.mean(np.square(expected, dtype=np.float64)))
    difference = np.sqrt(np.mean(np.square(got.astype(np.float64) - expected)))
    relative = difference / max(size, 1e-6)
    if relative > TOLERANCES[mode]:
        raise Failure(
            f"the {mode} file disagrees with the model: outputs differ by {relative:.2g} of their size (root "
            f"mean square), over {TOLERANCES[mode]:g}; nothing was written"
        )
