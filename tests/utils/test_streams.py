"""What is held back, and what is still shown."""

import os
import subprocess
import sys

import pytest

from convmixer_keras.utils import streams

PROGRAM = """
import os, sys
from convmixer_keras.utils import errors, streams
with streams.silence():
    print("from Python")
    print("errors from Python", file=sys.stderr)
    os.system("echo from outside; echo errors from outside >&2")
    {}
print("afterwards")
"""


@pytest.mark.parametrize(
    ("last", "printed", "errors"),
    [
        ("pass", "from Python\nafterwards\n", "errors from Python\n"),
        (
            "raise ValueError",
            "from Python\n",
            "errors from Python\nfrom outside\nerrors from outside\nTraceback",
        ),
        ("raise errors.InputError(0)", "from Python\n", "errors from Python\nTraceback"),
    ],
)
def test_silence_holds_back_what_does_not_come_from_python(last, printed, errors):
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(last)], capture_output=True, text=True)
    assert done.stdout == printed
    assert done.stderr.startswith(errors)
    assert done.stderr.count("outside") == 2 * (last == "raise ValueError")


@pytest.mark.slow
def test_warnings_are_still_seen():
    """TensorFlow's own, from C++ and from Python, after a quiet start."""
    program = (
        "from convmixer_keras.utils import streams; streams.quiet_start(); "
        "import tensorflow as tf, warnings; warnings.warn('from Python'); "
        "import os; os.write(2, b'W0000 from C++\\n'); tf.get_logger().warning('from the logger')"
    )
    # As a user has it: TensorFlow as talkative as it is by default.
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    for words in ("from Python", "from C++", "from the logger"):
        assert words in done.stderr
    assert "oneDNN" not in done.stderr
    assert "cuda" not in done.stderr.lower()


def test_errors_of_keeps_no_file_open():
    """A folder's files are looked at by it one by one, and a process may have 1,024 files open."""

    def speak():
        os.write(2, b"of C++")

    def lowest_free():
        descriptor = os.dup(0)
        os.close(descriptor)
        return descriptor

    before = lowest_free()
    assert [streams.errors_of(speak) for _ in range(20)] == ["of C++"] * 20
    assert lowest_free() == before
