"""Tells tensors apart whose names say nothing: by their order, and those of a normalisation by value.

A convolution's weight is followed by its bias, and a normalisation's four vectors stand together. Knows
neither PyTorch nor Keras.
"""

import re

import numpy as np

from convmixer_keras.utils.errors import InputError

# The orders in which programs keep the tensors of a normalisation: PyTorch and Keras, TensorFlow, those that
# keep statistics first, and sorted by PyTorch's names.
_ORDERS = (
    ("weight", "bias", "running_mean", "running_var"),
    ("bias", "weight", "running_mean", "running_var"),
    ("running_mean", "running_var", "weight", "bias"),
    ("bias", "running_mean", "running_var", "weight"),
)


def in_file_order(tensors, in_order):
    """Returns the names in the order of the file, or by their numbers where the file does not keep it."""
    return list(tensors) if in_order else sorted(tensors, key=tokens)


def tokens(name):
    """["blocks.", 10, ".bn", 1, ""]: words at even places, numbers at odd ones."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d{1,9})", name))]


def sequence(tensors, in_order):
    """Cuts a row of tensors into modules.

    Args:
        tensors: Dict from name to an object with a `shape`.
        in_order: Whether they come in the order in which the modules were defined.

    Returns:
        The pairs (weight, bias) of convolutions and matrices, the groups of four vectors that are
        normalisations, and the names that are left over.
    """
    pairs, groups, other, vectors = [], [], [], []
    for name in [*in_file_order(tensors, in_order), None]:
        if name is not None and len(tensors[name].shape) == 1:
            vectors.append(name)
            continue
        if pairs and vectors:
            pairs[-1] = (*pairs[-1], vectors.pop(0))
        whole = len(vectors) - len(vectors) % 4
        groups += [vectors[i : i + 4] for i in range(0, whole, 4)]
        other += vectors[whole:]
        vectors = []
        if name is not None:
            pairs.append((name,))
    other += [name for pair in pairs if len(pair) == 1 for name in pair]
    return [pair for pair in pairs if len(pair) == 2], groups, other


def norm_keys(groups, tensors, source):
    """Says which of a normalisation's four vectors is which, alike for all normalisations of a file.

    A variance is positive, and of a weight, which begins as 1, more is positive than of a bias. PyTorch's
    order is taken where it fits; another one where no other fits.

    Args:
        groups: Lists of four names, each in the order of the file.
        tensors: Dict from name to an object with a function `read`.
        source: The file's name, for messages.

    Returns:
        A list of dicts from PyTorch's names for the four to the file's.

    Raises:
        InputError: If no order or more than one fits.
    """
    if not groups:
        return []
    values = [np.stack([tensors[group[place]].read() for group in groups]) for place in range(4)]
    fitting = [order for order in _ORDERS if _fits(dict(zip(order, values, strict=True)))]
    if not fitting or (len(fitting) > 1 and fitting[0] != _ORDERS[0]):
        found = f"{len(fitting)} orders fit" if fitting else "no order fits, and a variance is positive"
        raise InputError(
            f"{source}: nothing tells which of {', '.join(groups[0])} is a normalisation's weight, bias, "
            f"mean and variance ({found}): call them weight, bias, running_mean and running_var"
        )
    places = {name: fitting[0].index(name) for name in _ORDERS[0]}
    return [{name: group[place] for name, place in places.items()} for group in groups]


def _fits(values):
    positive = {name: (array > 0).mean() for name, array in values.items()}
    return (values["running_var"] > 0).all() and positive["weight"] >= positive["bias"]
