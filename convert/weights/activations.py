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
    """Returns one of `RANGES` for the name that Keras, TensorFlow or PyTorch gives it, or None."""
    name = {"swish": "silu", "hard_swish": "hard_silu"}.get(str(name), name)
    return name if str(name) in RANGES else None


def running_mean_range(recognised):
    """Returns the least and the largest running mean of a `Recognised`, each as (value, tensor's name)."""
    means = [
        (stored.read(), recognised.keys[name])
        for name, stored in recognised.tensors.items()
        if name[1] == "running_mean"
    ]
    least = min((float(mean.min()), key) for mean, key in means)
    return least, max((float(mean.max()), key) for mean, key in means)


def possible(least, largest):
    """Returns the names of the activations that running means within these bounds can have come from."""
    return [
        name
        for name, (low, high) in RANGES.items()
        if least[0] >= low - _ROUNDING and largest[0] <= high + _ROUNDING
    ]


def check(activation, recognised, source):
    """Raises InputError if the running means show that an activation is not the network's.

    Args:
        activation: One of `RANGES`.
        recognised: A `Recognised`.
        source: The file, for the message, which lists the activations that remain.
    """
    least, largest = running_mean_range(recognised)
    remaining = possible(least, largest)
    if activation in remaining:
        return
    low, high = RANGES[activation]
    value, key = least if least[0] < low else largest
    bound = f"below {low:g}" if least[0] < low else f"above {high:g}"
    others = f"{', '.join(remaining)} ({arg('activation')})" if remaining else "no activation that is known"
    raise InputError(
        f"{source} cannot have {activation}, which gives nothing {bound}: {key} has a running mean of "
        f"{value:.3g}. Its running means allow {others}"
    )
