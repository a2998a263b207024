"""Models opened to be shown photographs."""

import json

import keras
import numpy as np
import pytest
from small_models import build, randomize

import convmixer_keras as ck
from convmixer_keras import applications as variants
from convmixer_keras import inference

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
    assert opened.crop_pct == 1.0


def test_names_that_nobody_gave(tmp_path):
    build(**PIXELS).save(tmp_path / "m.keras")
    assert inference.load(tmp_path / "m.keras").class_names == ["0", "1", "2", "3", "4"]
    build(hidden_dim=4, classes=1000, **PIXELS).save(tmp_path / "m.keras")
    assert inference.load(tmp_path / "m.keras").class_names[207] == "golden retriever"


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


def test_a_published_network_gets_its_normalisation_and_crop(tmp_path, monkeypatch):
    """As convmixer-convert leaves it without --include-preprocessing; a variant shrunk, to be quick."""
    import dataclasses
    import functools

    from convmixer_keras import presets

    small = dataclasses.replace(
        presets.CONVMIXER_768_32, hidden_dim=8, depth=2, kernel_size=3, patch_size=2, classes=6, image_size=32
    )
    monkeypatch.setattr(presets, "PRESETS", (small,))
    monkeypatch.setattr(variants, small.name, functools.partial(variants._build, small))
    model = ck.ConvMixer(8, 2, 3, 2, activation="relu", classes=6, input_shape=(None, None, 3))
    randomize(model)
    model.save(tmp_path / "m.keras")
    opened = inference.load(tmp_path / "m.keras")
    assert opened.crop_pct == 0.96
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    normalised = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    expected = softmax(model.predict(normalised, verbose=0))
    np.testing.assert_allclose(opened.model.predict(images, verbose=0), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "crop_pct"), [("model.keras", 0.9), ("last.keras", 0.9), ("m.keras", 1.0)])
def test_the_crop_of_a_run(name, crop_pct, tmp_path):
    build(depth=1, kernel_size=3, **PIXELS).save(tmp_path / name)
    (tmp_path / "config.json").write_text(json.dumps({"recipe": {"crop_pct": 0.9}}))
    assert inference.load(str(tmp_path / name)).crop_pct == crop_pct


def test_a_config_of_something_else_is_none_of_ours(tmp_path):
    build(depth=1, kernel_size=3, **PIXELS).save(tmp_path / "model.keras")
    (tmp_path / "config.json").write_text("{}")
    assert inference.load(str(tmp_path / "model.keras")).crop_pct == 1.0


@pytest.mark.parametrize("channels", [1, 3])
def test_read_gives_what_the_model_takes(channels, image_folder, tmp_path):
    model = build(depth=1, kernel_size=3, input_shape=(9, 12, channels), input_mean=120, input_std=60)
    model.save(tmp_path / "m.keras")
    pixels = inference.load(tmp_path / "m.keras").read(image_folder / "train" / "red" / "0.png")
    assert pixels.shape == (9, 12, channels)
    assert pixels.dtype == np.float32
    assert pixels.max() > 100
