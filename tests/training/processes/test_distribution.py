import contextlib
import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from PIL import Image
from processes import COMMAND, run, started, tf_configs, wait_for
from small_models import build

from convmixer_keras import recipes
from convmixer_keras.data import pipeline as data
from convmixer_keras.training.processes import distribution
from convmixer_keras.training.processes.workers import ALONE
from convmixer_keras.utils.errors import InputError

# Eleven steps with every part of the optimizer at work: the norm of the gradient is above 0.05.
ELEVEN_STEPS = {
    "hidden_dim": 12,
    "depth": 2,
    "patch_size": 2,
    "epochs": 1,
    "batch_size": 128,
    "ema_momentum": 0.5,
    "clip_norm": 0.05,
}


def run_together(folder, strategy, replicas, changes, configs=("",), seen=()):
    """Runs `distributed_run.py` in a process for each TF_CONFIG; returns what each printed."""
    processes = []
    for i, config in enumerate(configs):
        environment = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"}
        place = folder / f"process{i}"
        place.mkdir(parents=True)
        arguments = [strategy, replicas, "run", json.dumps(changes), *([str(seen[i])] if seen else [])]
        processes.append(
            subprocess.Popen(
                [
                    sys.executable,
                    str(ROOT / "tests" / "training" / "processes" / "distributed_run.py"),
                    *arguments,
                ],
                cwd=place,
                env={**environment, **({"TF_CONFIG": config} if config else {})},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    outputs = []
    for process in processes:
        stdout, stderr = process.communicate(timeout=1500)
        assert process.returncode == 0, stderr
        outputs.append(stdout.splitlines())
    return outputs


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same eleven steps on one device, two mirrored ones, and two processes: folder, printed lines."""
    root = tmp_path_factory.mktemp("runs")
    seen = [root / "seen0.npy", root / "seen1.npy"]
    return root, {
        "one": run_together(root / "one", "one", "1", ELEVEN_STEPS),
        "mirrored": run_together(root / "mirrored", "mirrored", "2", ELEVEN_STEPS),
        "multiworker": run_together(root / "multiworker", "auto", "1", ELEVEN_STEPS, tf_configs(2), seen),
    }


@pytest.mark.slow
def test_every_process_has_the_head_that_learnt_alone(tmp_path):
    """A rate of 0 leaves it: loss and accuracy over all validation images are those of one device."""
    mean, std = (255 * value[0] for value in (recipes.DIGITS.mean, recipes.DIGITS.std))
    body = build(
        hidden_dim=8,
        depth=1,
        kernel_size=3,
        patch_size=2,
        input_shape=(8, 8, 1),
        input_mean=mean,
        input_std=std,
    )
    body.save(tmp_path / "body.keras")
    changes = {"hidden_dim": 8, "depth": 1, "patch_size": 2, "epochs": 1, "learning_rate": 0.0}
    changes |= {"head_epochs": 5, "head_learning_rate": 0.03, "batch_norm_statistics": "kept"}
    changes |= {"init_from": str(tmp_path / "body.keras")}
    (one,) = run_together(tmp_path / "one", "one", "1", changes)
    (mirrored,) = run_together(tmp_path / "mirrored", "mirrored", "2", changes)
    several = run_together(tmp_path / "multiworker", "auto", "1", changes, tf_configs(2))
    heads = [[line for line in lines if line.startswith("head: ")] for lines in (one, mirrored, *several)]
    assert heads[0] == heads[1] == heads[2]
    assert heads[3] == []
    (expected,) = json.loads(one[-1])
    assert heads[0][0].endswith(f"validation accuracy {100 * expected['val_accuracy']:.2f} %")
    for lines in (mirrored, *several):
        (row,) = json.loads(lines[-1])
        for name in ("val_loss", "val_accuracy", "val_top5"):
            assert row[name] == pytest.approx(expected[name], rel=1e-4), name


def numbers(path):
    """Every array of a checkpoint, by name."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
        )
    return found


@pytest.mark.parametrize("strategy", ["mirrored", "multiworker"])
@pytest.mark.slow
def test_replicas_take_the_steps_of_one_device(runs, strategy):
    """Weights, running statistics, moments and moving averages after eleven clipped steps."""
    root, _ = runs
    expected = numbers(root / "one/process0/run/checkpoint.weights.h5")
    found = numbers(root / strategy / "process0/run/checkpoint.weights.h5")
    assert found.keys() == expected.keys()
    # 22 trainable weights with two moments and a moving average each, the moving averages of 5 means and
    # variances, and the count of steps.
    assert len([name for name in found if name.startswith("optimizer")]) == 3 * 22 + 2 * 5 + 1
    for name, value in expected.items():
        np.testing.assert_allclose(
            found[name], value, rtol=1e-4, atol=1e-4 * np.abs(value).max() + 1e-12, err_msg=name
        )


@pytest.mark.parametrize("strategy", ["mirrored", "multiworker"])
@pytest.mark.slow
def test_figures_are_those_of_all_images(runs, strategy):
    """The 360 test scans leave the last batch 104: 64 + 40, or 52 for each of two workers."""
    root, printed = runs
    expected = json.loads(printed["one"][0][-1])
    for lines in printed[strategy]:
        for ours, theirs in zip(json.loads(lines[-1]), expected, strict=True):
            for name in ("loss", "accuracy", "top5", "val_loss", "val_accuracy", "val_top5"):
                assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name
    model = keras.saving.load_model(root / strategy / "process0/run/last.keras")
    images, labels = zip(*data.load_validation(recipes.DIGITS).images.as_numpy_iterator(), strict=True)
    logits, labels = model.predict(np.concatenate(images), verbose=0), np.concatenate(labels)
    log_softmax = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    last = json.loads(printed[strategy][0][-1])[-1]
    assert last["val_loss"] == pytest.approx(-(log_softmax * labels).sum(1).mean(), rel=1e-4)
    assert last["val_accuracy"] == pytest.approx((logits.argmax(1) == labels.argmax(1)).mean(), abs=1e-6)


@pytest.mark.slow
def test_several_steps_a_call_end_with_the_same_weights(runs, tmp_path):
    root, _ = runs
    changes = ELEVEN_STEPS | {"steps_per_execution": 4}
    run_together(tmp_path, "auto", "1", changes, tf_configs(2))
    expected = numbers(root / "multiworker/process0/run/checkpoint.weights.h5")
    for name, value in numbers(tmp_path / "process0/run/checkpoint.weights.h5").items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.slow
def test_workers_share_every_batch_without_loss_or_repetition(runs):
    root, _ = runs
    halves = [np.load(root / f"seen{i}.npy")[:11] for i in range(2)]
    assert [half.shape[:2] for half in halves] == [(11, 64)] * 2
    one = next(iter(data.load(dataclasses.replace(recipes.DIGITS, **ELEVEN_STEPS)).train.batch(11)))[0]
    for step in range(11):
        both = np.concatenate([half[step] for half in halves]).reshape(128, -1)
        alone = one[step].numpy().reshape(128, -1)
        np.testing.assert_array_equal(sorted(map(tuple, both)), sorted(map(tuple, alone)))


@pytest.mark.slow
def test_the_first_line_says_who_trains_what(runs):
    _, printed = runs
    assert printed["one"][0][0] == "strategy one: 1 replica of 128 images, 128 in a step"
    assert printed["mirrored"][0][0] == "strategy mirrored: 2 replicas of 64 images, 128 in a step"
    for i, lines in enumerate(printed["multiworker"]):
        assert lines[0] == (f"strategy multiworker, worker {i} of 2: 2 replicas of 64 images, 128 in a step")


@pytest.mark.slow
def test_only_the_chief_writes(runs):
    root, _ = runs
    assert "checkpoint.weights.h5" in os.listdir(root / "multiworker/process0/run")
    assert os.listdir(root / "multiworker/process1") == []


@pytest.mark.slow
def test_a_lost_worker_is_named_and_both_resume(tmp_path):
    """One of two processes is killed; the run's folder is on the chief's disk alone."""
    flags = ["--hidden-dim", "8", "--depth", "1", "--epochs", "6", "--batch-size", "128"]
    arguments = [*flags, "--strategy", "multiworker", "--output", "run"]
    folders = [tmp_path / "chief", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
    configs = tf_configs(2)
    with (
        started([*COMMAND, *arguments], folders[1], TF_CONFIG=configs[1]) as other,
        started([*COMMAND, *arguments], folders[0], TF_CONFIG=configs[0]) as chief,
    ):
        wait_for((folders[0] / "run/checkpoint.weights.h5").exists, chief)
        other.send_signal(signal.SIGKILL)
        _, errors = chief.communicate(timeout=30)
    assert chief.returncode == 1, errors
    address = json.loads(configs[0])["cluster"]["worker"][1]
    assert f"error: lost worker 1 ({address})" in errors.splitlines()[-1]
    assert "--resume --output run" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    finished = len((folders[0] / "run/history.csv").read_text().splitlines()) - 1
    assert 1 <= finished < 6

    configs = tf_configs(2)
    with (
        started(
            [*COMMAND, "--recipe", "digits", *arguments, "--resume"], folders[1], TF_CONFIG=configs[1]
        ) as other,
        started([*COMMAND, "--resume", "--output", "run"], folders[0], TF_CONFIG=configs[0]) as chief,
    ):
        output, errors = chief.communicate(timeout=900)
        assert other.wait(timeout=300) == 0
    assert chief.returncode == 0, errors
    assert f"Epoch {finished + 1}/6" in output
    assert f"Epoch {finished}/6" not in output
    assert len((folders[0] / "run/history.csv").read_text().splitlines()) == 7
    assert os.listdir(folders[1]) == []


@pytest.mark.slow
def test_a_worker_that_hangs_is_named(tmp_path):
    arguments = ["--hidden-dim", "8", "--depth", "1", "--batch-size", "128"]
    configs = tf_configs(2)
    with (
        started([*COMMAND, *arguments, "--output", "b"], tmp_path, TF_CONFIG=configs[1]) as other,
        started([*COMMAND, *arguments, "--output", "a"], tmp_path, TF_CONFIG=configs[0]) as chief,
    ):
        wait_for((tmp_path / "a/checkpoint.weights.h5").exists, chief)
        other.send_signal(signal.SIGSTOP)
        _, errors = chief.communicate(timeout=30)
    assert chief.returncode == 1
    assert "error: lost worker 1 (127.0.0.1" in errors.splitlines()[-1]


@pytest.mark.slow
def test_workers_with_other_flags_are_refused(tmp_path):
    configs = tf_configs(2)
    small = ["--hidden-dim", "8", "--depth", "1", "--batch-size", "128"]
    with (
        started([*COMMAND, *small, "--seed", "1"], tmp_path, TF_CONFIG=configs[1]) as other,
        started([*COMMAND, *small], tmp_path, TF_CONFIG=configs[0]) as chief,
    ):
        _, errors = other.communicate(timeout=300)
        _, chiefs_errors = chief.communicate(timeout=300)
    assert other.returncode == 2
    assert errors.splitlines()[-1] == "error: worker 1 must be given the same flags as worker 0"
    assert chief.returncode == 1
    assert re.search(r"error: lost worker 1 \(127.*\): worker 1 must be given the same flags", chiefs_errors)


@pytest.mark.slow
def test_workers_with_other_images_are_refused(tmp_path):
    """As many of the same classes, but one of another name."""
    configs = tf_configs(2)
    for place in ("chief", "other"):
        for number in range(16):
            folder = tmp_path / place / "photos" / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (12, 12), "red").save(folder / f"{number}.png")
    (tmp_path / "other/photos/b/5.png").rename(tmp_path / "other/photos/b/five.png")
    small = [
        "--dataset",
        "photos",
        "--epochs",
        "1",
        "--hidden-dim",
        "8",
        "--depth",
        "1",
        "--image-size",
        "12",
    ]
    with (
        started([*COMMAND, *small], tmp_path / "other", TF_CONFIG=configs[1]) as other,
        started([*COMMAND, *small], tmp_path / "chief", TF_CONFIG=configs[0]) as chief,
    ):
        _, errors = other.communicate(timeout=300)
        _, chiefs_errors = chief.communicate(timeout=300)
    message = "worker 1 has other images or classes than worker 0, by their names or sizes"
    assert (other.returncode, errors.splitlines()[-1]) == (2, f"error: {message}")
    assert chief.returncode == 1
    assert message in chiefs_errors.splitlines()[-1]


def both(arguments, folder):
    """Runs a chief and a worker to their end; returns their exit codes and what they printed."""
    configs = tf_configs(2)
    for place in ("chief", "other"):
        (folder / place).mkdir(exist_ok=True)
    with (
        started([*COMMAND, *arguments], folder / "other", TF_CONFIG=configs[1]) as other,
        started([*COMMAND, *arguments], folder / "chief", TF_CONFIG=configs[0]) as chief,
    ):
        printed = [process.communicate(timeout=300)[0] for process in (chief, other)]
    return [chief.returncode, other.returncode], printed


@pytest.mark.slow
def test_patience_ends_a_resumed_run_in_every_process(tmp_path):
    small = ["--hidden-dim", "8", "--depth", "1", "--batch-size", "128", "--learning-rate", "0"]
    codes, printed = both([*small, "--patience", "1", "--epochs", "9", "--output", "run"], tmp_path)
    assert codes == [0, 0]
    assert "ended: no better validation accuracy in 1 epoch (--patience)" in printed[0]
    rows = (tmp_path / "chief/run/history.csv").read_text()
    again = [*small, "--patience", "1", "--epochs", "20", "--output", "run", "--resume"]
    codes, printed = both(["--recipe", "digits", *again], tmp_path)
    assert codes == [0, 0]
    assert (tmp_path / "chief/run/history.csv").read_text() == rows


@pytest.mark.slow
def test_a_head_that_is_asked_to_end_ends_all(tmp_path):
    mean, std = (255 * value[0] for value in (recipes.DIGITS.mean, recipes.DIGITS.std))
    sizes = {"hidden_dim": 8, "depth": 1, "kernel_size": 3, "patch_size": 2, "input_shape": (8, 8, 1)}
    build(**sizes, input_mean=mean, input_std=std).save(tmp_path / "body.keras")
    configs = tf_configs(2)
    of_head = ["--init-from", "body.keras", "--head-epochs", "100000"]
    arguments = ["--dataset", "digits", *of_head, "--output", "run"]
    with (
        started([*COMMAND, *arguments], tmp_path, TF_CONFIG=configs[1]) as other,
        started([*COMMAND, *arguments], tmp_path, TF_CONFIG=configs[0]) as chief,
    ):
        for line in chief.stdout:
            if line.startswith("features of validation"):
                break
        chief.send_signal(signal.SIGTERM)
        errors = [process.communicate(timeout=60)[1] for process in (chief, other)]
    assert [chief.returncode, other.returncode] == [143, 143], errors
    for text in errors:
        line = text.splitlines()[-1]
        assert line == "terminated: ended before the first step; no step was kept: start again"


@pytest.mark.slow
def test_all_refuse_what_the_chief_refuses(tmp_path):
    """At once, and not after the time to wait for each other."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/model.keras").touch()
    configs = tf_configs(2)
    with (
        started([*COMMAND, "--output", "run"], tmp_path, TF_CONFIG=configs[1]) as other,
        started([*COMMAND, "--output", "run"], tmp_path, TF_CONFIG=configs[0]) as chief,
    ):
        for process in (other, chief):
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 2
            assert errors.splitlines()[-1].startswith("error: run holds model.keras, which is not from a run")


@pytest.mark.slow
def test_a_worker_that_never_starts_is_named(tmp_path):
    done = run("--peer-timeout", "1", cwd=tmp_path, TF_CONFIG=tf_configs(2)[0])
    assert done.returncode == 1
    assert re.fullmatch(
        r"error: worker 1 \(127\.0\.0\.1:\d+\) did not start within 1 s", done.stderr.splitlines()[-1]
    )
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("strategy", ["one", "mirrored", "multiworker"])
def test_mixed_precision_reaches_float32s_accuracy(tmp_path, strategy, policy):
    configs = tf_configs(2) if strategy == "multiworker" else [""]
    replicas = "2" if strategy == "mirrored" else "1"
    small = {"hidden_dim": 32, "depth": 2, "epochs": 15}
    printed = run_together(tmp_path / policy, strategy, replicas, {**small, "dtype_policy": policy}, configs)
    expected = run_together(tmp_path / "float32", "one", "1", small)
    ours, theirs = (
        max(row["val_accuracy"] for row in json.loads(lines[0][-1])) for lines in (printed, expected)
    )
    assert ours >= theirs - 0.005


KERAS_ALONE = """
import keras, tensorflow as tf
strategy = tf.distribute.MultiWorkerMirroredStrategy()
with strategy.scope():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile("sgd", keras.losses.MeanSquaredError(), metrics=["mae"])
model.fit(tf.data.Dataset.from_tensor_slices((tf.ones((8, 4)), tf.ones((8, 2)))).batch(4), verbose=0)
print("trained")
"""


@pytest.mark.slow
def test_keras_still_needs_the_distributed_model():
    """Fails once keras-team/keras issue 20585 is solved: then `TrainingModel` can be smaller."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", KERAS_ALONE],
            env={**os.environ, "TF_CONFIG": config},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for config in tf_configs(2)
    ]
    for process in processes:
        output, _ = process.communicate(timeout=600)
        assert "trained" not in output, "plain Keras trains under MultiWorkerMirroredStrategy by now"
        assert "PerReplica" in output


def test_auto(monkeypatch):
    for name in ("TF_CONFIG", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    assert distribution.choose_strategy("one") == ("one", ALONE)
    assert distribution.start_strategy("one", ALONE) is tf.distribute.get_strategy()
    if len(tf.config.list_physical_devices("GPU")) < 2:
        assert distribution.choose_strategy("auto") == ("one", ALONE)
    monkeypatch.setenv("TF_CONFIG", tf_configs(1)[0])
    assert distribution.choose_strategy("auto")[0] != "multiworker"
    monkeypatch.setenv("TF_CONFIG", tf_configs(3)[2])
    name, workers = distribution.choose_strategy("auto")
    assert (name, workers.count, workers.index, workers.name) == ("multiworker", 3, 2, "worker 2")


@pytest.mark.slow
def test_a_tpu_that_is_not_there(tmp_path):
    done = run(cwd=tmp_path, TPU_NAME="nosuch")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(
        "error: strategy tpu needs a TPU, here or named by TPU_NAME, which is 'nosuch'"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["", "nosuch", "grpc://127.0.0.1:1", "grpc://127.0.0.1", "grpc://[::1]:x", "\x1b"]
)
def test_names_of_tpus_that_are_not_there(name, monkeypatch):
    monkeypatch.setenv("TPU_NAME", name)
    with pytest.raises(InputError, match="strategy tpu needs a TPU") as error:
        distribution.start_strategy("tpu", ALONE)
    assert str(error.value).isprintable()


def test_a_tpu_that_does_not_answer(monkeypatch):
    """The queue of connections is full: as silent as a machine behind a firewall."""
    monkeypatch.setattr(distribution, "TPU_SECONDS", 0.5)
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        monkeypatch.setenv("TPU_NAME", f"grpc://127.0.0.1:{listening.getsockname()[1]}")
        with pytest.raises(InputError, match=r"strategy tpu needs a TPU.*timed out"):
            distribution.start_strategy("tpu", ALONE)
    assert socket.getdefaulttimeout() is None


def test_a_batch_that_cannot_be_shared():
    with pytest.raises(ValueError, match="batch_size must be a multiple of the 3 replicas, got 64"):
        distribution.summary("mirrored", ALONE, 3, 64)


def test_passes_that_cannot_share_a_batch():
    with pytest.raises(ValueError, match="a multiple of the 2 replicas times 3 passes, got 64"):
        distribution.summary("mirrored", ALONE, 2, 64, passes=3)


def assert_same_checkpoints(found, expected, tolerance):
    """Compares every array of two runs' checkpoints, relative to the largest value in it."""
    found, expected = (numbers(run / "process0/run/checkpoint.weights.h5") for run in (found, expected))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        atol = tolerance * np.abs(value).max() + 1e-12
        np.testing.assert_allclose(found[name], value, rtol=0, atol=atol, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "tolerance"), [("float32", 1e-5), ("mixed_bfloat16", 1e-2)])
def test_ten_passes_are_ten_replicas(tmp_path, policy, tolerance):
    """One device with ten passes takes the steps of ten devices with BatchNorm of their own, clipping on."""
    changes = {**ELEVEN_STEPS, "batch_size": 240, "batch_norm_statistics": "replica", "dtype_policy": policy}
    run_together(tmp_path / "ten", "mirrored", "10", changes)
    run_together(tmp_path / "one", "one", "1", {**changes, "accumulate": 10})
    assert_same_checkpoints(tmp_path / "one", tmp_path / "ten", tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "tolerance"), [("float32", 1e-5), ("mixed_float16", 1e-2)])
def test_two_passes_on_two_replicas_are_four_replicas(tmp_path, policy, tolerance):
    changes = {**ELEVEN_STEPS, "batch_norm_statistics": "replica", "dtype_policy": policy}
    run_together(tmp_path / "four", "mirrored", "4", changes)
    again = {**changes, "accumulate": 2, "rematerialize": True}
    lines = run_together(tmp_path / "two", "mirrored", "2", again)
    assert "2 replicas of 2 times 32 images, 128 in a step" in lines[0][0]
    assert_same_checkpoints(tmp_path / "two", tmp_path / "four", tolerance)


@pytest.mark.slow
def test_passes_in_two_processes(tmp_path):
    """With BatchNorm over each pass's images of both; rematerialized blocks exchange the same once more."""
    changes = {**ELEVEN_STEPS, "accumulate": 2}
    run_together(tmp_path / "kept", "auto", "1", changes, tf_configs(2))
    lines = run_together(tmp_path / "again", "auto", "1", changes | {"rematerialize": True}, tf_configs(2))
    assert "2 replicas of 2 times 32 images, 128 in a step" in lines[0][0]
    assert_same_checkpoints(tmp_path / "again", tmp_path / "kept", 1e-5)


@pytest.mark.parametrize("size", [12, 13, 14, 15])
def test_every_replica_has_an_image_of_each_validation_batch(tmp_path, size):
    """Three replicas with two images each; 0 to 3 images are left for the last batch."""
    images = np.random.default_rng(0).integers(0, 255, (size, 2, 2, 3), dtype=np.uint8)
    for split, count in (("train", 6), ("val", size)):
        for i in range(count):
            folder = tmp_path / split / f"class{i % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[i]).save(folder / f"{i}.png")
    recipe = dataclasses.replace(recipes.DIGITS, dataset=str(tmp_path), batch_size=6, image_size=4)
    loaded = data.load(recipe, full_batches=True)
    parts = list(loaded.validation.rebatch(2).as_numpy_iterator())
    assert len(parts) == 3 * loaded.validation_steps == 3 * -(-size // 6)
    assert all(len(images) == 2 for images, _, _ in parts)
    assert sum(weights.sum() for _, _, weights in parts) == size


@pytest.mark.slow
def test_a_last_batch_for_one_of_two_replicas(tmp_path):
    """360 test scans in batches of 70 leave 10, which fit into one replica's 35."""
    changes = {"hidden_dim": 8, "depth": 1, "epochs": 1, "batch_size": 70}
    one, two = (
        json.loads(run_together(tmp_path / name, name, n, changes)[0][-1])[-1]
        for name, n in (("one", "1"), ("mirrored", "2"))
    )
    assert two["val_accuracy"] == pytest.approx(one["val_accuracy"], abs=0.01)
    assert two["val_loss"] == pytest.approx(one["val_loss"], rel=1e-3)


@pytest.mark.slow
def test_weighted_classes_have_the_loss_of_one_device(tmp_path):
    """The halves of a batch have different sums of weights: ninety images of one class, thirty, and ten."""
    random = np.random.default_rng(0)
    for split, counts in (("train", (90, 30, 10)), ("val", (4, 4, 4))):
        for number, count in enumerate(counts):
            folder = tmp_path / "photos" / split / str(number)
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 255, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    changes = ELEVEN_STEPS | {"dataset": str(tmp_path / "photos"), "batch_size": 26, "epochs": 2}
    changes |= {"class_weight": "balanced"}
    one = run_together(tmp_path / "one", "one", "1", changes)
    mirrored = run_together(tmp_path / "mirrored", "mirrored", "2", changes)
    plain = run_together(tmp_path / "plain", "one", "1", changes | {"class_weight": "none"})
    ours, theirs, unweighted = (json.loads(printed[0][-1]) for printed in (mirrored, one, plain))
    for epoch, expected in zip(ours, theirs, strict=True):
        for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
            assert epoch[name] == pytest.approx(expected[name], rel=1e-5), name
    assert abs(unweighted[0]["loss"] - theirs[0]["loss"]) > 1e-3
    found = numbers(tmp_path / "mirrored/process0/run/checkpoint.weights.h5")
    for name, expected in numbers(tmp_path / "one/process0/run/checkpoint.weights.h5").items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5, err_msg=name)
