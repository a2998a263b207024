"""No bad input ends in a traceback, hangs or fills the memory: see `corpus.py`."""

import contextlib
import io
import os
import resource
import shutil
import signal
import subprocess
import unicodedata

import corpus
import corpus_commands
import corpus_processes
import numpy as np
import pytest
from conftest import on_linux

from convmixer_keras.utils import streams
from convmixer_keras.utils.errors import Failure, InputError
from convmixer_keras.utils.files import WRITING
from convmixer_keras.utils.text import one_line

pytestmark = on_linux
LONGEST = 700
# Far over what any case takes on a busy machine: beyond it, it hangs.
SECONDS = 60
MEMORY = 2**30  # Bytes that a case may take. An image of 120 million pixels takes 360 MB.
ADDRESSES = 2**33  # More of them are refused by the kernel, lest a defect takes the machine with it.


class Hangs(BaseException):
    """Not an Exception, so that nothing takes it for an error of a library."""


@contextlib.contextmanager
def at_most(seconds):
    def stop(*_):
        raise Hangs

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def limited_addresses():
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + ADDRESSES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def memory(name):
    """A figure of this process in bytes, such as "VmHWM", the most memory since `reset_peak`."""
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(f"{name}:"))


def reset_peak():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def complaint(case, seconds=SECONDS, most_memory=MEMORY):
    """Returns what is wrong with how a case ends, or None."""
    before = memory("VmRSS")
    reset_peak()
    try:
        with at_most(seconds), limited_addresses():
            found = _complaint(case)
    except Hangs:
        return "hangs"
    taken = memory("VmHWM") - before
    return found or (f"took {taken / 1e6:,.0f} MB" if taken > most_memory else None)


def text_of(stream):
    return stream.buffer.getvalue().decode()


def _complaint(case):
    stdout = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    stderr = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace", write_through=True)
    try:
        with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(stdout):
            ended = case.run()
        code, lines = ended if isinstance(ended, int) else 0, []
    except (InputError, Failure, TypeError) as error:
        # As a command would print it.
        code, lines = 2, [f"error: {one_line(error)}"]
        if isinstance(error, TypeError) and "must be" not in str(error):
            return f"TypeError: {error}"
    except SystemExit as ended:
        code, errors = ended.code, text_of(stderr).splitlines()
        lines = errors[-1:]
        if code and (not lines or "error: " not in lines[0] or "Traceback" in text_of(stderr)):
            return f"exit {code}: {str(errors)[-300:]}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]!r}"
    if code not in (0, 1, 2, None):
        return f"exit {code}"
    if len(lines) > 1 or any(len(line) > LONGEST for line in lines):
        return f"{len(lines)} lines: {str(lines)[:200]}"
    printed = "".join([text_of(stdout), text_of(stderr), *lines])
    if bad := {c for c in printed if unicodedata.category(c) in ("Cc", "Cf") and c != "\n"}:
        return f"control characters {bad}: {printed[:300]!r}"
    return None


def check(cases):
    cases = list(cases)
    found = {case.name: what for case in cases if (what := complaint(case))}
    assert not found, "\n".join(f"{name}: {what}" for name, what in found.items())
    return len(cases)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    corpus.prepare(tmp_path)
    return str(tmp_path)


@pytest.fixture(autouse=True)
def _no_noise(monkeypatch):
    """Quiet start-up is for processes of their own."""
    monkeypatch.setattr(streams, "quiet_start", lambda: None)


def snapshot(folder):
    return {
        path: os.lstat(path).st_mtime_ns
        for parent, _, names in os.walk(folder)
        for path in (os.path.join(parent, n) for n in names)
    }


def test_arguments():
    assert check(corpus.builder_cases()) > 200
    assert check(corpus.recipe_cases()) > 800


def test_flags(folder):
    before = snapshot(folder)
    assert check(corpus.flag_cases(folder)) > 150
    assert snapshot(folder) == before


@pytest.mark.parametrize(
    ("cases", "count", "least"),
    [
        (corpus.keras_cases, 24, 100),
        (corpus.checkpoint_cases, 60, 70),
        (corpus.image_cases, 60, 60),
        (corpus_commands.tflite_cases, 30, 200),
        pytest.param(corpus.keras_cases, 600, 1200, marks=pytest.mark.slow),
        pytest.param(corpus.checkpoint_cases, 600, 500, marks=pytest.mark.slow),
        pytest.param(corpus.image_cases, 800, 700, marks=pytest.mark.slow),
        pytest.param(corpus_commands.tflite_cases, 900, 2000, marks=pytest.mark.slow),
    ],
)
def test_files(cases, count, least, folder):
    assert check(cases(folder, count)) > least


def test_run_folders(folder):
    assert check(corpus.run_folder_cases(folder)) > 80


COMMANDS = [
    (corpus_commands.tflite_command_cases, 90),
    (corpus_commands.convert_command_cases, 150),
    (corpus_commands.evaluate_command_cases, 60),
    (corpus_commands.model_command_cases, 300),
]


@pytest.mark.parametrize(
    ("maker", "least", "step"),
    [
        *((maker, least, 4) for maker, least in COMMANDS[:3]),
        *(pytest.param(maker, least, 1, marks=pytest.mark.slow) for maker, least in COMMANDS),
    ],
)
def test_uses_of_the_commands(maker, least, step, folder):
    """In a plain run some of them; commands that fail leave nothing behind."""
    cases = list(maker(folder))[::step]
    before = snapshot(folder)
    assert check(cases) > least // step
    if maker is not corpus_commands.model_command_cases:  # Some of whose models are right.
        assert snapshot(folder) == before


def test_names_of_files_to_write(folder):
    assert check(corpus.writing_cases(folder)) > 8


def test_one_line():
    for name in corpus.HOSTILE_NAMES:
        assert one_line(name).isprintable()
        assert len(one_line(name)) <= 600
    assert one_line("café \u4e16 two\nlines") == "café \u4e16 two lines"
    assert one_line("\x1b[31mred") == "\\x1b[31mred"


def test_what_hangs_or_fills_the_memory_is_found(folder):
    assert complaint(corpus.Case("a pipe", lambda: open(f"{folder}/fifo").close()), seconds=0.2) == "hangs"
    taking = corpus.Case("an array", lambda: np.ones(2**24).sum() and None)
    assert complaint(taking, most_memory=2**26).startswith("took 1")
    assert complaint(taking) is None
    assert complaint(corpus.Case("too much", lambda: np.ones(2**31))).startswith("MemoryError")


@pytest.fixture(scope="module")
def files_of_commands(tmp_path_factory):
    return corpus_processes.prepare(tmp_path_factory.mktemp("commands"))


CONDITIONS = {
    # What the user's Python and terminal are told must not stop anything.
    "an odd environment": (
        corpus_processes.COMMANDS,
        {"PYTHONIOENCODING": "ascii", "PYTHONWARNINGS": "error", "MPLBACKEND": "nonsense"},
        (0, ""),
    ),
    "standard output is full": (corpus_processes.COMMANDS, {"stdout": "/dev/full"}, (1, "no space left")),
    "a write limit": (
        set(corpus_processes.COMMANDS) - set(corpus_processes.WITHOUT_FILES),
        {"largest_file": 4096},
        (1, "file too large"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("condition", "command"),
    [
        (condition, command)
        for condition, (commands, *_) in CONDITIONS.items()
        for command in sorted(commands)
    ],
)
def test_conditions_of_a_process(condition, command, files_of_commands, tmp_path):
    _, options, expected = CONDITIONS[condition]
    folder = shutil.copytree(files_of_commands, tmp_path / corpus_processes.PLACE)
    with open(options.get("stdout", os.devnull), "w") as stdout:
        process = corpus_processes.start(command, folder, **options | {"stdout": stdout})
        assert not corpus_processes.complaint(process, *expected)


@pytest.mark.slow
@pytest.mark.parametrize("command", corpus_processes.COMMANDS)
def test_ctrl_c(command, files_of_commands, tmp_path):
    folder = shutil.copytree(files_of_commands, tmp_path / corpus_processes.PLACE)
    process = corpus_processes.start(command, folder)
    corpus_processes.interrupt(process, command)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(3)
    # The work may have been done before: then Ctrl-C changes nothing while the interpreter ends.
    done_before = process.poll() == 0
    assert not corpus_processes.complaint(process, 0 if done_before else 130)
    assert not [name for name in os.listdir(folder) if name.startswith(WRITING)]


@pytest.mark.slow
@pytest.mark.parametrize("size", ["hidden-dim", "patch-size", "image-size", "kernel-size", "batch-size"])
def test_sizes_that_no_machine_has(size, files_of_commands, tmp_path):
    folder = shutil.copytree(files_of_commands, tmp_path / corpus_processes.PLACE)
    process = corpus_processes.start("convmixer-train", folder, f"--{size} 1000000000")
    assert not corpus_processes.complaint(process, 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["a folder", "a device"])
def test_a_picture_of_the_run_that_cannot_be_written(kind, files_of_commands, tmp_path):
    """What was trained is kept, and the last line says what was not."""
    folder = shutil.copytree(files_of_commands, tmp_path / corpus_processes.PLACE)
    (folder / "run").mkdir()
    curves = folder / "run" / "curves.png"
    curves.mkdir() if kind == "a folder" else curves.symlink_to("/dev/full")
    process = corpus_processes.start("convmixer-train", folder)
    assert not corpus_processes.complaint(process, 2, "curves.png")
