"""Holds back what libraries print on standard output and standard error, from Python or C++."""

import contextlib
import glob
import io
import os
import re
import sys
import tempfile
import threading
import warnings

from convmixer_keras.utils.errors import Failure, InputError
from convmixer_keras.utils.text import one_line

in_command = (
    False  # A library leaves file descriptors alone unless it is asked; `command_line.run` is a program.
)
_one_at_a_time = threading.Lock()  # Each puts the descriptor back to what it was.


def quiet_start():
    """Imports TensorFlow without its start-up chatter; its errors are still shown.

    TensorFlow writes these lines from C++ before any log level is honoured, so standard error
    itself is captured during the import, and all but the chatter printed afterwards.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with tempfile.TemporaryFile() as held_back:
        try:
            with _held_back(held_back, stderr=2):
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
    """Holds back what libraries print from C++, while Python prints on; for commands.

    If the block raises what is no error of this package, it is shown on standard error after all.
    """
    with tempfile.TemporaryFile() as held_back:
        try:
            with _held_back(held_back, stdout=1, stderr=2):
                yield
        except (InputError, Failure, KeyboardInterrupt):
            raise
        except BaseException:
            for line in _text(held_back).splitlines():
                print(one_line(line), file=sys.stderr)
            raise


@contextlib.contextmanager
def quiet_python():
    """Drops what libraries print, log and warn of from Python; file descriptors stay as they are."""
    nowhere = io.StringIO()
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        warnings.simplefilter("ignore")
        yield


def errors_of(function):
    """Calls a function, and returns what was written on standard error from C++ meanwhile."""
    with _one_at_a_time, tempfile.TemporaryFile() as held_back:
        if sys.stderr:
            sys.stderr.flush()
        copy = os.dup(2)
        os.dup2(held_back.fileno(), 2)
        try:
            function()
        finally:
            os.dup2(copy, 2)
            os.close(copy)
        return _text(held_back)


def silence_litert(path):
    """Returns a context in which a `.tflite` file is opened without LiteRT's saying that it has begun."""
    return silence() if str(path).endswith(".tflite") else contextlib.nullcontext()


@contextlib.contextmanager
def _held_back(file, **descriptors):
    """Lets what is written to file descriptors go into an open file, and Python's streams print on."""
    streams = {name: getattr(sys, name) for name in descriptors}
    copies = {name: os.dup(descriptor) for name, descriptor in descriptors.items()}
    for name, descriptor in descriptors.items():
        stream = streams[name]
        stream.flush()
        if _leads_to(stream, descriptor):
            # The copy stays open, as a logger that is made meanwhile keeps it.
            style = {"buffering": 1, "encoding": stream.encoding, "errors": stream.errors}
            setattr(sys, name, open(copies[name], "w", closefd=False, **style))  # noqa: SIM115
        os.dup2(file.fileno(), descriptor)
    try:
        yield
    finally:
        printed = {name: getattr(sys, name) for name in descriptors}
        for name, descriptor in descriptors.items():
            setattr(sys, name, streams[name])
            os.dup2(copies[name], descriptor)
        for name, stream in printed.items():
            try:
                stream.flush()
            except OSError:  # The disk is full. Python would try again when it ends.
                os.dup2(os.open(os.devnull, os.O_WRONLY), copies[name])
                stream.flush()
                raise


def _leads_to(stream, descriptor):
    try:
        return stream.fileno() == descriptor
    except OSError:  # It leads nowhere, as in a notebook.
        return False


def _text(file):
    file.seek(0)
    return file.read().decode(errors="replace")
