"""SIGTERM and Ctrl-C end a run between two steps; a resume ends with the weights of an unbroken run."""

import contextlib
import dataclasses
import os
import re
import signal

import keras
import numpy as np
import pytest
from processes import COMMAND, started, tf_configs, wait_for

from convmixer_keras.commands import train
from convmixer_keras.recipes import DIGITS
from convmixer_keras.training import trainer as training
from convmixer_keras.training.processes.termination import Terminated

RECIPE = dataclasses.replace(
    DIGITS, hidden_dim=8, depth=1, epochs=2, batch_size=120, ema_momentum=0.9, mixup_alpha=0.4
)


class SignalAt(keras.callbacks.Callback):
    """Sends this process a signal before a batch of the first epoch: of training, or of validation.

    At a moment at which an exception would be swallowed: JAX's hook of the garbage collector does that.
    """

    def __init__(self, number, phase, batch):
        super().__init__()
        self.number, self.phase, self.batch = number, phase, batch

    def _send(self, phase, batch):
        if (self.phase, self.batch) == (phase, batch):
            with contextlib.suppress(BaseException):
                os.kill(os.getpid(), self.number)

    def on_train_batch_begin(self, batch, logs=None):
        self._send("train", batch)

    def on_test_batch_begin(self, batch, logs=None):
        self._send("test", batch)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    keras.utils.set_random_seed(1)
    return folder, training.train(RECIPE, folder / "run", verbose=0)


def assert_same_models(one, other):
    for name in ("last.keras", "model.keras"):
        pairs = (keras.saving.load_model(folder / "run" / name).get_weights() for folder in (one, other))
        for ours, theirs in zip(*pairs, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("number", "phase", "batch", "step"),
    [
        pytest.param(signal.SIGTERM, "test", 1, 11, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, "train", 4, 4, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "train", 4, 4, marks=pytest.mark.real),
        pytest.param(signal.SIGINT, "test", 1, 11, marks=pytest.mark.real),
    ],
)
def test_a_run_that_was_asked_to_end_goes_on(unbroken, tmp_path, number, phase, batch, step):
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    kind = KeyboardInterrupt if number == signal.SIGINT else Terminated
    with pytest.raises(kind, match=f"ended in epoch 1, after step {step} of it") as ended:
        training.train(RECIPE, tmp_path / "run", callbacks=[SignalAt(number, phase, batch)], verbose=0)
    assert ended.value.resumable
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    history = training.train(RECIPE, tmp_path / "run", resume=True, verbose=0)
    for ours, theirs in zip(history, unbroken[1], strict=True):
        for name in ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name
    assert_same_models(tmp_path, unbroken[0])


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (signal.SIGINT, 130, "interrupted"),
        pytest.param(signal.SIGTERM, 143, "terminated", marks=pytest.mark.slow),
    ],
)
def test_before_the_first_step_nothing_is_to_go_on_with(here, tmp_path, monkeypatch, number, code, word):
    begin = training.KeepRun.on_epoch_begin

    def send_and_begin(self, epoch, logs=None):
        os.kill(os.getpid(), number)
        begin(self, epoch, logs)

    monkeypatch.setattr(training.KeepRun, "on_epoch_begin", send_and_begin)
    small = ["--hidden-dim", "8", "--depth", "1", "--output", tmp_path / "run"]
    ended = here(train.main, *small)
    assert ended.code == code
    assert ended.stderr.splitlines()[-1] == (
        f"{word}: ended in epoch 1, after step 0 of it; no step was kept: start again"
    )
    assert not (tmp_path / "run/checkpoint.weights.h5").exists()


@pytest.mark.real
@pytest.mark.parametrize("asked", [0, 1])
def test_two_processes_end_together(tmp_path, asked):
    """Only one of them is asked; both name the same step, and resume to the weights of an unbroken run."""
    run = [*COMMAND, "--hidden-dim", "8", "--depth", "1", "--batch-size", "128", "--ema-momentum", "0.9"]
    run += ["--epochs", "12", "--output", "run"]

    def both(place, arguments, interrupt=None):
        folders = [tmp_path / place / name for name in ("chief", "other")]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        configs = tf_configs(2)
        with (
            started(arguments, folders[0], TF_CONFIG=configs[0]) as chief,
            started(arguments, folders[1], TF_CONFIG=configs[1]) as other,
        ):
            if interrupt is not None:
                wait_for((folders[0] / "run/checkpoint.weights.h5").exists, chief)
                (chief, other)[interrupt].send_signal(signal.SIGTERM)
            results = [process.communicate(timeout=900) for process in (chief, other)]
            return folders[0], [chief.returncode, other.returncode], [errors for _, errors in results]

    folder, codes, errors = both("broken", run, interrupt=asked)
    assert codes == [143, 143], errors
    lines = [text.splitlines()[-1] for text in errors]
    assert lines[0] == lines[1]
    assert re.match(
        r"terminated: ended in epoch \d+, after step \d+ of it; continue with: .*--resume", lines[0]
    )
    _, codes, errors = both("broken", [*run, "--resume"])
    assert codes == [0, 0], errors
    unbroken, codes, errors = both("unbroken", run)
    assert codes == [0, 0], errors
    assert_same_models(folder, unbroken)
