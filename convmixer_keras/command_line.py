"""What the commands have in common: exit codes, one-line errors, a quiet start."""

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

from convmixer_keras.errors import Failure, InputError
from convmixer_keras.recipes import Recipe

DONE, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description as written, and states every default that there is."""

    def _get_help_string(self, action):
        if action.default in (None, False):
            return action.help
        return super()._get_help_string(action)


def add_version(parser):
    versions = " ".join(
        f"{package} {importlib.metadata.version(package)}"
        for package in ("convmixer-keras", "keras", "tensorflow")
    )
    parser.add_argument("--version", action="version", version=versions)


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
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held_back:
        standard_error = os.dup(2)
        os.dup2(held_back.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)
            held_back.seek(0)
            for line in held_back.read().decode(errors="replace").splitlines():
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
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    python = io.StringIO()
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 1)
        os.dup2(held_back.fileno(), 2)
        failed = True
        try:
            with contextlib.redirect_stdout(python), contextlib.redirect_stderr(python):
                yield
            failed = False
        finally:
            os.dup2(kept[0], 1)
            os.dup2(kept[1], 2)
            for descriptor in kept:
                os.close(descriptor)
            if failed:
                held_back.seek(0)
                print(python.getvalue() + held_back.read().decode(errors="replace"), end="", file=sys.stderr)


def run(main):
    """Runs a command and exits with its code: 0 done, 1 failed while working, 2 wrong use or bad input."""
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
