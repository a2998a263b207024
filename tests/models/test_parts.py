"""A ConvMixer taken apart; what is not exactly one is named, layer by layer."""

import keras
import numpy as np
import pytest
import small_models

import convmixer_keras as ck
from convmixer_keras.models import parts
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
    ("arguments", "facts"),
    [
        ({}, {}),
        ({"normalization": "layer"}, {"normalization": "layer"}),
        ({"residual": False, "activation": "relu"}, {"residual": False, "activation": "relu"}),
        ({"include_top": False}, {"pooling": None, "head_activation": None}),
        ({"include_top": False, "pooling": "max"}, {"pooling": "max", "head_activation": None}),
        ({"classifier_activation": "softmax"}, {"head_activation": "softmax"}),
        ({"kernel_size": 4, "patch_size": 1}, {}),
    ],
)
def test_a_convmixer_is_taken_apart(arguments, facts, tmp_path):
    model = small_models.build(**arguments)
    ck.save_model(model, tmp_path / "m.keras")
    image = keras.Input(small_models.SHAPE)
    wanted = {"normalization": "batch", "residual": True, "activation": "gelu", "pooling": "avg"}
    wanted |= {"head_activation": "linear", **facts}
    for same in (
        model,
        keras.saving.load_model(tmp_path / "m.keras"),
        keras.Model(model.inputs, model.outputs),  # Its layers now stand in two models.
        keras.Sequential([image, layers.Dropout(0.5), model, layers.Identity()]),
        keras.Model(image, keras.Sequential([image, model])(image)),
    ):
        found = parts.of(same)
        assert {name: getattr(found, name) for name in wanted} == wanted
        kernel, patch = arguments.get("kernel_size", 9), arguments.get("patch_size", 3)
        assert found.sizes == (24, 2, kernel, patch, 3, 5 if found.head else None)
        assert found.image is same.inputs[0]
        weights = {layer.name: layer.get_weights() for layer in model.layers if layer.weights}
        assert found.layers.keys() == weights.keys()
        for name, layer in found.layers.items():
            for ours, theirs in zip(layer.get_weights(), weights[name], strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_the_statistics_of_pixels():
    found = parts.of(small_models.build())
    assert (found.mean, found.std) == (None, None)
    found = parts.of(small_models.build(input_mean=[1, 2, 3], input_std=[40, 50, 0.5]))
    np.testing.assert_array_equal(found.mean, [1, 2, 3])
    np.testing.assert_allclose(found.std, [40, 50, 0.5], rtol=1e-6)


def test_what_stands_before_the_network_is_kept():
    image = keras.Input((13, 15, 3))
    scaled = layers.Rescaling(2.0)(image)
    model = ck.ConvMixer(8, 1, 3, 3, classes=5, input_tensor=scaled)
    assert parts.of(model).image is scaled


def test_what_does_nothing_in_prediction_is_passed():
    """Dropout behind the stem and before the head; a Reshape and a softmax behind it."""
    model = small_models.build(depth=1)
    image = keras.Input(small_models.SHAPE)
    found = parts.of(model)
    x = layers.Dropout(0.5)(found.stem.norm(found.stem.layer(image)))
    y = found.blocks[0].depthwise.norm(found.blocks[0].depthwise.layer(x))
    x = found.blocks[0].pointwise.norm(found.blocks[0].pointwise.layer(layers.Add()([x, y])))
    x = layers.Softmax()(layers.Reshape((5,))(found.head(layers.Dropout(0.5)(found.pool(x)))))
    again = parts.of(keras.Model(image, x))
    assert again.head_activation == "softmax"
    assert again.layers == found.layers
    images = np.random.default_rng(0).normal(size=(2, *small_models.SHAPE)).astype(np.float32)
    maps = keras.Model(again.image, again.maps(again.image)[-1])
    expected = keras.Model(model.inputs, model.get_layer("block0_pointwise_bn").output)
    np.testing.assert_array_equal(maps.predict_on_batch(images), expected.predict_on_batch(images))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"before_head": layers.Dense(9, name="more")}, "'more' .Dense. stands where one has GlobalAverage"),
        ({"before_head": layers.LayerNormalization(name="more")}, "'more' .LayerNormalization. stands"),
        ({"behind": layers.Rescaling(2.0, name="after")}, "'after' .Rescaling. stands where one has Batch"),
        ({"behind": layers.Dense(3, name="after")}, "'head' .Dense. stands where one has Global"),
        ({"replace": {"block1_depthwise": {"dilation_rate": (2, 2)}}}, "'block1_depthwise'.* dilation_rate"),
        ({"replace": {"block1_depthwise": {"kernel_size": (3, 5)}}}, "'block1_depthwise'.* kernel_size"),
        ({"replace": {"block1_depthwise": {"activation": "relu"}}}, "'block1_depthwise'.* activation gelu"),
        ({"replace": {"block0_pointwise": {"strides": (2, 2)}}}, "'block0_pointwise' .* must have strides"),
        ({"replace": {"stem_conv": {"strides": (2, 2)}}}, r"'stem_conv' .* must have strides \(3, 3\)"),
        ({"replace": {"stem_conv": {"padding": "same"}}}, "'stem_conv' .* must have padding valid"),
        ({"replace": {"block0_depthwise_bn": {"scale": False}}}, "'block0_depthwise_bn' .* scale True"),
        ({"replace": {"head": {"use_bias": False}}}, "'head' .* use_bias True"),
    ],
)
def test_anything_else_is_named(changes, message):
    with pytest.raises(InputError, match=f"is not a ConvMixer: layer {message}"):
        parts.of(rebuilt(small_models.build(), **changes))


def test_softmax_twice_or_of_features():
    model = small_models.build(classifier_activation="softmax")
    with pytest.raises(InputError, match=r"'again' .Softmax. is a second activation behind 'head'"):
        parts.of(rebuilt(model, behind=layers.Softmax(name="again")))
    features = small_models.build(include_top=False, pooling="avg")
    with pytest.raises(InputError, match=r"'again' .Softmax. stands behind no classifier"):
        parts.of(rebuilt(features, behind=layers.Softmax(name="again")))


@pytest.mark.parametrize(
    "layer", [layers.ReLU(6.0), layers.ReLU(negative_slope=0.1), layers.ELU(2.0), layers.LeakyReLU()]
)
def test_an_activation_with_settings_of_its_own(layer):
    """Its name alone does not say what it computes."""
    with pytest.raises(
        InputError, match=r"\((ReLU|ELU|LeakyReLU)\) (must have|is none of Activation, Softmax)"
    ):
        parts.of(rebuilt(small_models.build(), behind=layer))
    assert parts.of(rebuilt(small_models.build(), behind=layers.ReLU())).head_activation == "relu"


def test_other_graphs():
    model = small_models.build()
    stem = model.get_layer("stem_conv").output
    for norm, message in (
        (layers.GroupNormalization(4, name="stem_bn"), "'stem_bn' .GroupNormalization. stands"),
        (layers.BatchNormalization(name="stem_bn"), "'stem_conv' .Conv2D. stands where one has its blocks"),
    ):
        broken = keras.Model(model.inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(norm(stem))))
        with pytest.raises(InputError, match=message):
            parts.of(broken)
    image = keras.Input((12, 12, 3))
    x = stem = layers.BatchNormalization()(layers.Conv2D(8, 3, 3)(image))
    y = layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same", name="deep")(x))
    y = layers.Add(name="sum")([layers.Rescaling(3.0)(stem), y])
    y = layers.BatchNormalization()(layers.Conv2D(8, 1)(y))
    with pytest.raises(InputError, match=r"'sum' \(Add\) must add what 'deep' takes"):
        parts.of(keras.Model(image, y))
    with pytest.raises(InputError, match="one input and one output"):
        parts.of(keras.Model(image, [y, x]))
    with pytest.raises(InputError, match=r"must be a keras\.Model, got str"):
        parts.of("m.keras")


def test_weights_that_are_not_plain():
    model = small_models.build()
    model.get_layer("head").enable_lora(2)
    with pytest.raises(InputError, match=r"'head' .Dense. is quantised or has LoRA weights"):
        parts.of(model)


def test_weights_that_are_no_numbers_are_named():
    model = small_models.build()
    kernel, bias = model.get_layer("block1_pointwise").get_weights()
    kernel[0, 0, 3, 4] = np.nan
    model.get_layer("block1_pointwise").set_weights([kernel, bias])
    with pytest.raises(InputError, match=r"weights block1_pointwise/kernel of .* NaN"):
        parts.check_finite(model)


def test_a_reshape_between_blocks_is_another_network():
    """Behind the pooling it changes nothing."""
    image = keras.Input((8, 8, 3))
    network = small_models.build(
        depth=2, kernel_size=3, include_top=False, pooling=None, input_shape=(8, 8, 3)
    )
    maps = network(image)
    pooled = keras.layers.GlobalAveragePooling2D()(maps)
    parts.of(keras.Model(image, keras.layers.Dense(5)(keras.layers.Flatten()(pooled))))
    height, width, channels = maps.shape[1:]
    other = keras.layers.Reshape((height // 2, 2 * width, channels))(maps)
    pooled = keras.layers.GlobalAveragePooling2D()(other)
    with pytest.raises(InputError, match=r"is not a ConvMixer: layer .*Reshape"):
        parts.of(keras.Model(image, keras.layers.Dense(5)(pooled)))
