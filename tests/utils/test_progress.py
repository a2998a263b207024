"""Progress on a terminal (a real pseudo-terminal) and in a log."""

import contextlib
import os
import sys

import pytest

from convmixer_keras.utils import progress


@pytest.fixture
def on_terminal(monkeypatch):
    """Function that runs another with a terminal of 60 columns as standard output: what that was sent."""

    def call(function):
        ours, theirs = os.openpty()
        with monkeypatch.context() as patch, os.fdopen(theirs, "w") as stream:
            patch.setattr(sys, "stdout", stream)
            patch.setenv("COLUMNS", "60")
            function()
        sent = b""
        with contextlib.suppress(OSError):  # What is sent after the last byte, as nobody writes any more.
            while part := os.read(ours, 1 << 16):
                sent += part
        os.close(ours)
        return sent.decode()

    return call


def test_a_terminal_gets_one_line_that_is_written_over(on_terminal):
    items = []
    sent = on_terminal(lambda: items.extend(progress.shown(["a", "b"], "checking", unit="images")))
    assert items == ["a", "b"]
    states = [state for state in sent.split("\r") if state.strip()]
    assert states[0].startswith("checking:   0%|")
    assert states[-1].startswith("checking: 100%|")
    assert " 2/2 " in states[-1]
    assert sent.endswith("\r\n")
    assert sent.count("\n") == 1


def test_no_line_is_broader_than_the_terminal(on_terminal):
    what = "a rather long description of what is done"
    sent = on_terminal(lambda: list(progress.shown([1], what, unit="images")))
    assert max(len(line) for line in sent.split("\r")) <= 60


def test_a_log_gets_plain_lines(capsys, monkeypatch):
    list(progress.shown(range(1500), "checking", unit="images"))
    assert capsys.readouterr().out == "checking: 1,500 of 1,500 images\n"
    monkeypatch.setattr(progress, "LOG_SECONDS", 0)
    list(progress.shown(iter([0.5, 1.0]), "fetched", 1.5, "MB", amount=lambda item: item))
    printed = capsys.readouterr().out
    assert printed == "fetched: 0.5 of 1.5 MB\nfetched: 1.5 of 1.5 MB\nfetched: 1.5 of 1.5 MB\n"


def test_what_breaks_off_ends_its_line(on_terminal):
    def images():
        yield 1
        raise ValueError("damaged")

    def read():
        with pytest.raises(ValueError, match="damaged"):
            list(progress.shown(images(), "reading", 3, "images"))

    last = [state for state in on_terminal(read).split("\r") if state.strip()][-1]
    assert " 1/3 " in last


def test_without_a_total(on_terminal):
    sent = on_terminal(lambda: list(progress.shown(iter("ab"), "running", unit="done")))
    assert "running: 2 done" in sent
