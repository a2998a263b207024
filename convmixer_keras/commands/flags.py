"""A flag for each field of a record: a `Recipe`, the `Settings` of a run, a `Preprocessing`."""

import argparse

from convmixer_keras.images.class_names import published_classes
from convmixer_keras.utils import command_line
from convmixer_keras.utils.errors import InputError
from convmixer_keras.utils.fields import settings_of
from convmixer_keras.utils.files import read_text


def add_flags(parser, record, show_defaults=True, first=None):
    """Adds a flag for each setting of a record, which shows the record's value as its default.

    `first` is a dictionary from the names of some settings to the group of flags that they go to.
    """
    groups = {}
    for name, field in settings_of(record).items():
        title = field.metadata["group"]
        group = (first or {}).get(name) or groups.get(title)
        group = group or groups.setdefault(title, parser.add_argument_group(title))
        default = getattr(record, name) if show_defaults else None
        group.add_argument(f"--{name.replace('_', '-')}", **_flag(field, default))


def given(arguments, kind):
    """Returns the fields of a kind of record that were given as flags, for `dataclasses.replace`."""
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(arguments).items()
        if name in settings_of(kind)
    }


def class_names(labels):
    """Returns the names in a text file, one in a line, or ImageNet's for "imagenet"; None for None."""
    if labels in (None, "imagenet"):
        return labels and published_classes(labels)
    names = [name.strip() for name in read_text(labels).splitlines()]
    if not all(names):
        raise InputError(f"{labels} must hold a name in each line, and line {names.index('') + 1} is empty")
    return names


def add_image_size(parser, text):
    """Adds `--image-size N` or `HxW`, which gives (height, width)."""
    parser.add_argument("--image-size", dest="size", type=_image_size, metavar="N", help=f"{text}; or HxW")


def _image_size(text):
    sides = [command_line.positive(side) for side in text.split("x")]
    if len(sides) > 2:
        raise argparse.ArgumentTypeError(f"must be N or HxW, got {text[:40]}")
    return sides[0], sides[-1]


def as_given(value):
    """Returns a value as it is given to its flag, numbers of a tuple with four digits."""
    return " ".join(f"{v:.4g}" for v in value) if isinstance(value, tuple) else str(value)


def _flag(field, default):
    """The `add_argument` keywords of a field; flags that are not given set nothing."""
    shown = "" if default is None else f" (default: {as_given(default)})"
    flag = {"default": argparse.SUPPRESS, "help": field.metadata["help"].replace("%", "%%") + shown}
    if field.type is bool:
        return {**flag, "action": argparse.BooleanOptionalAction}
    if field.metadata["choices"]:
        return {**flag, "choices": field.metadata["choices"]}
    metavar = field.metadata["metavar"]
    if field.type in (tuple[float, float], tuple[float, ...], tuple[float, ...] | None):
        count = 2 if field.type == tuple[float, float] else "+"
        return {**flag, "type": float, "nargs": count, "metavar": metavar or "X"}
    if field.type in (int, float):
        return {**flag, "type": field.type, "metavar": metavar or ("N" if field.type is int else "X")}
    return {**flag, "metavar": metavar or "NAME"}
