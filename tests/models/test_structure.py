"""What is not exactly a ConvMixer is named, layer by layer."""

import keras
import numpy as np
import pytest
import small_models

import convmixer_keras as ck
from convmixer_keras.models.structure import check_convmixer, final_activation, takes_pixels
from convmixer_keras.utils.errors import InputError

layers = keras.layers


def rebuilt(model, replace=None, before_head=None, behind=None):
    """The model with a layer replaced, put before the head, or put behind it."""

    def clone(layer):
        config = layer.get_config()
        if replace and layer.name in replace:
            config |= replace[layer.name]
        return type(layer).from_config(config)

    model = keras.models.clone_model(model, clone_function=clone)
    if before_head:
        x = before_head(model.get_layer("pool").output)
        model = keras.Model(model.inputs, layers.Dense(5, name="head")(x))
    if behind:
        model = keras.Model(model.inputs, behind(model.output))
    return model


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"normalization": "layer"},
        {"residual": False},
        {"include_top": False},
        {"include_top": False, "pooling": "max"},
        {"input_mean": 120, "input_std": 60, "classifier_activation": "softmax"},
        {"kernel_size": 4},
    ],
)
def test_a_convmixer_passes(arguments, tmp_path):
    model = small_models.build(**arguments)
    check_convmixer(model)
    ck.save_model(model, tmp_path / "m.keras")
    check_convmixer(keras.saving.load_model(tmp_path / "m.keras"))
    check_convmixer(keras.Model(model.inputs, model.outputs))  # Its layers now stand in two models.


def test_what_stands_before_the_network_is_kept():
    image = keras.Input((13, 15, 3))
    model = ck.ConvMixer(8, 1, 3, 3, classes=5, input_tensor=layers.Rescaling(2.0)(image))
    check_convmixer(model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"before_head": layers.Dense(9, name="more")}, "'more' .Dense. .* where a ConvMixer has 'pool'"),
        ({"behind": layers.Softmax(name="after")}, "'after' .Softmax. .* where a ConvMixer has 'head'"),
        ({"behind": layers.Dense(3, name="after")}, "'after' .Dense. .* where a ConvMixer has 'head'"),
        (
            {"replace": {"block1_depthwise": {"dilation_rate": (2, 2)}}},
            "'block1_depthwise'.* dilation_rate",
        ),
        ({"replace": {"block0_pointwise": {"strides": (2, 2)}}}, "'block0_pointwise' .* must have strides"),
        ({"replace": {"stem_conv": {"strides": (2, 2)}}}, "'stem_conv' must have strides equal"),
        ({"replace": {"stem_conv": {"padding": "same"}}}, "'stem_conv' .* must have padding valid"),
        ({"replace": {"block0_depthwise_bn": {"scale": False}}}, "'block0_depthwise_bn' .* scale True"),
    ],
)
def test_anything_else_is_named(changes, message):
    with pytest.raises(InputError, match=message):
        check_convmixer(rebuilt(small_models.build(), **changes))


def test_another_normalisation_and_another_addition():
    model = small_models.build()
    x = layers.GroupNormalization(4, name="stem_bn")(model.get_layer("stem_conv").output)
    broken = keras.Model(
        model.inputs, layers.Dense(2, name="head")(layers.GlobalAveragePooling2D(name="pool")(x))
    )
    with pytest.raises(InputError, match="no layer 'block0_depthwise'"):
        check_convmixer(broken)
    image = keras.Input((12, 12, 3))
    x = stem = layers.BatchNormalization(name="stem_bn")(layers.Conv2D(8, 3, 3, name="stem_conv")(image))
    y = layers.BatchNormalization(name="block0_depthwise_bn")(
        layers.DepthwiseConv2D(3, padding="same", name="block0_depthwise")(x)
    )
    y = layers.Add(name="block0_add")([layers.Rescaling(3.0)(stem), y])
    y = layers.BatchNormalization(name="block0_pointwise_bn")(layers.Conv2D(8, 1, name="block0_pointwise")(y))
    with pytest.raises(InputError, match=r"'block0_add' of .* must add what 'block0_depthwise' takes"):
        check_convmixer(keras.Model(image, y))


def test_weights_that_are_no_numbers_are_named():
    model = small_models.build()
    kernel, bias = model.get_layer("block1_pointwise").get_weights()
    kernel[0, 0, 3, 4] = np.nan
    model.get_layer("block1_pointwise").set_weights([kernel, bias])
    with pytest.raises(InputError, match=r"weights block1_pointwise/kernel of .* NaN"):
        check_convmixer(model)


def test_final_activations():
    image = keras.Input((4,))
    scores = layers.Dense(3)(image)
    assert final_activation(keras.Model(image, scores)) == "linear"
    for last in (layers.Softmax(), layers.Activation("softmax"), layers.Dense(3, activation="softmax")):
        model = keras.Model(image, last(scores))
        assert final_activation(model) == "softmax"
        assert final_activation(keras.Sequential([image, model, layers.Reshape((3,))])) == "softmax"
    assert final_activation(keras.Model(image, layers.Dense(3)(layers.Softmax()(scores)))) == "linear"


def test_who_takes_pixels():
    normalized, raw = small_models.build(), small_models.build(input_mean=120, input_std=60)
    image = keras.Input(small_models.SHAPE)
    assert takes_pixels(raw)
    assert takes_pixels(keras.Sequential([image, raw]))
    assert not takes_pixels(normalized)
    assert not takes_pixels(keras.Model(image, normalized(image)))
    assert takes_pixels(keras.Model(image, normalized(layers.Rescaling(1 / 255)(image))))
    assert takes_pixels(keras.Model(image, layers.Conv2D(4, 3)(image)))  # Not one of ours.
