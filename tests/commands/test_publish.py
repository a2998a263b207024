"""A published model: the files, the card, and the way to a hub and back."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from hub_server import hub  # noqa: F401
from small_models import build

import convmixer_keras as ck
from convmixer_keras import inference
from convmixer_keras.commands import earlier_run, publish
from convmixer_keras.convert.export import tflite
from convmixer_keras.convert.weights import to_keras
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.recipes import RECIPES
from convmixer_keras.training.run.run_folder import RunFolder
from convmixer_keras.utils import command_line, extras

CHANGES = {"epochs": 3, "learning_rate": 0.01}
HISTORY = (
    "epoch,loss,accuracy,val_loss,val_accuracy,learning_rate\n"
    "1,2.0,0.5,2.0,0.5,0.01\n2,1.5,0.7,1.5,0.75,0.01\n3,1.2,0.8,1.2,0.625,0.01\n"
)


@pytest.fixture
def one_mode(monkeypatch):
    """As if `.tflite` files came in float32 alone: each takes a second."""
    monkeypatch.setattr(tflite, "MODES", {"float32": tflite.MODES["float32"]})


@pytest.fixture
def run(tmp_path):
    """A small model in a folder as the training program leaves it."""
    folder = tmp_path / "run"
    folder.mkdir()
    model = build(hidden_dim=8, depth=1, kernel_size=3, input_mean=120, input_std=60)
    record = Preprocessing((13, 15), crop_pct=0.9)
    ck.save_model(model, folder / "model.keras", list("abcde"), record)
    recipe = dataclasses.replace(RECIPES["digits"], **CHANGES, dataset=str(tmp_path / "photos"))
    config = {"recipe": dataclasses.asdict(recipe), "train_images": 1200, "validation_images": 80}
    config |= {"versions": {"keras": "3.15"}, "settings": {"data_dir": str(tmp_path)}}
    config |= {"command": f"convmixer-train --output {folder}"}
    (folder / "config.json").write_text(json.dumps(config))
    os.rename(folder / "model.keras", RunFolder(str(folder)).unsettled(2, "model.keras"))
    RunFolder(str(folder)).settle(2)
    (folder / "history.csv").write_text(HISTORY)
    (folder / "curves.png").write_bytes(b"picture")
    return folder


PIXELS = np.random.default_rng(0).uniform(0, 255, (4, 13, 15, 3)).astype(np.float32)


@pytest.mark.slow
def test_the_whole_way_to_a_hub_and_back(run, hub, tmp_path, image_folder, capsys):  # noqa: F811
    arguments = [str(run / "model.keras"), "hf://user/repo", "--calibrate", str(image_folder)]
    arguments += ["--license", "apache-2.0"]
    with pytest.raises(SystemExit) as ended:
        command_line.run(lambda: publish.main(arguments))
    assert ended.value.code == 0
    files = hub.uploaded["user/repo"]
    modes = [f"model-{mode}.tflite" for mode in ("float32", "float16", "dynamic", "int8")]
    own = "model.keras model.safetensors model.onnx class_names.txt preprocessing.json README.md"
    of_the_run = "config.json history.csv curves.png"
    assert sorted(files) == sorted([*modes, *own.split(), *of_the_run.split()])
    assert hub.tokens == {"Bearer hf_of_the_test"}
    assert 'inference.load("hf://user/repo")' in capsys.readouterr().out
    assert files["class_names.txt"].decode().split() == list("abcde")

    text = files["README.md"].decode()
    for words in (
        "library_name: keras",
        'license: "apache-2.0"',
        "Data: photos, 1,200 images to train on and 80 to validate.",
        "Validation accuracy 75.00 % after epoch 2 of 3.",
        "| learning_rate | 0.01 |",
        "Made with keras 3.15.",
        "![Learning curves](curves.png)",
        "13x15, crop_pct 0.9",
        "| model-int8.tflite |",
        'inference.load("hf://user/repo")',
    ):
        assert words in text

    assert b"apache-2.0" in files["model-dynamic.tflite"]
    assert re.search(r"^\w: \d\.\d{3}$", pasted(text, tmp_path), re.MULTILINE)

    for name, content in files.items():
        assert str(tmp_path).encode() not in content, name
    config = json.loads(files["config.json"])
    assert config["recipe"]["dataset"] == "photos"
    assert config["train_images"] == 1200

    before = keras.saving.load_model(run / "model.keras")
    opened = inference.load("hf://user/repo")
    assert opened.class_names == list("abcde")
    logits = keras.ops.convert_to_numpy(before(PIXELS))
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(opened.model(PIXELS), expected, rtol=0, atol=1e-5)
    (tmp_path / "m.safetensors").write_bytes(files["model.safetensors"])
    back = to_keras.convert_checkpoint(tmp_path / "m.safetensors", activation="gelu")
    for one, other in zip(before.get_weights(), back.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def pasted(card, folder):
    """What the program under "Use" prints in a process of its own."""
    (program,) = re.findall(r"^```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        ({"input_mean": 120, "input_std": 60, "classes": 1}, r"0: \d\.\d{3}"),
        ({}, r"\d: \d\.\d{3}"),  # Takes normalised channels, and does not say which.
        ({"include_top": False, "input_mean": 120, "input_std": 60}, r"\(1, 8\)"),
        ({"include_top": False, "pooling": "max"}, r"\(1, 8\)"),
    ],
    ids=str,
)
def test_every_card_runs_as_pasted(arguments, printed, tmp_path):
    build(hidden_dim=8, depth=1, kernel_size=3, **arguments).save(tmp_path / "m.keras")
    (tmp_path / "out").mkdir()
    publish.write(str(tmp_path / "m.keras"), tmp_path / "out")
    assert re.search(printed, pasted((tmp_path / "out" / "README.md").read_text(), tmp_path / "out"))


def test_nothing_is_said_that_was_not_measured(tmp_path):
    build(hidden_dim=8, depth=1, kernel_size=3, normalization="layer").save(tmp_path / "m.keras")
    (tmp_path / "out").mkdir()
    page = publish.write(str(tmp_path / "m.keras"), tmp_path / "out")
    assert set(page.left_out) == {"model.safetensors", "model-int8.tflite"}
    text = (tmp_path / "out" / "README.md").read_text()
    assert "Nothing is recorded about its training." in text
    assert "accuracy" not in text
    assert "does not say how photographs become its input" in text
    assert "curves" not in text
    assert "license" not in text
    assert 'inference.load("model.keras")' in text
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(page.files)


@pytest.mark.usefixtures("one_mode")
def test_what_was_not_compared_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(extras, "is_installed", lambda package: package not in ("torch", "onnxruntime"))
    build(hidden_dim=8, depth=1, kernel_size=3).save(tmp_path / "m.keras")
    (tmp_path / "out").mkdir()
    page = publish.write(str(tmp_path / "m.keras"), tmp_path / "out")
    assert page.unverified == ["model.safetensors", "model.onnx"]
    text = (tmp_path / "out" / "README.md").read_text()
    assert "Not compared with the Keras model: model.safetensors, model.onnx." in text
    assert "against the Keras model on the same random images." in text


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, "photos"),
        ({"train_split": "training"}, "photos/training"),
        ({"validation_split": "holdout"}, "photos/train"),
        ({"test_split": "holdout"}, "photos/train"),
        ({"validation_share": 0.3}, None),
        ({"train_split": "train[:90%]", "validation_split": "train[90%:]"}, None),
        ({"dataset": "cifar10"}, None),
        ({"dataset": "digits"}, "digits"),
    ],
    ids=str,
)
def test_int8_is_calibrated_on_what_was_trained_on(changes, found, tmp_path, monkeypatch):
    for name in ("train", "training", "holdout"):
        (tmp_path / "photos" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    recipe = dataclasses.replace(RECIPES["photos"], **{"dataset": "photos", **changes})
    images = earlier_run.training_images(recipe)
    assert found == (images and os.path.normpath(images))


@pytest.mark.usefixtures("one_mode")
@pytest.mark.parametrize(
    "arguments", [{"pooling": "max"}, {"activation": "hard_shrink"}, {"residual": False}], ids=str
)
def test_what_timm_cannot_compute_gets_no_file_with_its_names(arguments, tmp_path):
    build(hidden_dim=8, depth=1, kernel_size=3, **arguments).save(tmp_path / "m.keras")
    (tmp_path / "out").mkdir()
    page = publish.write(str(tmp_path / "m.keras"), tmp_path / "out")
    assert "model.safetensors" in page.left_out
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.usefixtures("one_mode")
def test_another_model_in_the_place_of_the_runs(run, tmp_path):
    other = build(seed=5, hidden_dim=8, depth=1, kernel_size=3, input_mean=120, input_std=60)
    ck.save_model(other, run / "model.keras", list("abcde"))
    (tmp_path / "out").mkdir()
    page = publish.write(str(run / "model.keras"), tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "Nothing is recorded about its training." in text
    assert "accuracy" not in text
    assert not {"config.json", "history.csv", "curves.png"} & set(page.files)


def test_a_run_knows_its_own_files(run):
    folder = RunFolder(str(run))
    shutil.copy(run / "model.keras", run / "copy.keras")
    assert folder.epoch_of(run / "copy.keras") == 2
    (run / "model.keras").write_bytes((run / "model.keras").read_bytes() + b" ")
    assert folder.epoch_of(run / "model.keras") is None


@pytest.mark.parametrize("what", ["foreign", "own"])
def test_a_used_folder_is_left_as_it_is(what, run, tmp_path, here):
    out = tmp_path / "out"
    out.mkdir()
    if what == "foreign":
        (out / "README.md").write_text("mine")
    else:
        assert here(publish.main, run / "model.keras", out).code == 0
    before = {path: path.read_bytes() for path in out.iterdir()}
    done = here(publish.main, run / "model.keras", out)
    assert done.code == 2
    assert "is not empty" in done.stderr
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_what_is_not_published(run, tmp_path, here):
    model = build(hidden_dim=8, depth=1, kernel_size=3)
    kernel, bias = model.get_layer("head").get_weights()
    model.get_layer("head").set_weights([kernel * np.nan, bias])
    model.save(tmp_path / "nan.keras")
    names = build(hidden_dim=8, depth=1, kernel_size=3)
    ck.save_model(names, tmp_path / "names.keras", ["a", "b\nc", "d", "e", "f"])
    keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()]).save(tmp_path / "other.keras")
    for source, destination, message in (
        (run / "model.keras", "", "must not be empty"),
        (tmp_path / "nan.keras", tmp_path / "out", "NaN or infinite"),
        (tmp_path / "names.keras", tmp_path / "out", "one line that is not empty, got 'b"),
        (tmp_path / "other.keras", tmp_path / "out", "is not a ConvMixer"),
    ):
        done = here(publish.main, source, destination)
        assert done.code == 2
        assert message in done.stderr
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_files_of_an_earlier_upload_do_not_stay(run, hub, tmp_path):  # noqa: F811
    hub.put("user/repo", {"model-int8.tflite": b"old", "notes.md": b"mine", "README.md": b"old"})
    (tmp_path / "out").mkdir()
    page = publish.write(str(run / "model.keras"), tmp_path / "out")
    assert "model-int8.tflite" in page.left_out
    publish.upload(tmp_path / "out", "hf://user/repo")
    assert hub.deleted == ["model-int8.tflite"]


def test_the_hub_is_reached_before_anything_is_made(run, monkeypatch, here):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(publish, "write", None)
    done = here(publish.main, run / "model.keras", "hf://user/repo")
    assert done.code == 1
    assert done.stderr.startswith("error: cannot publish to hf://user/repo: ")
    assert done.stderr.count("\n") == 1
    for name in ("hf://user/repo/model.keras", "hf://user/repo@main", "hf://user"):
        assert here(publish.main, run / "model.keras", name).code == 2


def test_private_is_for_a_new_repository(run, hub, here, monkeypatch):  # noqa: F811
    monkeypatch.setattr(publish, "write", None)
    hub.created.add("user/public")
    done = here(publish.main, run / "model.keras", "hf://user/public", "--private")
    assert (done.code, done.stderr) == (
        2,
        "error: hf://user/public is there and public: --private is for a new repository\n",
    )
    publish.make_repository("hf://user/new", private=True)
    assert hub.private == {"user/new"}
    done = here(publish.main, run / "model.keras", "folder", "--private")
    assert (done.code, done.stderr) == (2, "error: --private is for hf://USER/REPO, got folder\n")


def test_an_upload_that_fails_keeps_the_files(run, hub, tmp_path, monkeypatch, here):  # noqa: F811
    hub.refuses = "/commit/"
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    done = here(publish.main, run / "model.keras", "hf://user/repo")
    assert done.code == 1
    assert hub.created == {"user/repo"}
    kept, again = re.search(r"the files are kept in (\S+): (hf upload user/repo \S+)$", done.stderr).groups()
    assert again.endswith(kept)
    assert {"README.md", "model.keras", "model.onnx", "model-dynamic.tflite"} <= set(os.listdir(kept))
    assert "left out model-int8.tflite: mode int8 needs images" in done.stdout
    assert "--calibrate" in done.stdout
    shutil.rmtree(kept)
