"""What the commands have in common: one style of help, exit codes, one-line errors."""

import argparse
import importlib.metadata
import os
import sys
import warnings

from convmixer_keras.utils.errors import Failure, InputError
from convmixer_keras.utils.text import one_line
from convmixer_keras.utils.version import __version__

DONE, FAILED, WRONG_USE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
PICTURES = (".png", ".jpg", ".pdf", ".svg")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description as written, and shows every default."""

    def _get_help_string(self, action):
        if action.default in (None, False):
            return action.help
        return super()._get_help_string(action)


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        super().error(one_line(message))


def parser(description, prog=None):
    """Returns an `argparse.ArgumentParser` in this package's style, with `--version`.

    Args:
        description: One line that says what the command does, then its most common uses.
        prog: The command's name, where it is not the script's.
    """
    new = _Parser(prog=prog, description=description, formatter_class=HelpFormatter, allow_abbrev=False)
    add_version(new)
    return new


def add_version(parser):
    text = " ".join(f"{name} {version}" for name, version in versions("keras", "tensorflow").items())
    parser.add_argument("--version", action="version", version=text, help="show the versions and exit")


def versions(*packages):
    """Returns the versions of this package and of others, by name; "unknown" for one without metadata."""
    found = {"convmixer-keras": __version__}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found


def started_as():
    """Returns how this program was started, as the first words of a command: to print what to run next."""
    script = sys.argv[0]
    if script.endswith(".py"):
        return ["python", script]
    return [os.path.basename(script)]


def positive(text):
    """The `type` of a flag that takes a positive integer, below 2**31."""
    return _whole(text, 1, "a positive integer")


def not_negative(text):
    """The `type` of a flag that takes an integer of at least 0."""
    return _whole(text, 0, "an integer of at least 0")


def _whole(text, least, what):
    if not text.isdecimal() or len(text) > 10 or not least <= int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"must be {what}, got {text[:40]}")
    return int(text)


def picture(text):
    """The `type` of a flag that takes the name of a picture to write."""
    if not text.endswith(PICTURES):
        raise argparse.ArgumentTypeError(f"must end in {', '.join(PICTURES)}, got {text}")
    return text


def need_tensorflow():
    """Selects Keras' TensorFlow backend, whatever KERAS_BACKEND or Keras' settings say; call it first.

    Training in `train_keras.py` and the export to `.tflite` need TensorFlow.
    """
    wanted = os.environ.get("KERAS_BACKEND", "tensorflow")
    if "keras" in sys.modules:
        import keras

        if keras.backend.backend() != "tensorflow":
            raise InputError(f"this command needs Keras' TensorFlow backend, got {keras.backend.backend()}")
    elif wanted != "tensorflow":
        print(f"note: this command needs TensorFlow; KERAS_BACKEND={wanted} is ignored", file=sys.stderr)
    os.environ["KERAS_BACKEND"] = "tensorflow"


def run(main):
    """Runs a command and exits with its code: 0 done, 1 failed while working, 2 wrong use or bad input."""
    # Python would add a line of our source.
    warnings.formatwarning = lambda message, *_, **__: f"warning: {one_line(message)}\n"
    try:
        sys.exit(main() or DONE)
    except InputError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(WRONG_USE)
    except Failure as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(FAILED)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # The program that read our output, such as `head`, has ended.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(FAILED)
    except Exception as error:
        # TensorFlow's, by its name: this file does not import TensorFlow.
        if not isinstance(error, MemoryError) and type(error).__name__ != "ResourceExhaustedError":
            raise
        print(f"error: out of memory: {one_line(error, 200) or 'the machine has no more'}", file=sys.stderr)
        sys.exit(FAILED)
