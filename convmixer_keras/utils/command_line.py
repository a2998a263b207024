"""What the commands have in common: one style of help, exit codes, one-line errors, a quiet start."""

import argparse
import contextlib
import glob
import importlib.metadata
import io
import os
import re
import sys
import tempfile
import warnings

from convmixer_keras import __version__
from convmixer_keras.utils.errors import Failure, InputError
from convmixer_keras.utils.text import one_line

DONE, FAILED, WRONG_USE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
PICTURES = (".png", ".jpg", ".pdf", ".svg")
# The help of a flag that is left to `inference.default_builder` where it is not given.
MODEL = (
    "a .keras file, or a builder that has published weights (default: ConvMixer1024_20 if its weights have "
    "been fetched, otherwise ConvMixer256_8_P2)"
)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description as written, and states every default that there is."""

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
    if not text.isdecimal() or len(text) > 10 or not 1 <= int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text[:40]}")
    return int(text)


def not_negative(text):
    """The `type` of a flag that takes an integer of at least 0."""
    return 0 if text.isdecimal() and not text.strip("0") else positive(text)


def picture(text):
    """The `type` of a flag that takes the name of a picture to write."""
    if not text.endswith(PICTURES):
        raise argparse.ArgumentTypeError(f"must end in {', '.join(PICTURES)}, got {text}")
    return text


def need_tensorflow():
    """Selects Keras' TensorFlow backend, whatever KERAS_BACKEND or Keras' settings say; call it first.

    Training in `train_keras.py` and the export to `.tflite` are TensorFlow's.
    """
    wanted = os.environ.get("KERAS_BACKEND", "tensorflow")
    if "keras" in sys.modules:
        import keras

        if keras.backend.backend() != "tensorflow":
            raise InputError(f"this command needs Keras' TensorFlow backend, got {keras.backend.backend()}")
    elif wanted != "tensorflow":
        print(f"note: this command needs TensorFlow; KERAS_BACKEND={wanted} does not count", file=sys.stderr)
    os.environ["KERAS_BACKEND"] = "tensorflow"


def quiet_start():
    """Imports TensorFlow without its start-up chatter; its errors are still shown.

    TensorFlow writes these lines from C++ before any log level is honoured, so standard error
    itself is captured during the import, and all but the chatter printed afterwards.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with tempfile.TemporaryFile() as held_back:
        try:
            with _descriptors_into(held_back, 2):
                import tensorflow as tf

                tf.config.list_physical_devices()
        finally:
            for line in _text(held_back).splitlines():
                if not _is_chatter(line):
                    print(one_line(line), file=sys.stderr)


def _is_chatter(line):
    if "cuInit" in line:  # Matters only where there is a GPU.
        return not glob.glob("/dev/nvidia[0-9]*")
    return bool(
        re.match(r"I\d{4} |WARNING: All log messages before absl|To enable the following instr", line)
    )


@contextlib.contextmanager
def silence():
    """Holds back what libraries print, from Python or C++.

    If the block raises, standard error shows it, except beside an InputError, which says all in one line.
    """
    python = io.StringIO()
    with tempfile.TemporaryFile() as held_back:
        try:
            with (
                _descriptors_into(held_back, 1, 2),
                contextlib.redirect_stdout(python),
                contextlib.redirect_stderr(python),
            ):
                yield
        except InputError:
            raise
        except BaseException:
            for line in (python.getvalue() + _text(held_back)).splitlines():
                print(one_line(line), file=sys.stderr)
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
    # Without a line of our source.
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
