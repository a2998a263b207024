"""Frozen dataclasses whose fields say what they are: checks, saved files and command-line flags follow."""

import dataclasses
import math

from convmixer_keras.utils.errors import InputError, arg, call_by


def setting(default, group, text, within=None, choices=None, metavar=None):
    """Returns a field of a dataclass of settings.

    Args:
        default: Its value where none is given.
        group: Title of the group of flags that it belongs to.
        text: What it is, for the flag's help.
        within: The least and the greatest number that is allowed.
        choices: The values that are allowed.
        metavar: What stands for its value in the help.
    """
    facts = {"group": group, "help": text, "within": within, "choices": choices, "metavar": metavar}
    return dataclasses.field(default=default, metadata=facts)


def settings_of(record):
    """Returns the fields of a record, or of a kind of one, that are settings: a dictionary by name."""
    return {field.name: field for field in dataclasses.fields(record) if field.metadata}


def _is_whole(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _are_numbers(value):
    return isinstance(value, tuple) and len(value) > 0 and all(map(_is_number, value))


_TYPES = {
    bool: ("True or False", lambda value: isinstance(value, bool)),
    int: ("a whole number", _is_whole),
    float: ("a finite number", _is_number),
    str: ("a text", lambda value: isinstance(value, str)),
    str | None: ("a text or None", lambda value: value is None or isinstance(value, str)),
    tuple[float, ...]: ("finite numbers", _are_numbers),
    tuple[float, float]: (
        "two finite numbers, the least and then the greatest",
        lambda value: _are_numbers(value) and len(value) == 2 and value[0] <= value[1],
    ),
}


def check(record):
    """Raises InputError for a field of another type than its own, or outside its range or choices."""
    for entry in dataclasses.fields(record):
        _check(entry, getattr(record, entry.name))


def _check(entry, value):
    wanted, is_right = _TYPES[entry.type]
    if not is_right(value):
        raise InputError(f"{arg(entry.name)} must be {wanted}, got {_text(value)}")
    within, choices = entry.metadata["within"], entry.metadata["choices"]
    values = value if isinstance(value, tuple) else (value,)
    if within and not all(within[0] <= v <= within[1] for v in values):
        shows_upper = within[1] < 2**31 - 1 or max(values) > within[1]
        upper = f" and at most {within[1]}" if shows_upper else ""
        raise InputError(f"{arg(entry.name)} must be at least {within[0]}{upper}, got {_text(value)}")
    if choices and value not in choices:
        raise InputError(f"{arg(entry.name)} must be one of {', '.join(choices)}, got {value!r}")


def _text(value):
    return " ".join(map(str, value)) if isinstance(value, tuple) else repr(value)


def from_saved(kind, saved):
    """Makes a record of a JSON object that holds each of its fields, lists in place of tuples."""
    names = {entry.name for entry in dataclasses.fields(kind)}
    for problem, wrong in (("lacks", names - set(saved)), ("has an unknown", set(saved) - names)):
        if wrong:
            raise InputError(f"{kind.__name__} {problem} {min(wrong)!r}")
    flags = call_by({})  # What is wrong in a file is not wrong with a flag.
    try:
        return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in saved.items()})
    finally:
        call_by(flags)
