"""Runs that are killed, run out of disk, or lose their way: real processes."""

import dataclasses
import hashlib
import json
import os
import random
import re
import shutil
import subprocess

import h5py
import keras
import numpy as np
import pytest
from processes import COMMAND, run, started, wait_for
from small_runs import StopAfter

from convmixer_keras.models.saving import weights_size
from convmixer_keras.recipes import DIGITS
from convmixer_keras.training import trainer
from convmixer_keras.training.run import checkpoint
from convmixer_keras.training.run.callbacks import NonFiniteLoss
from convmixer_keras.training.step import training_model

SMALL = ["--hidden-dim", "8", "--depth", "1", "--batch-size", "64", "--output", "run"]
# 22 steps an epoch, with everything that is drawn at random.
RUN = [*SMALL, "--epochs", "3", "--checkpoint-every", "4", "--deterministic", "--ema-momentum", "0.9"]
RUN += ["--flip", "--randaugment-ops", "1", "--erasing-probability", "0.3", "--mixup-alpha", "0.4"]


def progress(folder):
    """Finished epochs and batches of a run's checkpoint; none before the first."""
    try:
        with h5py.File(folder / "run/checkpoint.weights.h5") as file:
            return int(file.attrs["epochs"]), int(file.attrs["batches"])
    except FileNotFoundError:
        return 0, 0


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def same_weights(one, other):
    pairs = zip(*(keras.saving.load_model(path).get_weights() for path in (one, other)), strict=True)
    return all(np.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in pairs)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    done = run(*RUN, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.real
def test_a_killed_run_ends_like_one_that_was_not(unbroken, tmp_path):
    with started([*COMMAND, *RUN], tmp_path) as process:
        # In the middle of the second epoch.
        wait_for(lambda: progress(tmp_path) >= (1, 8), process)
        process.kill()
    before = progress(tmp_path)
    assert (1, 8) <= before < (3, 0)
    resumed = run("--resume", *RUN[RUN.index("--output") :], cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert f"Epoch {before[0] + 1}/3" in resumed.stdout
    assert f"Epoch {before[0]}/3" not in resumed.stdout
    assert same_weights(tmp_path / "run/last.keras", unbroken / "run/last.keras")
    ours, theirs = (
        np.genfromtxt(folder / "run/history.csv", delimiter=",", names=True)
        for folder in (tmp_path, unbroken)
    )
    for name in ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4, err_msg=name)


@pytest.mark.real
def test_twenty_kills_cost_no_checkpoint(unbroken, tmp_path):
    """Each time the run goes on from its last checkpoint, however far that one was written."""
    draws = random.Random(0)
    arguments = RUN
    for _ in range(20):
        before = progress(tmp_path)
        with started([*COMMAND, *arguments], tmp_path) as process:
            wait_for(lambda b=before: progress(tmp_path) > b or process.poll() is not None, process)
            try:
                process.wait(draws.uniform(0, 0.5))
            except subprocess.TimeoutExpired:
                process.kill()
        assert progress(tmp_path) > before
        arguments = ["--resume", *RUN[RUN.index("--output") :]]
        if progress(tmp_path) == (3, 0):
            shutil.rmtree(tmp_path / "run")
            arguments = RUN
    if not (tmp_path / "run").exists() or progress(tmp_path) == (0, 0):
        arguments = [*RUN, "--overwrite"]
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert same_weights(tmp_path / "run/last.keras", unbroken / "run/last.keras")
    assert not [name for name in os.listdir(tmp_path / "run") if name.startswith(".")]


@pytest.fixture
def stopped(unbroken, tmp_path):
    """A run of whose three epochs the first is finished."""
    with started([*COMMAND, *RUN], tmp_path) as process:
        wait_for(lambda: progress(tmp_path) >= (1, 0), process)
        process.kill()
    return tmp_path


@pytest.mark.real
def test_no_room_at_any_point_of_writing(stopped):
    """Files above a size cannot be written, so that each in its turn is the one that fails."""
    # Room for the model, and not for the checkpoint with its optimizer.
    between = weights_size(keras.saving.load_model(stopped / "run/last.keras")) + 1000
    for limit, file in (
        (100, "(config.json|tensorboard|last.keras)"),
        (20_000, "last.keras"),
        (between, "checkpoint.weights.h5"),
    ):
        before = progress(stopped), digest(stopped / "run/checkpoint.weights.h5")
        # A checkpoint within the epoch would come before the models.
        resume = ["--resume", "--output", "run", "--checkpoint-every", "0"]
        failed = run(*resume, cwd=stopped, largest_file=limit)
        assert failed.returncode == 1, failed.stderr
        assert re.fullmatch(rf"error: cannot write run/{file}: .*", failed.stderr.splitlines()[-1])
        assert "Traceback" not in failed.stderr
        assert (progress(stopped), digest(stopped / "run/checkpoint.weights.h5")) == before
        keras.saving.load_model(stopped / "run/last.keras")
    done = run("--resume", "--output", "run", cwd=stopped)
    assert done.returncode == 0, done.stderr
    assert progress(stopped) == (3, 0)


@pytest.mark.real
def test_a_full_disk(unbroken, tmp_path):
    """A disk of its own, that is made too small while the run is half done."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", disk], check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        done = run(*SMALL, "--epochs", "2", cwd=disk)
        assert done.returncode == 0, done.stderr
        used = sum(os.path.getsize(os.path.join(d, f)) for d, _, files in os.walk(disk) for f in files)
        config = json.loads((disk / "run/config.json").read_text())
        config["recipe"]["epochs"] = 4
        (disk / "run/config.json").write_text(json.dumps(config))
        before = digest(disk / "run/checkpoint.weights.h5")
        subprocess.run(["mount", "-o", f"remount,size={used + 60_000}", disk], check=True)
        failed = run("--resume", "--output", "run", cwd=disk)
        assert failed.returncode == 1, failed.stderr
        assert failed.stderr.splitlines()[-1].endswith("no space left on device")
        assert digest(disk / "run/checkpoint.weights.h5") == before
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        assert run("--resume", "--output", "run", cwd=disk).returncode == 0
        assert progress(disk) == (4, 0)
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.real
def test_a_checkpoint_cut_short_by_hand(unbroken, tmp_path):
    shutil.copytree(unbroken / "run", tmp_path / "run")
    checkpoint = tmp_path / "run/checkpoint.weights.h5"
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    before = {path: digest(path) for path in (tmp_path / "run").glob("*.*")}
    refused = run("--resume", "--output", "run", cwd=tmp_path)
    assert refused.returncode == 2
    assert re.fullmatch(
        r"error: run/checkpoint\.weights\.h5 cannot be resumed from: .*", refused.stderr.splitlines()[-1]
    )
    assert {path: digest(path) for path in (tmp_path / "run").glob("*.*")} == before


@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param("one", marks=pytest.mark.slow),
        pytest.param("mirrored", marks=pytest.mark.real),
    ],
)
def test_a_loss_that_is_no_number_stops_the_run(tmp_path, strategy):
    arguments = [*SMALL, "--strategy", strategy, "--epochs", "3", "--clip-norm", "0"]
    done = run(*arguments, "--learning-rate", "1e12", cwd=tmp_path)
    assert done.returncode == 1
    message = re.fullmatch(
        r"error: the loss is (nan|inf) in step (\d+) \(epoch (\d), step (\d+) of 22\), at the learning rate "
        r"(\S+); nothing was written since the last checkpoint",
        done.stderr.splitlines()[-1],
    )
    assert message, done.stderr
    step, epoch, of_epoch = int(message[2]), int(message[3]), int(message[4])
    assert step == (epoch - 1) * 22 + of_epoch > 1
    rate = np.interp(step / 66, [0, 0.4, 0.8, 1], [0, 1e12, 5e10, 0])
    assert float(message[5]) == pytest.approx(rate, rel=1e-3)
    assert epoch == 1
    assert [path.name for path in (tmp_path / "run").iterdir() if path.is_file()] == ["config.json"]


class Poison(keras.callbacks.Callback):
    """Makes a weight no number before a batch of the second epoch of seven steps, or of its validation."""

    def __init__(self, phase, batch):
        super().__init__()
        self.phase, self.batch = phase, batch

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def _poison(self, phase, batch):
        if (self.epoch, self.phase, self.batch) == (1, phase, batch):
            bias = self.model.trainable_variables[-1]
            bias.assign(bias + np.nan)

    def on_train_batch_begin(self, batch, logs=None):
        self._poison("train", batch)

    def on_test_batch_begin(self, batch, logs=None):
        self._poison("test", batch)


@pytest.mark.parametrize(
    ("phase", "batch", "policy", "message"),
    [
        ("train", 2, "float32", r"the loss is nan in step 10 \(epoch 2, step 3 of 7\), at the learning"),
        pytest.param(
            "test",
            1,
            "float32",
            r"weights are no longer finite after step 14 \(epoch 2, step 7 of 7\), at",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "train",
            0,
            "mixed_float16",
            r"the loss is nan in step 8 \(epoch 2, step 1 of 7\), at the learning",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_is_not_finite_is_not_written(tmp_path, monkeypatch, phase, batch, policy, message):
    """What the first epoch left stays as it was, to the byte."""
    monkeypatch.setattr(training_model, "SKIPPED_STEPS", 2)
    recipe = dataclasses.replace(DIGITS, hidden_dim=8, depth=1, epochs=2, batch_size=180, ema_momentum=0.9)
    recipe = dataclasses.replace(recipe, dtype_policy=policy)
    left = {}

    class Remember(Poison):
        def on_epoch_begin(self, epoch, logs=None):
            super().on_epoch_begin(epoch)
            left.update({path: digest(path) for path in (tmp_path / "run").glob("*.[hck]*")})

    with pytest.raises(NonFiniteLoss, match=message):
        trainer.train(recipe, tmp_path / "run", callbacks=[Remember(phase, batch)], verbose=0)
    assert {path.name for path in left} >= {"model.keras", "last.keras", "checkpoint.weights.h5"}
    assert {path: digest(path) for path in left} == left


def test_a_validation_that_is_not_finite(tmp_path):
    """By running statistics alone, which training does not use."""

    class Break(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            if (tmp_path / "run/history.csv").exists():  # After the first epoch.
                for variable in self.model.non_trainable_variables:
                    variable.assign(-np.ones(variable.shape))

    recipe = dataclasses.replace(DIGITS, hidden_dim=8, depth=1, epochs=2, batch_size=180)
    with pytest.raises(NonFiniteLoss, match="the validation loss is nan after epoch 2; nothing was written"):
        trainer.train(recipe, tmp_path / "run", callbacks=[Break()], verbose=0)
    assert len((tmp_path / "run/history.csv").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "place", ["before the checkpoint", pytest.param("behind the checkpoint", marks=pytest.mark.slow)]
)
def test_the_best_model_is_that_of_the_history_wherever_a_run_is_killed(tmp_path, monkeypatch, place):
    """At the end of the second epoch, whose repetition would come out otherwise on a GPU."""
    recipe = dataclasses.replace(DIGITS, hidden_dim=8, depth=1, epochs=2, batch_size=180)
    before, written = place == "before the checkpoint", checkpoint.write

    def write(model, path, progress):
        if before and progress.epochs == 2:
            raise StopAfter
        written(model, path, progress)
        if progress.epochs == 2:
            raise StopAfter

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write", write)
        with pytest.raises(StopAfter):
            trainer.train(recipe, tmp_path / "run", verbose=0)
    one_epoch = (tmp_path / "run/history.csv").read_text()
    assert len(one_epoch.splitlines()) == 2
    first = digest(tmp_path / "run/model.keras")

    class Worse(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["val_accuracy"] = 0.0

    again = trainer.train(recipe, tmp_path / "run", resume=True, callbacks=[Worse()], verbose=0)
    assert len(again) == 2
    assert (again[1]["val_accuracy"] == 0) == before
    assert (digest(tmp_path / "run/model.keras") == first) == before
    assert not list((tmp_path / "run").glob(".*"))
