"""A published model: the files, the card, and the way to a hub and back."""

import json

import keras
import numpy as np
import pytest
from hub_server import hub  # noqa: F401
from small_models import build

import convmixer_keras as ck
from convmixer_keras import inference
from convmixer_keras.commands import publish, publishing
from convmixer_keras.convert.weights import to_keras
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.utils import command_line
from convmixer_keras.utils.errors import Failure

RECIPE = {"dataset": "photos", "epochs": 3, "learning_rate": 0.01, "label_smoothing": 0.1}
HISTORY = (
    "epoch,loss,accuracy,val_loss,val_accuracy,learning_rate\n"
    "1,2.0,0.5,2.0,0.5,0.01\n2,1.5,0.7,1.5,0.75,0.01\n3,1.2,0.8,1.2,0.625,0.01\n"
)


@pytest.fixture
def run(tmp_path):
    """A small model in a folder as the training program leaves it."""
    folder = tmp_path / "run"
    folder.mkdir()
    model = build(hidden_dim=8, depth=1, kernel_size=3, input_mean=120, input_std=60)
    record = Preprocessing((13, 15), crop_pct=0.9)
    ck.save_model(model, folder / "model.keras", list("abcde"), record)
    config = {"recipe": RECIPE, "train_images": 1200, "validation_images": 80, "versions": {"keras": "3.15"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "history.csv").write_text(HISTORY)
    (folder / "curves.png").write_bytes(b"picture")
    return folder


PIXELS = np.random.default_rng(0).uniform(0, 255, (4, 13, 15, 3)).astype(np.float32)


def test_the_whole_way_to_a_hub_and_back(run, hub, tmp_path, image_folder, capsys):  # noqa: F811
    arguments = [str(run / "model.keras"), "hf://user/repo", "--calibrate", str(image_folder)]
    with pytest.raises(SystemExit) as ended:
        command_line.run(lambda: publish.main(arguments))
    assert ended.value.code == 0
    files = hub.uploaded["user/repo"]
    modes = [f"model-{mode}.tflite" for mode in ("float32", "float16", "dynamic", "int8")]
    own = "model.keras model.safetensors class_names.txt preprocessing.json README.md"
    of_the_run = "config.json history.csv curves.png"
    assert sorted(files) == sorted([*modes, *own.split(), *of_the_run.split()])
    assert hub.tokens == {"Bearer hf_of_the_test"}
    assert 'inference.load("hf://user/repo")' in capsys.readouterr().out
    assert files["class_names.txt"].decode().split() == list("abcde")

    text = files["README.md"].decode()
    for words in (
        "library_name: keras",
        "Data: photos, 1,200 images to train on and 80 to validate.",
        "Validation accuracy 75.00 % after epoch 2 of 3, the best of the run",
        "| learning_rate | 0.01 |",
        "Made with keras 3.15.",
        "![Learning curves](curves.png)",
        "13x15, crop_pct 0.9",
        "| model-int8.tflite |",
        'inference.load("hf://user/repo")',
    ):
        assert words in text

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


def test_nothing_is_said_that_was_not_measured(tmp_path):
    build(hidden_dim=8, depth=1, kernel_size=3, normalization="layer").save(tmp_path / "m.keras")
    page = publishing.write(str(tmp_path / "m.keras"), tmp_path / "out")
    assert set(page.left_out) == {"model.safetensors", "model-int8.tflite"}
    text = (tmp_path / "out" / "README.md").read_text()
    assert "Nothing is recorded about its training." in text
    assert "accuracy" not in text
    assert "does not say how photographs become its input" in text
    assert "curves" not in text
    assert 'inference.load("hf://USER/REPO")' in text
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(page.files)


def test_an_upload_that_is_refused(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(Failure, match="cannot upload to hf://user/repo: ") as error:
        publishing.upload(run, "hf://user/repo")
    assert "\n" not in str(error.value)
