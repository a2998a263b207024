"""Which activations a network's running means allow: a check of what a file does not say.

In a ConvMixer every normalisation follows an activation, so that a running mean below the activation's
minimum, or above its maximum, cannot have come from it.
"""

import math

from convmixer_keras.utils.errors import InputError, arg

# The least and the largest value of each; those that the PyTorch network has, too.
RANGES = {
    "elu": (-1.0, math.inf),
    "gelu": (-0.16998, math.inf),
    "hard_silu": (-0.375, math.inf),
    "mish": (-0.30885, math.inf),
    "relu": (0.0, math.inf),
    "relu6": (0.0, 6.0),
    "selu": (-1.75810, math.inf),
    "silu": (-0.27847, math.inf),
    "tanh": (-1.0, 1.0),
}
_ROUNDING = 1e-3  # Of float16 weights, and of sums.


def known_name(name):
    """Returns one of `RANGES` for what Keras calls an activation's function, operation or layer, or None."""
    name = str(name).lower().replace("_", "").replace("swish", "silu")
    return next((known for known in RANGES if known.replace("_", "") == name), None)


def check(activation, checkpoint):
    """Raises InputError if the running means show that an activation of `RANGES` is not the network's."""
    remaining = allowed(checkpoint)
    if activation in remaining:
        return
    (low, high), (least, largest) = RANGES[activation], _extremes(checkpoint)
    (value, key), bound = (least, f"below {low:g}") if least[0] < low else (largest, f"above {high:g}")
    others = f"{', '.join(remaining)} ({arg('activation')})" if remaining else "no activation that is known"
    raise InputError(
        f"{checkpoint.path} cannot have {activation}, which gives nothing {bound}: {key} has a running mean "
        f"of {value:.3g}. Its running means allow {others}"
    )


def allowed(checkpoint):
    """Returns the names of the activations that the running means can have come from."""
    (least, _), (largest, _) = _extremes(checkpoint)
    return [
        name
        for name, (low, high) in RANGES.items()
        if least >= low - _ROUNDING and largest <= high + _ROUNDING
    ]


def _extremes(checkpoint):
    """Returns the least and the largest running mean, each as (value, tensor's name in the file)."""
    means = [
        (stored.read(), checkpoint.keys[name])
        for name, stored in checkpoint.tensors.items()
        if name[1] == "running_mean"
    ]
    least = min((float(mean.min()), key) for mean, key in means)
    return least, max((float(mean.max()), key) for mean, key in means)
