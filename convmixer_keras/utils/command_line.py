"""What the commands have in common: one style of help, exit codes, one-line errors."""

import argparse
import atexit
import contextlib
import difflib
import importlib.metadata
import io
import itertools
import os
import re
import signal
import sys
import warnings

from convmixer_keras.utils import checks, streams
from convmixer_keras.utils.errors import Failure, InputError, call_by
from convmixer_keras.utils.files import remove_temporary_folders
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


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, and for a mistyped flag or choice which is the likeliest."""

    def parse_args(self, args=None, namespace=None):
        args = sys.argv[1:] if args is None else args
        for flag in itertools.takewhile("--".__ne__, args):
            name = flag.partition("=")[0]
            if re.fullmatch("--?[A-Za-z][^ ]*", name) and name not in self._option_string_actions:
                self.error(f"there is no flag {name}{_instead_of(name, self._option_string_actions)}")
        call_by({action.dest: action.option_strings[0] for action in self._actions if action.option_strings})
        return super().parse_args(args, namespace)

    def _check_value(self, action, value):
        if action.choices is not None and value not in action.choices:
            self.error(
                f"{'/'.join(action.option_strings)} must be one of {', '.join(action.choices)}, "
                f"got {value}{_instead_of(value, action.choices)}"
            )

    def error(self, message):
        self.exit(WRONG_USE, f"error: {one_line(message)}\n")


def _instead_of(word, known):
    """Asks whether the most similar of the known words was meant, if one is similar."""
    found = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {found[0]}?" if found else ""


def parser(description, prog=None):
    """Returns an `argparse.ArgumentParser` in this package's style, with `--version`."""
    new = Parser(prog=prog, description=description, formatter_class=HelpFormatter, allow_abbrev=False)
    text = " ".join(f"{name} {version}" for name, version in versions("keras", "tensorflow").items())
    new.add_argument("--version", action="version", version=text, help="show the versions and exit")
    return new


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
    return ["python", script] if script.endswith(".py") else [os.path.basename(script)]


def positive(text):
    """The `type` of a flag that takes a positive integer, below 2**31."""
    if not text.isdecimal() or len(text) > 10 or not 1 <= int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text[:40]}")
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
        checks.tensorflow_backend("this command")
    elif wanted != "tensorflow":
        print(f"note: this command needs TensorFlow; KERAS_BACKEND={wanted} is ignored", file=sys.stderr)
    os.environ["KERAS_BACKEND"] = "tensorflow"


def run(main):
    """Runs a command and exits with its code: 0 done, 1 failed while working, 2 wrong use or bad input."""
    _prepare_output()
    streams.in_command = True
    code = _code_of(main)
    call_by({})
    try:
        sys.stdout.flush()
    except OSError as error:  # Nobody reads any more, or the disk is full.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = code or _failed(error)
    # The work is done: Ctrl-C while the interpreter ends must not look as if it were not.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)


def _prepare_output():
    """Prints escapes for what the terminal cannot show, and each warning in one line."""
    # In their order: a file takes the lowest descriptor that is free, which is the one that was closed.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    # Python would add a line of our source.
    warnings.formatwarning = lambda message, *_, **__: f"warning: {one_line(message)}\n"
    os.environ["MPLBACKEND"] = "agg"  # Figures are saved, and none is shown.
    warnings.filters[:] = [entry for entry in warnings.filters if entry[0] != "error"]


def _code_of(main):
    try:
        with _ending_at_ctrl_c():
            return main() or DONE
    except SystemExit as ended:  # Of the parser: its message is printed.
        return ended.code
    except InputError as error:
        print("\n  ".join(map(one_line, [f"error: {error.lines[0]}", *error.lines[1:]])), file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except (Failure, OSError) as error:
        return _failed(error)
    except Exception as error:
        if _is_of_the_backend(error):
            print(
                f"error: Keras cannot start, by KERAS_BACKEND or keras.json: {one_line(error)}",
                file=sys.stderr,
            )
            return WRONG_USE
        # TensorFlow's, by its name: this file does not import TensorFlow.
        if not isinstance(error, MemoryError) and type(error).__name__ != "ResourceExhaustedError":
            raise
        print(f"error: out of memory: {one_line(error, 200) or 'the machine has no more'}", file=sys.stderr)
        return FAILED


def _is_of_the_backend(error):
    """Whether an error is Keras' about a backend that is none or is not installed."""
    is_missing = isinstance(error, ModuleNotFoundError) and error.name in ("jax", "torch", "tensorflow")
    return (is_missing and "keras" not in sys.modules) or str(error).startswith("Unable to import backend")


def _failed(error):
    """Prints why the work failed, unless the program that read our output, such as `head`, has ended."""
    if not isinstance(error, BrokenPipeError):
        place = f"{error.filename}: " if getattr(error, "filename", None) else ""
        reason = f"{place}{error.strerror.lower()}" if getattr(error, "strerror", None) else error
        print(f"error: {one_line(reason)}", file=sys.stderr)
    return FAILED


@contextlib.contextmanager
def _ending_at_ctrl_c():
    """Within this block Ctrl-C ends the process at once, with one line and without the file it was writing.

    Libraries in C++ swallow Python's KeyboardInterrupt, make another error of it, or crash on it.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # Switched off, or not Python's.
        yield
        return
    errors = os.dup(2)  # Where it leads now: it is held back at times.

    def end(*_):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        remove_temporary_folders()
        with contextlib.suppress(Exception):  # It may have come while something was printed.
            sys.stdout.flush()
        with contextlib.suppress(OSError):
            os.write(errors, b"interrupted\n")
        os._exit(INTERRUPTED)

    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.close(errors)


def leave(code):
    """Ends the process at once: what is printed is written out, and the interpreter's own ending left out.

    That takes seconds behind TensorFlow, and waits for whatever still runs in it.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
