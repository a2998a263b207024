"""No bad input ends in a traceback: see `corpus.py`."""

import contextlib
import io
import os
import unicodedata

import corpus
import pytest

from convmixer_keras.utils import command_line
from convmixer_keras.utils.errors import Failure, InputError
from convmixer_keras.utils.text import one_line

LONGEST = 700


def complaint(case):
    """Returns what is wrong with how a case ends, or None."""
    stderr, stdout = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(stdout):
            case.run()
        return None
    except (InputError, Failure, TypeError) as error:
        # As a command would print it.
        lines = [f"error: {one_line(error)}"]
        if isinstance(error, TypeError) and "must be" not in str(error):
            return f"TypeError: {error}"
    except SystemExit as ended:
        if ended.code not in (0, 1, 2):
            return f"exit {ended.code}"
        lines = stderr.getvalue().splitlines()[-1:]
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]!r}"
    if len(lines) != 1 or len(lines[0]) > LONGEST:
        return f"{len(lines)} lines: {str(lines)[:200]}"
    if any(unicodedata.category(character) == "Cc" for character in lines[0]):
        return f"control characters: {lines[0][:200]!r}"
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
    monkeypatch.setattr(command_line, "quiet_start", lambda: None)


def snapshot(folder):
    return {
        path: os.lstat(path).st_mtime_ns
        for parent, _, names in os.walk(folder)
        for path in (os.path.join(parent, n) for n in names)
    }


def test_arguments_of_the_builders():
    assert check(corpus.builder_cases()) > 200


def test_fields_of_recipes():
    assert check(corpus.recipe_cases()) > 800


def test_flags(folder):
    before = snapshot(folder)
    assert check(corpus.flag_cases(folder)) > 150
    assert snapshot(folder) == before


def test_keras_files(folder):
    assert check(corpus.keras_cases(folder)) > 150


@pytest.mark.slow
def test_more_keras_files(folder):
    assert check(corpus.keras_cases(folder, 600)) > 1200


def test_checkpoints(folder):
    assert check(corpus.checkpoint_cases(folder)) > 70


@pytest.mark.slow
def test_more_checkpoints(folder):
    assert check(corpus.checkpoint_cases(folder, 600)) > 500


def test_run_folders(folder):
    assert check(corpus.run_folder_cases(folder)) > 80


def test_images(folder):
    assert check(corpus.image_cases(folder)) > 60


@pytest.mark.slow
def test_more_images(folder):
    assert check(corpus.image_cases(folder, 800)) > 700


def test_names_of_files_to_write(folder):
    assert check(corpus.writing_cases(folder)) > 8


def test_one_line():
    for name in corpus.HOSTILE_NAMES:
        assert one_line(name).isprintable()
        assert len(one_line(name)) <= 600
    assert one_line("café \u4e16 two\nlines") == "café \u4e16 two lines"
    assert one_line("\x1b[31mred") == "\\x1b[31mred"
