"""Names of splits and of parts of them, and whether a recipe's splits overlap."""

import itertools
import re
import warnings

from convmixer_keras.images.folder import VALIDATION_SPLITS
from convmixer_keras.utils.errors import InputError, arg

_SLICE = re.compile(r"(?P<name>[^\[\]]+)\[(?P<begin>-?\d{1,12}%?)?:(?P<end>-?\d{1,12}%?)?\]")


def training_split(source, recipe):
    """Returns the name of the split to train on."""
    return split_name(source, recipe.train_split, ("train",))


def validation_split(source, recipe):
    """Returns the name of the split to validate on."""
    return split_name(source, recipe.validation_split, VALIDATION_SPLITS)


def split_name(source, name, defaults):
    """Returns the name of the split to read: the one that is asked for, or the first default there is."""
    if name is None:
        name = next((default for default in defaults if default in source.split_names), defaults[0])
    if base_name(name) not in source.split_names:
        there = ", ".join(source.split_names)
        raise InputError(f"dataset {source.name} has no split {name!r}; it has: {there}")
    return name


def base_name(split):
    """Takes the slice off the name of a split: "train[:90%]" is part of "train"."""
    return split.split("[")[0]


def slice_of(split, size):
    """Returns the slice of `size` images that a name such as "train[:90%]" or "train[100:-5]" stands for.

    Percentages are rounded to whole images as tensorflow-datasets rounds them.

    Raises:
        InputError: If it is not such a name, or no image is left.
    """
    if base_name(split) == split:
        return slice(None)
    match = _SLICE.fullmatch(split)
    if not match:
        raise InputError(f"a part of a split is written train[:90%] or train[100:200], got {split!r}")

    def place(text):
        if not text or not text.endswith("%"):
            return int(text) if text else None
        return round(int(text[:-1]) * size / 100)

    found = slice(place(match["begin"]), place(match["end"]))
    if not len(range(*found.indices(size))):
        raise InputError(f"split {split!r} has no images, of {size}")
    return found


def check_apart(source, recipe):
    """Raises InputError where a recipe would measure on images that it trains or chooses on.

    To validate on the training split itself is allowed, with a warning: it shows whether a network can fit
    its training images.
    """
    train, validation = training_split(source, recipe), validation_split(source, recipe)
    uses = {"train_split": train, "validation_split": validation}
    if recipe.test_split is not None:
        uses["test_split"] = split_name(source, recipe.test_split, ())
    if train == validation:
        warnings.warn(
            f"validation is on the training images, {train!r}: its accuracy says nothing about others",
            stacklevel=2,
        )
    for (first, one), (second, other) in itertools.combinations(uses.items(), 2):
        shared = _shared(source.parts(one), source.parts(other))
        if shared and (one != other or second == "test_split"):
            raise InputError(
                f"{arg(first)} {one!r} and {arg(second)} {other!r} must not overlap, and share "
                f"{shared:,} images"
            )


def part(split, size):
    """Returns (split, first image, image after the last) of a name such as "train[:90%]" of `size` images."""
    images = range(size)[slice_of(split, size)]
    return base_name(split), images.start, images.stop


def _shared(parts, others):
    """Returns how many images two lists of (split, first, after the last) have in common."""
    return sum(
        max(0, min(stop, other_stop) - max(start, other_start))
        for (name, start, stop), (other, other_start, other_stop) in itertools.product(parts, others)
        if name == other
    )
