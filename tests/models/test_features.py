"""Feature maps are those of the network itself, at any size, under every backend."""

import keras
import numpy as np
import pytest
from small_models import build

import convmixer_keras as ck
from convmixer_keras.utils.errors import InputError


@pytest.mark.parametrize(
    "arguments",
    [
        {"include_top": False, "normalization": "layer", "residual": False},
        {"input_mean": 120, "input_std": 60, "kernel_size": 4},
    ],
    ids=str,
)
def test_maps_of_blocks(arguments):
    model = build(depth=3, **arguments)
    images = np.random.default_rng(0).uniform(0, 255, (2, 13, 15, 3)).astype(np.float32)
    norm = "ln" if arguments.get("normalization") == "layer" else "bn"
    maps = ck.features(model, blocks=(0, 2, -2)).predict(images, verbose=0)
    for block, found in zip((0, 2, 1), maps, strict=True):
        until = keras.Model(model.inputs, model.get_layer(f"block{block}_pointwise_{norm}").output)
        np.testing.assert_allclose(found, until.predict(images, verbose=0), rtol=0, atol=1e-5)
    assert ck.features(model, 1).output.shape == (None, None, None, 24)


def test_any_size_and_shared_weights():
    model = build(depth=1, input_shape=(13, 15, 3))
    maps = ck.features(model, blocks=[0])
    found = maps(np.zeros((1, 31, 22, 3)))
    assert found.shape == (1, 10, 7, 24)
    model.get_layer("block0_pointwise").bias.assign(np.ones(24))
    assert maps.get_layer("block0_pointwise") is model.get_layer("block0_pointwise")


@pytest.mark.parametrize(
    ("blocks", "message"),
    [((2,), "-2 to 1, got"), ((), "-2 to 1"), ("01", "whole numbers"), (1.5, "whole numbers")],
)
def test_blocks_that_are_not_there(blocks, message):
    with pytest.raises(InputError, match=message):
        ck.features(build(), blocks)


def test_models_of_others():
    with pytest.raises(InputError, match="not a ConvMixer"):
        ck.features(keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(2, 1)]), 0)
    image = keras.Input((12, 12, 3))
    behind = ck.ConvMixer(8, 1, 3, 2, input_tensor=keras.layers.RandomFlip()(image))
    with pytest.raises(InputError, match="nothing in front"):
        ck.features(behind, 0)
