"""A flag for each field of a record: a `Recipe`, or the `Settings` of a run."""

import argparse
import dataclasses


def add_flags(parser, record):
    """Adds a flag for each field of a record, which shows the record's value as its default."""
    groups = {}
    for field in dataclasses.fields(record):
        name = field.metadata["group"]
        group = groups.get(name) or groups.setdefault(name, parser.add_argument_group(name))
        group.add_argument(f"--{field.name.replace('_', '-')}", **_flag(field, getattr(record, field.name)))


def given(arguments, kind):
    """Returns the fields of a kind of record that were given as flags, for `dataclasses.replace`."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(arguments).items()
        if name in names
    }


def _flag(field, default):
    """The `add_argument` keywords of a field; flags that are not given set nothing."""
    text = field.metadata["help"].replace("%", "%%")
    if default is not None:
        shown = " ".join(f"{v:.4g}" for v in default) if isinstance(default, tuple) else default
        text += f" (default: {shown})"
    flag = {"default": argparse.SUPPRESS, "help": text}
    if field.type is bool:
        return {**flag, "action": argparse.BooleanOptionalAction}
    if field.metadata["choices"]:
        return {**flag, "choices": field.metadata["choices"]}
    metavar = field.metadata["metavar"]
    if isinstance(default, tuple):
        count = 2 if field.type == tuple[float, float] else "+"
        return {**flag, "type": float, "nargs": count, "metavar": metavar or "X"}
    if field.type in (int, float):
        return {**flag, "type": field.type, "metavar": metavar or ("N" if field.type is int else "X")}
    return {**flag, "metavar": metavar or "NAME"}
