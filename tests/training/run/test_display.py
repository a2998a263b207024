"""What a run shows: lines in a log, a bar on a terminal."""

import dataclasses
import re
from functools import partial

import pytest
from small_runs import TINY
from tqdm import tqdm

from convmixer_keras.training import trainer as training
from convmixer_keras.training.run.display import BAR, LINES, Display, _duration
from convmixer_keras.training.run.settings import Settings
from convmixer_keras.utils import progress

LINE = re.compile(
    r"Epoch (?P<epoch>\d)/2, (?P<part>|validation )step (?P<step>\d)/(?P<steps>\d): "
    r"loss (?P<loss>\d+\.\d{4}), accuracy (?P<accuracy>\d+\.\d\d) %(?P<speed>, [\d.,]+ images/s, "
    r"\d+ s left in the epoch, \d+ s in the run)?"
)


@pytest.fixture
def shown(image_folder, tmp_path, capsys):
    """Function from `log_every` and `verbose` to the history of a run and what it printed."""

    def run(log_every, verbose):
        recipe = dataclasses.replace(TINY, dataset=str(image_folder), epochs=2)
        output = tmp_path / f"run{verbose}{log_every}"
        history = training.train(recipe, output, Settings(log_every=log_every), verbose=verbose)
        return history, capsys.readouterr().out

    return run


def test_a_log_has_a_line_every_so_often(shown):
    history, text = shown(0, LINES)
    first, found, *rest = text.splitlines()
    assert first.startswith("strategy one")
    assert found == ("data: 36 images of 'train', 15 images of 'val'; 3 classes: blue, green, red")
    lines = [match for match in map(LINE.fullmatch, rest) if match]
    assert [(m["epoch"], m["part"], m["step"]) for m in lines] == [
        (epoch, part, str(step))
        for epoch in "12"
        for part, steps in (("", 6), ("validation ", 3))
        for step in range(1, steps + 1)
    ]
    assert [line["speed"] is None for line in lines[:2]] == [True, False]
    ends = [line for line in rest if not LINE.fullmatch(line)]
    for row, end, last in zip(history, ends, (lines[5], lines[14]), strict=True):
        assert (
            f"Epoch {row['epoch']}/2: loss {row['loss']:.4f}, accuracy {100 * row['accuracy']:.2f} %; " in end
        )
        assert f"validation loss {row['val_loss']:.4f}, accuracy {100 * row['val_accuracy']:.2f} %; " in end
        assert (last["loss"], last["accuracy"]) == (f"{row['loss']:.4f}", f"{100 * row['accuracy']:.2f}")


@pytest.mark.slow
def test_the_first_step_is_shown_at_once_and_then_none_for_a_while(shown):
    _, text = shown(1000, LINES)
    assert [LINE.fullmatch(line)["step"] for line in text.splitlines() if LINE.fullmatch(line)] == ["1"]


@pytest.mark.slow
def test_a_terminal_has_a_bar(shown, monkeypatch):
    monkeypatch.setattr(progress, "tqdm", partial(tqdm, mininterval=0))  # Each step is drawn.
    history, text = shown(30, BAR)
    bars = [bar.rstrip() for bar in text.replace("\n", "\r").split("\r")]
    number = r"[\d.,]+"
    figures = rf"loss {number}, accuracy {number} %, {number} images/s, \d+ s left, run \d+ s"
    assert any(re.fullmatch(rf"Epoch 1/2 \|.+\| {figures}", bar) for bar in bars)
    assert any(bar.startswith("Epoch 2/2 validation |") for bar in bars)
    assert f"Epoch 2/2: loss {history[1]['loss']:.4f}" in text


def test_the_time_that_is_left(monkeypatch):
    """By hand: 4 steps of 10 s and 2 validation steps of 5 s in each of 3 epochs."""
    clock = [1000.0]  # The first step is compiled, and is no measure.
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    data = type("Data", (), {"steps": 4, "validation_steps": 2, "validation_size": 11})
    keep_run = type("KeepRun", (), {"data": data, "batches_before": 0})
    display = Display(keep_run, dataclasses.replace(TINY, epochs=3), LINES, 0)
    logs = {"loss": 1.0, "accuracy": 0.5}
    display.on_epoch_begin(0)
    for batch, seconds in enumerate((60, 10, 10, 10)):
        clock[0] += seconds
        display.on_train_batch_end(batch, logs)
        left = (3 - batch) * 10 if batch else 0
        assert display._seconds_left() == (left, left + (2 * 40 if batch else 0))
    display.on_test_begin()
    for batch in range(2):
        clock[0] += 5
        display.on_test_batch_end(batch, logs)
    assert display._seconds_left() == (0, 2 * (40 + 10))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (720, "12 min"), (12_240, "3.4 h"), (181_440, "2.1 d")]
)
def test_durations(seconds, text):
    assert _duration(seconds) == text
