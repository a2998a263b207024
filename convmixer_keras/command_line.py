"""What the commands have in common: exit codes, one-line errors, a quiet start."""

import argparse
import contextlib
import glob
import importlib.metadata
import io
import os
import re
import sys
import tempfile

from convmixer_keras.errors import Failure, InputError

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
