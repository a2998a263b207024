"""What the commands have in common: one style of help, exit codes, one-line errors, a quiet start."""

import argparse
import contextlib
import dataclasses
import glob
import importlib.metadata
import io
import os
import re
import sys
import tempfile
import warnings

from convmixer_keras.utils.errors import Failure, InputError
from convmixer_keras.recipes import Recipe

DONE, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
PICTURES = (".png", ".jpg", ".pdf", ".svg")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description as written, and states every default that there is."""

    def _get_help_string(self, action):
        if action.default in (None, False):
            return action.help
        return super()._get_help_string(action)


def parser(description, prog=None):
    """Returns an `argparse.ArgumentParser` in this package's style, with `--version`.

    Args:
        description: One line that says what the command does, then its most common uses.
        prog: The command's name, where it is not the script's.
    """
    new = argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=HelpFormatter, allow_abbrev=False
    )
    add_version(new)
    return new


def add_version(parser):
    versions = " ".join(
        f"{package} {importlib.metadata.version(package)}"
        for package in ("convmixer-keras", "keras", "tensorflow")
    )
    parser.add_argument("--version", action="version", version=versions, help="show the versions and exit")


def positive(text):
    """The `type` of a flag that takes a positive integer."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text}")
    return int(text)


def picture(text):
    """The `type` of a flag that takes the name of a picture to write."""
    if not text.endswith(PICTURES):
        raise argparse.ArgumentTypeError(f"must end in {', '.join(PICTURES)}, got {text}")
    return text


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
    """The `add_argument` keywords of a recipe's field; flags that are not given leave no trace."""
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


def quiet_start():
    """Imports TensorFlow without its start-up chatter; its warnings and errors are still shown.

    TensorFlow writes these lines from C++ before any log level is honoured, so that standard error itself
    is held back during the import, and what matters of it printed afterwards.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    with tempfile.TemporaryFile() as held_back:
        try:
            with _descriptors_into(held_back, 2):
                import tensorflow as tf

                tf.config.list_physical_devices()
        finally:
            for line in _text(held_back).splitlines():
                if not _is_chatter(line):
                    print(line, file=sys.stderr)


def _is_chatter(line):
    if "cuInit" in line:  # Only news where there is a GPU.
        return not glob.glob("/dev/nvidia[0-9]*")
    return bool(
        re.match(r"I\d{4} |WARNING: All log messages before absl|To enable the following instr", line)
    )


@contextlib.contextmanager
def silence():
    """Holds back what libraries print, from Python or C++; if the block raises, standard error shows it."""
    python = io.StringIO()
    with tempfile.TemporaryFile() as held_back:
        try:
            with (
                _descriptors_into(held_back, 1, 2),
                contextlib.redirect_stdout(python),
                contextlib.redirect_stderr(python),
            ):
                yield
        except BaseException:
            print(python.getvalue() + _text(held_back), end="", file=sys.stderr)
            raise


@contextlib.contextmanager
def _descriptors_into(file, *descriptors):
    """Lets what is written to file descriptors, from Python or C++, go into an open file."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(descriptor) for descriptor in descriptors]
    for descriptor in descriptors:
        os.dup2(file.fileno(), descriptor)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for copy, descriptor in zip(kept, descriptors, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)


def _text(file):
    file.seek(0)
    return file.read().decode(errors="replace")


def run(main):
    """Runs a command and exits with its code: 0 done, 1 failed while working, 2 wrong use or bad input."""
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"  # Without a line of our source.
    try:
        sys.exit(main() or DONE)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(WRONG_USE)
    except Failure as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(FAILED)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # Whoever read our output, such as `head`, has had enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(FAILED)
