"""Models opened to be shown photographs."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from small_models import build, randomize

import convmixer_keras as ck
from convmixer_keras import applications, inference
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.utils.errors import InputError

PIXELS = {"input_mean": [120.0, 110.0, 100.0], "input_std": [60.0, 50.0, 40.0]}


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).uniform(0, 255, (3, 13, 15, 3)).astype(np.float32)


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_probabilities_and_names(activation, pixels, tmp_path):
    model = build(classifier_activation=activation, **PIXELS)
    ck.save_model(model, tmp_path / "m.keras", list("abcde"))
    opened = inference.load(str(tmp_path / "m.keras"))
    outputs = model.predict(pixels, verbose=0)
    expected = outputs if activation else softmax(outputs)
    np.testing.assert_allclose(opened.model.predict(pixels, verbose=0), expected, rtol=0, atol=1e-6)
    assert opened.class_names == list("abcde")


def test_names_that_nobody_gave(tmp_path):
    build(**PIXELS).save(tmp_path / "m.keras")
    assert inference.load(tmp_path / "m.keras").class_names == ["0", "1", "2", "3", "4"]
    build(hidden_dim=4, classes=1000, **PIXELS).save(tmp_path / "m.keras")
    assert inference.load(tmp_path / "m.keras").class_names[207] == "207"


@pytest.mark.parametrize(
    "arguments", [{}, {"include_top": False, "pooling": "avg"}, {"include_top": False}], ids=str
)
def test_features(arguments, pixels, tmp_path):
    model = build(**arguments, **PIXELS)
    model.save(tmp_path / "m.keras")
    opened = inference.load(tmp_path / "m.keras", include_top=False)
    last = keras.Model(model.inputs, model.get_layer("block1_pointwise_bn").output)
    expected = last.predict(pixels, verbose=0).mean((1, 2))
    np.testing.assert_allclose(opened.model.predict(pixels, verbose=0), expected, rtol=0, atol=1e-5)
    assert opened.class_names is None


def test_a_free_size_becomes_224(tmp_path):
    model = build(depth=1, kernel_size=3, input_shape=(None, None, 3), **PIXELS)
    model.save(tmp_path / "m.keras")
    opened = inference.load(tmp_path / "m.keras")
    assert opened.model.input_shape == (None, 224, 224, 3)
    images = np.random.default_rng(0).uniform(0, 255, (1, 224, 224, 3)).astype(np.float32)
    expected = softmax(model.predict(images, verbose=0))
    np.testing.assert_allclose(opened.model.predict(images, verbose=0), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.slow
def test_models_of_mixed_precision_run_in_float32(policy, pixels, tmp_path):
    """Half precision is slow on a CPU, and fine-tuning in it needs its loss scaled."""
    plain = build(**PIXELS)
    keras.config.set_dtype_policy(policy)
    build(**PIXELS).save(tmp_path / "m.keras")
    keras.config.set_dtype_policy("float32")
    opened = inference.load(tmp_path / "m.keras")
    assert {layer.compute_dtype for layer in opened.model.layers} == {"float32"}
    opened_features = inference.load(tmp_path / "m.keras", include_top=False)
    assert opened_features.model.output.dtype == "float32"
    plain.set_weights(keras.saving.load_model(tmp_path / "m.keras").get_weights())
    expected = softmax(plain.predict(pixels, verbose=0))
    np.testing.assert_allclose(opened.model.predict(pixels, verbose=0), expected, rtol=0, atol=1e-6)


def test_a_network_of_normalised_channels_gets_them(tmp_path):
    """As convmixer-convert leaves it without --include-preprocessing."""
    model = ck.ConvMixer(8, 2, 3, 2, activation="relu", classes=6, input_shape=(None, None, 3))
    randomize(model)
    record = Preprocessing(32, 3, 0.96, "bicubic", "stored", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    ck.save_model(model, tmp_path / "m.keras", preprocessing=record)
    opened = inference.load(tmp_path / "m.keras")
    assert opened.preprocessing == record
    assert opened.model.input_shape == (None, 32, 32, 3)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    pixels = Preprocessing(32, 3, 0.96, orientation="stored")(photo)
    np.testing.assert_array_equal(opened.picture(photo), pixels)
    normalised = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    expected = softmax(model.predict(normalised[None], verbose=0))
    got = opened.model.predict(opened.read(photo)[None], verbose=0)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_what_the_file_says_and_what_the_caller_changes(tmp_path, capsys):
    record = Preprocessing((13, 15), 3, 0.9, "lanczos", "stored")
    ck.save_model(build(**PIXELS), tmp_path / "m.keras", preprocessing=record)
    assert inference.load(tmp_path / "m.keras").preprocessing == record
    changed = inference.load(tmp_path / "m.keras", orientation="exif", crop_pct=0.5).preprocessing
    assert changed == dataclasses.replace(record, orientation="exif", crop_pct=0.5)
    with pytest.raises(InputError, match="normalises by itself"):
        inference.load(tmp_path / "m.keras", mean=0.5, std=0.5)
    assert capsys.readouterr().err == ""


def test_what_nobody_says_is_said_once(tmp_path, capsys):
    """Not guessed from a folder or from sizes."""
    (tmp_path / "config.json").write_text(json.dumps({"recipe": {"crop_pct": 0.9}}))
    build(**PIXELS).save(tmp_path / "model.keras")
    opened = inference.load(tmp_path / "model.keras")
    assert capsys.readouterr().err == ""
    assert opened.preprocessing == opened.preprocessing == Preprocessing((13, 15))
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "model.keras does not record its preprocessing" in error
    build().save(tmp_path / "normalised.keras")
    opened = inference.load(tmp_path / "normalised.keras")
    with pytest.raises(InputError, match="takes normalised channels, and does not say which: give --mean"):
        opened.read(tmp_path / "photo.jpg")
    given = inference.load(tmp_path / "normalised.keras", mean=0.5, std=0.25).preprocessing
    assert given == Preprocessing((13, 15), mean=0.5, std=0.25)


def test_a_record_that_does_not_fit(tmp_path):
    with pytest.raises(InputError, match=r"preprocessing must give what the model takes, \(13, 15, 3\)"):
        ck.save_model(build(), tmp_path / "m.keras", preprocessing=Preprocessing(16))
    with pytest.raises(InputError, match="class_names must be 5, one for each output, got 3"):
        ck.save_model(build(), tmp_path / "m.keras", list("abc"))


@pytest.mark.parametrize("channels", [1, 3])
def test_read_gives_what_the_model_takes(channels, image_folder, tmp_path):
    model = build(depth=1, kernel_size=3, input_shape=(9, 12, channels), input_mean=120, input_std=60)
    model.save(tmp_path / "m.keras")
    pixels = inference.load(tmp_path / "m.keras").read(image_folder / "train" / "red" / "0.png")
    assert pixels.shape == (9, 12, channels)
    assert pixels.dtype == np.float32
    assert pixels.max() > 100


def test_the_default_is_what_needs_no_network(tmp_path, monkeypatch, capsys):
    """CIFAR-10's weights until ImageNet's have been fetched."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert applications.default_builder() == "ConvMixer256_8_P2"
    note = capsys.readouterr().err
    assert note.count("\n") == 1
    assert "CIFAR-10, ten classes" in note
    opened = inference.load("ConvMixer256_8_P2")
    path = ROOT / "examples" / "photos" / "horse" / "0000.jpg"
    np.testing.assert_array_equal(opened.read(path), np.asarray(Image.open(path), np.float32))
    scores = opened.model.predict(opened.read(path)[None], verbose=0)
    assert opened.class_names[scores[0].argmax()] == "horse"
    assert scores.sum() == pytest.approx(1, abs=1e-5)

    folder = tmp_path / "models" / "convmixer_keras"
    folder.mkdir(parents=True)
    (folder / "convmixer_1024_20_ks9_p14.in1k.safetensors").write_bytes(b"put there by hand")
    assert applications.default_builder() == "ConvMixer1024_20"
    assert capsys.readouterr().err == ""
