"""Runs that start from a trained body."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from small_models import build

import convmixer_keras as ck
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.training.step import network
from convmixer_keras.utils.errors import InputError

RECIPE = dataclasses.replace(
    ck.recipes.RECIPES["digits"], epochs=1, batch_size=64, randaugment_ops=0, ema_momentum=0.0
)


@pytest.fixture
def body(tmp_path):
    model = build(
        hidden_dim=8,
        depth=2,
        kernel_size=3,
        patch_size=2,
        input_shape=(8, 8, 1),
        activation="relu",
        input_mean=100,
        input_std=50,
    )
    model.save(tmp_path / "body.keras")
    return model


def layer_weights(model, name):
    return [keras.ops.convert_to_numpy(weight) for weight in model.get_layer(name).weights]


def recipe_of(path):
    return dataclasses.replace(RECIPE, **network.facts_of_body(path))


def test_the_recipe_takes_what_is_known_of_the_body(body, tmp_path):
    recipe = recipe_of(tmp_path / "body.keras")
    assert (recipe.hidden_dim, recipe.depth, recipe.kernel_size, recipe.patch_size) == (8, 2, 3, 2)
    assert recipe.activation == "relu"
    np.testing.assert_allclose([*recipe.mean, *recipe.std], [100 / 255, 50 / 255], rtol=1e-6)
    assert recipe.image_size == 8  # The file records nothing, and its network takes no other size.
    body.save_weights(tmp_path / "body.weights.h5")
    assert recipe_of(tmp_path / "body.weights.h5").depth == 2
    record = Preprocessing((6, 8), 1, crop_pct=0.8, interpolation="lanczos")
    ck.save_model(
        ck.ConvMixer(8, 2, 3, 2, classes=5, input_shape=(None, None, 1)),
        tmp_path / "open.keras",
        None,
        record,
    )
    recipe = recipe_of(tmp_path / "open.keras")
    assert (recipe.image_size, recipe.crop_pct, recipe.interpolation) == (8, 0.8, "lanczos")
    assert recipe.orientation == "exif"


def test_a_run_with_frozen_blocks(body, tmp_path):
    recipe = recipe_of(tmp_path / "body.keras")
    settings = ck.training.Settings(init_from=str(tmp_path / "body.keras"), freeze=1)
    ck.training.train(recipe, tmp_path / "run", settings, verbose=0)
    trained = keras.saving.load_model(tmp_path / "run" / "last.keras")
    for name in ("stem_conv", "stem_bn", "block0_depthwise", "block0_depthwise_bn", "block0_pointwise_bn"):
        for before, after in zip(layer_weights(body, name), layer_weights(trained, name), strict=True):
            np.testing.assert_array_equal(before, after)
    moved = np.abs(layer_weights(body, "block1_pointwise")[0] - layer_weights(trained, "block1_pointwise")[0])
    assert 0 < moved.max() < 1  # Trained, from where the body was.
    assert all(layer.trainable for layer in trained.layers)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["settings"]["freeze"] == 1
    assert config["parameters"] == ck.model_complexity(trained).parameters


@pytest.mark.parametrize(
    ("known", "asked", "order"),
    [
        (None, "abcde", [0, 1, 2, 3, 4]),
        (None, "abcd", None),
        ("abcde", "abcde", [0, 1, 2, 3, 4]),
        ("caebd", "abcde", [1, 3, 0, 4, 2]),
        (
            ["e\u0301", "b", "n02099601", "d", "e"],
            ["b", "golden retriever", "d", "e", "\xe9"],
            [1, 2, 3, 4, 0],
        ),
        ("abcde", "abcdf", None),
        ("abcde", "abcd", None),
    ],
)
def test_the_classifier_comes_along_where_it_knows_the_classes(known, asked, order, body, tmp_path):
    ck.save_model(body, tmp_path / "body.keras", known and list(known))
    recipe = recipe_of(tmp_path / "body.keras")
    model = network.build_model(recipe, 1, len(asked))
    before = layer_weights(model, "head")
    assert network.start_from(model, tmp_path / "body.keras", list(asked)) is (
        order is not None and known is not None
    )
    np.testing.assert_array_equal(
        layer_weights(model, "block1_depthwise")[0], layer_weights(body, "block1_depthwise")[0]
    )
    for one, old, new in zip(layer_weights(body, "head"), before, layer_weights(model, "head"), strict=True):
        np.testing.assert_array_equal(new, old if order is None else one[..., order])


@pytest.mark.parametrize("ending", ["keras", "weights.h5"])
@pytest.mark.parametrize(
    ("ablation", "nested"),
    [({"residual": False}, False), ({"normalization": "layer"}, False), ({"activation": "relu"}, True)],
)
def test_a_run_starts_as_the_body_that_it_starts_from(ablation, nested, ending, tmp_path):
    """The ablations, and a network in a network."""
    network_of = {"hidden_dim": 8, "depth": 2, "kernel_size": 3, "patch_size": 2, "input_shape": (8, 8, 1)}
    body = build(**network_of, **ablation, input_mean=100, input_std=50)
    outer = keras.Sequential([keras.Input((8, 8, 1)), body]) if nested else body
    path = tmp_path / f"body.{ending}"
    (outer.save if ending == "keras" else outer.save_weights)(path)
    recipe = recipe_of(path)
    if ending == "weights.h5":  # It says neither the activation nor the numbers for pixels.
        recipe = dataclasses.replace(recipe, mean=(100 / 255,), std=(50 / 255,), **ablation)
    model = network.build_model(recipe, 1, 5)
    network.start_from(model, path, list("abcde"))
    images = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 1)).astype(np.float32)
    np.testing.assert_allclose(
        model.predict_on_batch(images), body.predict_on_batch(images), rtol=0, atol=1e-5
    )


def test_settings_take_the_names_that_the_command_takes(tmp_path):
    """`init_from` of the API: a builder's name, whose network the recipe must have."""
    recipe = recipe_of("ConvMixer256_8_P2")
    assert (recipe.hidden_dim, recipe.activation, len(recipe.mean)) == (256, "gelu", 3)
    settings = ck.training.Settings(init_from="ConvMixer256_8_P2")
    with pytest.raises(InputError, match=r"P2 do not fit: they are ConvMixer-256/8, .* is ConvMixer-64/4"):
        ck.training.train(RECIPE, tmp_path / "run", settings, verbose=0)
    wrong = dataclasses.replace(recipe, activation="relu")
    with pytest.raises(InputError, match="activation is 'gelu' in them and 'relu' in the model"):
        network.start_from(network.build_model(wrong, 3, 10), "ConvMixer256_8_P2", ["a"])


def test_what_cannot_be_started_from(body, tmp_path):
    model = ck.ConvMixer(8, 2, 5, 2, classes=5, input_shape=(8, 8, 1))
    with pytest.raises(InputError, match=r"are ConvMixer-8/2, kernel 3, .* is ConvMixer-8/2, kernel 5"):
        network.start_from(model, tmp_path / "body.keras", ["a"])
    with pytest.raises(InputError, match="freeze must be 0 to 2, the number of blocks, got 3"):
        network.start_from(model, None, ["a"], 3)
    with pytest.raises(InputError, match=r"an existing file or hf://USER/REPO, got .none\.keras"):
        recipe_of("none.keras")
    (tmp_path / "text.keras").write_text("no model")
    with pytest.raises(InputError, match="is not a zip archive, or is damaged"):
        recipe_of(tmp_path / "text.keras")
