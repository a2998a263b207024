"""SIGTERM: the run ends between two steps, and a resume ends with the weights of an unbroken run."""

import dataclasses
import os
import re
import signal

import keras
import numpy as np
import pytest
from processes import COMMAND, started, tf_configs, wait_for

from convmixer_keras.recipes import DIGITS
from convmixer_keras.training import trainer as training
from convmixer_keras.training.processes.termination import Terminated

RECIPE = dataclasses.replace(
    DIGITS, hidden_dim=8, depth=1, epochs=2, batch_size=120, ema_momentum=0.9, mixup_alpha=0.4
)


class TermAt(keras.callbacks.Callback):
    """Sends this process a SIGTERM before a batch of the first epoch: of training, or of validation."""

    def __init__(self, phase, batch):
        super().__init__()
        self.phase, self.batch = phase, batch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.phase, self.batch) == ("train", batch):
            os.kill(os.getpid(), signal.SIGTERM)

    def on_test_batch_begin(self, batch, logs=None):
        if (self.phase, self.batch) == ("test", batch):
            os.kill(os.getpid(), signal.SIGTERM)


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
    ("phase", "batch", "step"),
    [
        pytest.param("test", 1, 11, marks=pytest.mark.slow),
        pytest.param("train", 4, 4, marks=pytest.mark.real),
        pytest.param("train", 0, 0, marks=pytest.mark.real),
    ],
)
def test_a_run_that_was_asked_to_end_goes_on(unbroken, tmp_path, phase, batch, step):
    heard_before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated, match=f"ended in epoch 1, after step {step} of it"):
        training.train(RECIPE, tmp_path / "run", callbacks=[TermAt(phase, batch)], verbose=0)
    assert signal.getsignal(signal.SIGTERM) == heard_before
    assert os.path.exists(tmp_path / "run/checkpoint.weights.h5") == (step > 0)
    history = training.train(RECIPE, tmp_path / "run", resume=True, verbose=0)
    for ours, theirs in zip(history, unbroken[1], strict=True):
        for name in ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name
    assert_same_models(tmp_path, unbroken[0])


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
        r"terminated: ended in epoch \d+, after step \d+ of it; continue with .*--resume", lines[0]
    )
    _, codes, errors = both("broken", [*run, "--resume"])
    assert codes == [0, 0], errors
    unbroken, codes, errors = both("unbroken", run)
    assert codes == [0, 0], errors
    assert_same_models(folder, unbroken)
