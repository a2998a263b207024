"""Runs that are resumed: what they remember, what may change, and what is refused."""

import dataclasses
import glob
import json
import os
import random
import shutil
import sys

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from processes import started
from small_runs import TINY, StopAfter, interrupt_after

from convmixer_keras.commands import train
from convmixer_keras.commands.earlier_run import settings_of_run
from convmixer_keras.training import trainer as training
from convmixer_keras.training.run import checkpoint as checkpoint_file
from convmixer_keras.training.run import run_folder
from convmixer_keras.training.run.resume import exhausted
from convmixer_keras.training.run.settings import Settings
from convmixer_keras.utils.errors import InputError


@pytest.fixture
def recipe(image_folder):
    return dataclasses.replace(TINY, dataset=str(image_folder), epochs=2)


def scalars(folder):
    """All (split, tag, step, value) of TensorBoard's logs."""
    found = []
    for split in ("train", "validation"):
        for path in glob.glob(os.path.join(folder, split, "events*")):
            for event in tf.compat.v1.train.summary_iterator(path):
                for value in event.summary.value:
                    found.append((split, value.tag, event.step, float(tf.make_ndarray(value.tensor))))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("policies", [("float32", "mixed_float16"), ("mixed_float16", "float32")])
def test_what_may_change(recipe, tmp_path, policies):
    output = tmp_path / "run"
    begun = dataclasses.replace(recipe, dtype_policy=policies[0], epochs=1)
    training.train(begun, output, verbose=0)
    with h5py.File(output / run_folder.CHECKPOINT) as file:
        steps = len(file.attrs) and int(file.attrs["epochs"]) * 6
    changed = dataclasses.replace(
        begun, epochs=3, learning_rate=0.002, weight_decay=0.1, clip_norm=0.5, dtype_policy=policies[1]
    )
    history = training.train(changed, output, Settings(max_bad_images=2), resume=True, verbose=0)
    assert [row["epoch"] for row in history] == [1, 2, 3]
    # The rate after epoch 2 is that of a run of three epochs from its beginning.
    done = (2 * steps + 1) / (3 * steps)  # The rate is that of the next step.
    expected = np.interp(done, [0, 0.4, 0.8, 1], [0, 1, 0.05, 0]) * 0.002
    assert history[1]["learning_rate"] == pytest.approx(expected, rel=1e-4)
    config = json.loads((output / "config.json").read_text())
    assert config["recipe"]["epochs"] == 3
    (note,) = config["changes"]
    assert note["after_epochs"] == 1
    assert note["changed"]["learning_rate"] == [0.01, 0.002]
    assert note["changed"]["dtype_policy"] == list(policies)
    assert note["changed"]["max_bad_images"] == [0, 2]
    folder = run_folder.RunFolder(output)
    assert (folder.recipe(), folder.settings()) == (changed, Settings(max_bad_images=2))
    # Nothing changes in a finished run that is resumed once more.
    assert training.train(changed, output, Settings(max_bad_images=2), resume=True, verbose=0) == history
    assert len(json.loads((output / "config.json").read_text())["changes"]) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_dim": 16}, "hidden_dim must be 8, as when the run began"),
        ({"seed": 4}, "seed must be 0"),
        ({"epochs": 1}, "epochs must be at least 2"),
    ],
)
def test_what_may_not_change(finished, recipe, changes, message):
    before = {path: path.read_bytes() for path in finished.glob("*.*")}
    with pytest.raises(InputError, match=message):
        training.train(dataclasses.replace(recipe, **changes), finished, resume=True, verbose=0)
    assert {path: path.read_bytes() for path in finished.glob("*.*")} == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeze": 1}, "freeze must be 0, as when the run began, to resume it; got 1"),
        ({"init_from": "ConvMixer256_8_P2"}, "init_from must be None, as when .* got 'ConvMixer256_8_P2'"),
    ],
)
def test_a_body_is_for_the_beginning(finished, recipe, changes, message):
    more = dataclasses.replace(recipe, epochs=3)
    with pytest.raises(InputError, match=message):
        training.train(more, finished, Settings(**changes), resume=True, verbose=0)


def test_a_callback_may_stop_the_rest_of_an_epoch(recipe, tmp_path):
    """A resume in the middle of an epoch trains its rest first, and then the other epochs."""

    class Broken(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 3:
                raise StopAfter

    class Enough(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    with pytest.raises(StopAfter):
        training.train(
            recipe, tmp_path / "run", Settings(checkpoint_every=2), callbacks=[Broken()], verbose=0
        )
    options = {"resume": True, "verbose": 0}
    history = training.train(
        recipe, tmp_path / "run", Settings(checkpoint_every=2), callbacks=[Enough()], **options
    )
    assert [row["epoch"] for row in history] == [1]
    history = training.train(recipe, tmp_path / "run", Settings(checkpoint_every=2), **options)
    assert [row["epoch"] for row in history] == [1, 2]


def test_the_same_folder_written_otherwise_is_no_change(finished, image_folder, monkeypatch, capsys):
    monkeypatch.chdir(image_folder.parent)
    flags = ["--resume", "--output", str(finished), "--dataset", f"{image_folder.name}/", "--epochs", "3"]
    arguments, recipe = train.parse(flags)
    assert settings_of_run(arguments, recipe, finished)[0].epochs == 3
    assert capsys.readouterr().out == f"epochs is 3; the run in {finished} had 2\n"


@pytest.fixture(scope="module")
def finished_once(image_folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("finished") / "run"
    training.train(dataclasses.replace(TINY, dataset=str(image_folder), epochs=2), output, verbose=0)
    return output


@pytest.fixture
def finished(finished_once, tmp_path):
    """A copy of a finished run of two epochs."""
    return shutil.copytree(finished_once, tmp_path / "run")


def test_a_folder_with_a_run_is_refused(finished, recipe, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in finished.iterdir()}
    with pytest.raises(ValueError, match=r"already holds a run.*resume=True.*overwrite=True.*output"):
        training.train(recipe, finished, verbose=0)
    with pytest.raises(ValueError, match=r"hidden_dim must be 8, .* got 16"):
        training.train(dataclasses.replace(recipe, hidden_dim=16), finished, resume=True, verbose=0)
    with pytest.raises(ValueError, match="holds no run"):
        training.train(recipe, tmp_path / "other", resume=True, verbose=0)
    assert {path: path.stat().st_mtime_ns for path in finished.iterdir()} == before
    run_folder.RunFolder(finished).remove_run()
    assert list(finished.iterdir()) == []


def test_a_damaged_checkpoint_is_named(finished, recipe):
    checkpoint = finished / run_folder.CHECKPOINT
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"checkpoint\.weights\.h5 cannot be resumed from"):
        training.train(recipe, finished, resume=True, verbose=0)


@pytest.mark.slow
def test_one_unbroken_run(recipe, tmp_path, monkeypatch):
    output = tmp_path / "run"
    recipe = dataclasses.replace(recipe, epochs=3)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(StopAfter):
            training.train(recipe, output, verbose=0)
    # A row that the checkpoint does not know yet, and one that was written twice.
    lines = (output / "history.csv").read_text().splitlines()
    (output / "history.csv").write_text("\n".join([*lines, lines[1], lines[2].replace("2,", "3,", 1)]) + "\n")
    history = training.train(recipe, output, resume=True, verbose=0)
    assert [row["epoch"] for row in history] == [1, 2, 3]
    logged = [
        (step, value) for split, tag, step, value in scalars(output / "tensorboard") if tag == "epoch_loss"
    ]
    expected = [(row["epoch"] - 1, row[name]) for name in ("loss", "val_loss") for row in history]
    np.testing.assert_allclose(sorted(logged), sorted(expected), rtol=1e-6)


@pytest.mark.slow
def test_a_history_shorter_than_the_checkpoint(finished, recipe):
    lines = (finished / "history.csv").read_text().splitlines()
    (finished / "history.csv").write_text(f"{lines[0]}\n{lines[2]}\n")
    history = training.train(dataclasses.replace(recipe, epochs=3), finished, resume=True, verbose=0)
    assert [row["epoch"] for row in history] == [2, 3]


@pytest.mark.slow
def test_the_process_is_left_as_it_was(recipe, tmp_path):
    from tensorflow.python.eager import context
    from tensorflow.python.framework import config

    keras.config.set_dtype_policy("mixed_bfloat16")
    keras.utils.set_random_seed(77)
    random.random(), np.random.random()
    before = random.getstate(), np.random.get_state()[1].tolist(), context.global_seed()
    recipe = dataclasses.replace(recipe, epochs=1, seed=5)
    training.train(recipe, tmp_path / "run", Settings(deterministic=True), verbose=0)
    assert keras.config.dtype_policy().name == "mixed_bfloat16"
    assert (random.getstate(), np.random.get_state()[1].tolist(), context.global_seed()) == before
    assert not config.is_op_determinism_enabled()
    with pytest.raises(InputError, match="already holds a run"):
        training.train(recipe, tmp_path / "run", verbose=0)
    assert keras.config.dtype_policy().name == "mixed_bfloat16"


@pytest.mark.slow
def test_patience(recipe, tmp_path, capsys):
    rows = [{"epoch": i + 1, "val_accuracy": a} for i, a in enumerate([0.1, 0.5, 0.5, 0.4])]
    assert exhausted(rows, 2)
    assert not exhausted(rows, 3)
    assert not exhausted(rows, 0)
    assert not exhausted([], 1)
    recipe = dataclasses.replace(recipe, epochs=9, learning_rate=0.0, patience=2)  # Which never gets better.
    history = training.train(recipe, tmp_path / "run", verbose=0)
    assert len(history) == 3
    longer = dataclasses.replace(recipe, epochs=20)
    resumed = training.train(longer, tmp_path / "run", resume=True, verbose=2)
    assert len(resumed) == 3
    assert "ended: no better validation accuracy in 2 epochs (patience)" in capsys.readouterr().out
    training.train(dataclasses.replace(recipe, epochs=3), tmp_path / "run", resume=True, verbose=2)
    assert "ended" not in capsys.readouterr().out  # The third was the last one by the recipe, too.


def test_a_run_touches_only_what_a_run_wrote(finished, recipe, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for name, content in (("model.keras", b"a model of my own"), ("config.json", b'{"mine": true}')):
        (other / name).write_bytes(content)
        for overwrite in (False, True):
            with pytest.raises(InputError, match=f"holds {name}, which is not from a run"):
                training.train(recipe, other, overwrite=overwrite, verbose=0)
        assert (other / name).read_bytes() == content
        (other / name).unlink()
    for kept in ("tensorboard/mine.txt", "tensorboard/train/notes", "notes.txt"):
        (finished / kept).write_text("kept")
    run_folder.RunFolder(finished).remove_run()
    left = sorted(str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file())
    assert left == ["notes.txt", "tensorboard/mine.txt", "tensorboard/train/notes"]


@pytest.mark.parametrize("path", ["gs://bucket/run", "hdfs://host/run", "s3:/x", "", " "])
def test_folders_that_are_not_local(path):
    with pytest.raises(InputError, match=r"only local folders|must not be empty"):
        run_folder.RunFolder(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "damaged"),
        ("[" * 100_000, "damaged"),
        ("{}", "has no recipe"),
        ("[]", "has no recipe"),
        ('{"recipe": 3}', "has no recipe"),
        ({"settings": None}, "has no settings"),
        ({"recipe": {"colour": 1}}, "Recipe has an unknown 'colour'"),
        ({"recipe": {"residual": None}}, "Recipe lacks 'residual'"),
        ({"settings": {"freeze": None}}, "Settings lacks 'freeze'"),
        ({"recipe": {"epochs": "two"}}, "epochs must be a whole number, got 'two'"),
        ({"recipe": {"epochs": float("nan")}}, "epochs must be a whole number"),
        ({"recipe": {"mean": ["x"]}}, "mean must be finite numbers"),
        ({"settings": {"freeze": "x"}}, "freeze must be a whole number"),
    ],
)
def test_damaged_configs(tmp_path, recipe, content, message):
    if isinstance(content, dict):  # Changes of a whole one; None takes a field away.
        config = {"recipe": dataclasses.asdict(recipe), "settings": dataclasses.asdict(Settings())}
        for name, changes in content.items():
            changed = {**config[name], **(changes or {})}
            config[name] = changes and {k: v for k, v in changed.items() if k not in changes or v is not None}
        content = json.dumps(config)
    (tmp_path / "config.json").write_text(content)
    folder = run_folder.RunFolder(tmp_path)
    with pytest.raises(InputError, match=message) as raised:
        folder.recipe(), folder.settings()
    assert "config.json" in str(raised.value)


@pytest.mark.parametrize(
    "content", ["", "epoch,loss\n1,0.5\n", "epoch,val_accuracy\none,0\n", "epoch,val_accuracy\n1,1\n", "\0"]
)
def test_damaged_histories(tmp_path, content):
    (tmp_path / "history.csv").write_text(content)
    folder = run_folder.RunFolder(tmp_path)
    if content in ("", "\0"):
        assert folder.read_history() == []
    else:
        with pytest.raises(InputError, match="damaged"):
            folder.read_history()


def damage(path, name, value):
    with h5py.File(path, "a") as file:
        del file.attrs[name]
        if value is not None:
            file.attrs[name] = value
        if name == "batches":
            file.attrs["epochs"] = 1


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("epochs", 999, "epochs must be at least 999"), ("batches", 10**9, "steps into an epoch")],
)
def test_a_checkpoint_of_another_length(finished, recipe, name, value, message):
    damage(finished / run_folder.CHECKPOINT, name, value)
    with pytest.raises(InputError, match=message):
        training.train(recipe, finished, resume=True, verbose=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", -1),
        ("epochs", "many"),
        ("seconds", np.nan),
        ("sums", None),
    ],
)
def test_damaged_checkpoint_attributes(finished, name, value):
    path = finished / run_folder.CHECKPOINT
    damage(path, name, value)
    with pytest.raises(InputError, match=rf"^{path} cannot be resumed from: "):
        checkpoint_file.restore(None, path)  # Before anything of the model is looked at.


@pytest.fixture
def photos(image_folder, tmp_path, recipe):
    """A folder of images of its own and a run of one epoch on them, to go on with for another."""
    shutil.copytree(image_folder, tmp_path / "photos")
    recipe = dataclasses.replace(recipe, dataset=str(tmp_path / "photos"), epochs=1)
    training.train(recipe, tmp_path / "run", verbose=0)
    return tmp_path / "photos", dataclasses.replace(recipe, epochs=2)


def resumed(photos, **options):
    return training.train(photos[1], photos[0].parent / "run", resume=True, verbose=0, **options)


@pytest.mark.slow
def test_other_images_are_not_gone_on_with(photos, tmp_path, capsys):
    """Each change as the command would meet it, and at last all of them accepted."""
    root = photos[0]
    (root / "train/red/1.jpg").rename(root / "train/red/another.jpg")
    with pytest.raises(
        InputError, match="now there are others, by their names or sizes: accept_changed_data=True"
    ):
        resumed(photos)
    (root / "train/red/another.jpg").rename(root / "train/red/1.jpg")
    kept = (root / "val/red/1.jpg").read_bytes()
    Image.new("RGB", (300, 300), "red").save(root / "val/red/1.jpg")
    with pytest.raises(InputError, match="others, by their names or sizes"):
        resumed(photos)
    (root / "val/red/1.jpg").write_bytes(kept)
    shutil.copy(root / "train/red/1.jpg", root / "train/red/more.jpg")
    with pytest.raises(InputError, match=r"began with 36 and 15 images .*now there are 37 and 15: accept_"):
        resumed(photos)
    assert len(resumed(photos, accept_changed_data=True)) == 2
    assert "may have trained on some that it validates on now" in capsys.readouterr().err
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["changes"][0]["changed"]["train_images"] == [36, 37]
    assert config["train_images"] == 37


@pytest.mark.slow
def test_the_schedule_counts_the_steps_of_the_images_that_are_there(photos):
    """Half of them gone: the rate is still that of a run that had these from its beginning."""
    root, recipe = photos[0], dataclasses.replace(photos[1], epochs=3)  # At the end of any run the rate is 0.
    for path in sorted((root / "train").glob("*/*"))[::2]:
        path.unlink()
    rows = training.train(recipe, root.parent / "run", resume=True, accept_changed_data=True, verbose=0)
    fresh = training.train(recipe, root.parent / "fresh", verbose=0)
    assert rows[1]["learning_rate"] == pytest.approx(fresh[1]["learning_rate"])


def test_other_classes_are_never_gone_on_with(photos):
    for split in ("train", "val"):
        (photos[0] / split / "blue").rename(photos[0] / split / "violet")
    with pytest.raises(InputError, match="the classes blue, green, red, and the data set has green, red"):
        resumed(photos, accept_changed_data=True)


def test_a_run_without_what_it_must_have(photos, tmp_path):
    config = json.loads((tmp_path / "run/config.json").read_text())
    del config["fingerprints"]
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"config\.json lacks 'fingerprints'"):
        resumed(photos)
    before = (tmp_path / "run/history.csv").read_bytes()
    (tmp_path / "run/checkpoint.weights.h5").unlink()
    with pytest.raises(InputError, match=r"has no checkpoint\.weights\.h5 to go on from"):
        resumed(photos)
    assert (tmp_path / "run/history.csv").read_bytes() == before


@pytest.mark.slow
def test_a_run_that_kept_nothing_is_in_nobodys_way(finished, recipe):
    """As of one that was killed within its first epoch."""
    for name in ("model.keras", "last.keras", "history.csv", "curves.png", "checkpoint.weights.h5"):
        (finished / name).unlink()
    assert len(training.train(recipe, finished, verbose=0)) == 2


@pytest.mark.slow
def test_two_processes_do_not_write_into_one_folder(finished, recipe):
    holder = (
        "import sys, time\n"
        "from convmixer_keras.training.run.run_folder import RunFolder\n"
        "folder = RunFolder(sys.argv[1])\n"
        "folder.lock()\n"
        "print('locked', flush=True)\n"
        "time.sleep(600)\n"
    )
    with started([sys.executable, "-c", holder, finished], finished) as process:
        assert process.stdout.readline() == "locked\n"
        for options in ({"overwrite": True}, {"resume": True}):
            with pytest.raises(InputError, match=f"is in use by process {process.pid} on .*: choose another"):
                training.train(recipe, finished, verbose=0, **options)
        process.kill()
    assert len(training.train(recipe, finished, resume=True, verbose=0)) == 2  # The dead one does not count.


@pytest.mark.parametrize("name", ["curves.png", "history.csv"])
def test_what_cannot_be_written_is_said_at_once(finished, recipe, name):
    (finished / name).unlink()
    (finished / name).symlink_to("/dev/null")
    for options in ({"overwrite": True}, {"resume": True}):
        with pytest.raises(InputError, match=f"cannot write .*{name}: it is not a regular file"):
            training.train(recipe, finished, verbose=0, **options)


@pytest.mark.slow
def test_a_lost_history_does_not_make_a_worse_epoch_the_best(image_folder, recipe, tmp_path, here):
    recipe = dataclasses.replace(recipe, dataset=str(image_folder), epochs=6, learning_rate=0.05)
    before = training.train(recipe, tmp_path / "run", verbose=0)
    best = max(before, key=lambda row: row["val_accuracy"])
    assert best["val_accuracy"] > 0.5
    model = (tmp_path / "run/model.keras").read_bytes()
    (tmp_path / "run/history.csv").unlink()
    flags = ("--resume", "--output", tmp_path / "run", "--epochs", 7, "--learning-rate", 1e4)
    done = here(train.main, *flags, "--weight-decay", 0)
    assert done.code == 0, done.stderr
    assert (tmp_path / "run/model.keras").read_bytes() == model
    told = f"validation accuracy {100 * best['val_accuracy']:.2f} % (best epoch, chosen by this figure)"
    assert told in done.stdout
    assert f"the best epoch, {best['epoch']} of 7" in done.stdout


@pytest.mark.slow
def test_a_run_in_its_data_set_is_told(image_folder, recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(shutil.copytree(image_folder, tmp_path / "photos"))
    recipe = dataclasses.replace(recipe, dataset=".", epochs=1)
    training.train(recipe, "../run", verbose=0)
    assert "lies in the data set" not in capsys.readouterr().err
    training.train(recipe, "train/red/run", verbose=0)
    told = "note: train/red/run lies in the data set: when that is read again"
    assert capsys.readouterr().err.count(told) == 1


@pytest.mark.parametrize("name", ["dataset", "output", "init_from"])
def test_names_that_are_not_utf8(name, recipe, tmp_path):
    bad = os.fsdecode(os.fsencode(tmp_path) + b"/b\xff")
    os.mkdir(bad)
    recipe = dataclasses.replace(recipe, dataset=bad if name == "dataset" else recipe.dataset)
    settings = Settings(init_from=bad if name == "init_from" else None)
    output = bad if name == "output" else tmp_path / "run"
    with pytest.raises(InputError, match=f"{name} must be a name in UTF-8"):
        training.train(recipe, output, settings, verbose=0)
    assert not (tmp_path / "run").exists()


def test_a_config_keeps_any_command(tmp_path):
    folder = run_folder.RunFolder(tmp_path / "run")
    folder.lock()
    command = os.fsdecode(b"train --note \xff")
    folder.write_config({"command": command})
    assert folder.read_config() == {"command": command}
    folder.unlock()


@pytest.mark.slow
def test_an_epoch_ends_where_its_images_do(image_folder, recipe, tmp_path):
    """Stopped after more steps than an epoch has, once images were removed and that is accepted."""

    def stop(batch, logs):
        if batch == 5:
            raise StopAfter

    shutil.copytree(image_folder, tmp_path / "photos")
    recipe = dataclasses.replace(recipe, dataset=str(tmp_path / "photos"))
    ending = keras.callbacks.LambdaCallback(on_train_batch_begin=stop)
    with pytest.raises(StopAfter):
        training.train(recipe, tmp_path / "run", Settings(checkpoint_every=1), callbacks=[ending], verbose=0)
    for path in sorted((tmp_path / "photos/train").glob("*/*")):
        if int(path.stem) % 3:
            path.unlink()
    with pytest.raises(InputError, match="accept_changed_data=True"):
        training.train(recipe, tmp_path / "run", resume=True, verbose=0)
    rows = training.train(recipe, tmp_path / "run", resume=True, accept_changed_data=True, verbose=0)
    assert [row["epoch"] for row in rows] == [1, 2]


@pytest.mark.slow
def test_an_evaluation_says_that_the_images_are_others(photos, tmp_path, here):
    """Of a folder that has grown, some that were trained on may be held out now."""
    root, model = photos[0], tmp_path / "run/model.keras"
    assert here(train.main, "--evaluate", model).stderr == ""
    assert (
        here(train.main, "--evaluate", model, "--validation-split", "train").stderr == ""
    )  # Which was named.
    moved = shutil.copytree(root, tmp_path / "elsewhere")
    assert here(train.main, "--evaluate", model, "--dataset", moved).stderr == ""
    shutil.copy(root / "train/red/1.jpg", root / "val/red/more.jpg")
    done = here(train.main, "--evaluate", model)
    assert done.stderr == (
        "note: other images than the run validated on: it may have been trained on some of them\n"
    )
    assert done.code == 0
