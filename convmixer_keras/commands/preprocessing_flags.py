"""Flags for how photographs become a network's input, where the file does not say or says it wrongly."""

import argparse

from convmixer_keras.images.preprocessing import INTERPOLATIONS, ORIENTATIONS

_NAMES = ("crop_pct", "interpolation", "orientation")
_NORMALIZATION = ("mean", "std")


def add_preprocessing_flags(parser, normalization=True):
    """Adds the flags as one group.

    Args:
        parser: An `argparse.ArgumentParser`.
        normalization: Whether to add --mean and --std.
    """
    group = parser.add_argument_group("preparation of photographs, overriding what the model file says")
    missing = {"default": argparse.SUPPRESS}
    group.add_argument(
        "--crop-pct",
        type=float,
        metavar="X",
        help="share of the resized side that the centre crop keeps, 0..1",
        **missing,
    )
    group.add_argument("--interpolation", choices=INTERPOLATIONS, help="filter of the resize", **missing)
    group.add_argument(
        "--orientation",
        choices=ORIENTATIONS,
        help="turn photographs as their EXIF data says, or not",
        **missing,
    )
    if normalization:
        for name, what in (("mean", "mean"), ("std", "deviation")):
            text = f"{what} of each channel, 0..1, for a model that takes normalised channels"
            group.add_argument(f"--{name}", type=float, nargs="+", metavar="X", help=text, **missing)


def preprocessing_changes(arguments):
    """Returns the fields of `Preprocessing` that were given as flags, as a dictionary."""
    given = vars(arguments)
    changes = {name: given[name] for name in _NAMES if name in given}
    return changes | {name: tuple(given[name]) for name in _NORMALIZATION if given.get(name) is not None}
