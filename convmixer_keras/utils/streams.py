"""Holds back what libraries print on standard output and standard error, from Python or C++."""

import contextlib
import glob
import os
import re
import sys
import tempfile

from convmixer_keras.utils.errors import Failure, InputError
from convmixer_keras.utils.text import one_line


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
    """Holds back what libraries print from C++, while Python prints on; for commands.

    If the block raises what is no error of this package, it is shown on standard error after all.
    """
    with tempfile.TemporaryFile() as held_back, contextlib.ExitStack() as kept:
        try:
            for name, descriptor in (("stdout", 1), ("stderr", 2)):
                kept.enter_context(_python_goes_on(name, descriptor))
            with _descriptors_into(held_back, 1, 2):
                yield
        except (InputError, Failure, KeyboardInterrupt):
            raise
        except BaseException:
            for line in _text(held_back).splitlines():
                print(one_line(line), file=sys.stderr)
            raise


def silence_litert(path):
    """Returns a context in which a `.tflite` file is opened without LiteRT's saying that it has begun."""
    return silence() if str(path).endswith(".tflite") else contextlib.nullcontext()


@contextlib.contextmanager
def _python_goes_on(name, descriptor):
    """Lets Python's stream print where its file descriptor leads now, whatever becomes of that."""
    stream = getattr(sys, name)
    try:
        if stream.fileno() != descriptor:
            raise OSError
    except (AttributeError, OSError):  # There is none, or it prints elsewhere.
        yield
        return
    stream.flush()
    copy = open(  # noqa: SIM115
        os.dup(descriptor), "w", buffering=1, encoding=stream.encoding, errors=stream.errors
    )
    setattr(sys, name, copy)
    try:
        yield
    finally:
        setattr(sys, name, stream)
        copy.close()


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
