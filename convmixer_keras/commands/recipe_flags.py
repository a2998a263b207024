"""A flag for each field of a recipe."""

import argparse
import dataclasses

from convmixer_keras.recipes import Recipe


def add_recipe_flags(parser, recipe):
    """Adds a flag for each field of a recipe, which shows the recipe's value as its default."""
    groups = {}
    for field in dataclasses.fields(Recipe):
        name = field.metadata["group"]
        group = groups.setdefault(name, parser.add_argument_group(f"{name}, overriding the recipe"))
        group.add_argument(f"--{field.name.replace('_', '-')}", **_flag(field, getattr(recipe, field.name)))


def recipe_overrides(arguments):
    """Returns the fields that were given as flags, as a dictionary for `dataclasses.replace`."""
    names = {field.name for field in dataclasses.fields(Recipe)}
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(arguments).items()
        if name in names
    }


def _flag(field, default):
    """The `add_argument` keywords of a recipe's field; flags that are not given set nothing."""
    text = field.metadata["help"].replace("%", "%%")
    if default is not None:
        shown = " ".join(f"{v:.4g}" for v in default) if isinstance(default, tuple) else default
        text += f" (default: {shown})"
    flag = {"default": argparse.SUPPRESS, "help": text}
    if field.type is bool:
        return {**flag, "action": argparse.BooleanOptionalAction}
    if isinstance(default, tuple):
        count = "+" if field.name in ("mean", "std") else 2
        return {**flag, "type": float, "nargs": count, "metavar": "X"}
    if field.type in (int, float):
        return {**flag, "type": field.type, "metavar": "N" if field.type is int else "X"}
    if field.metadata["choices"]:
        return {**flag, "choices": field.metadata["choices"]}
    return {**flag, "metavar": "NAME"}
