"""What a file of weights says of its network is held against the model, and named where it differs."""

import keras
import numpy as np
import pytest
from hub_server import hub  # noqa: F401
from small_models import build

import convmixer_keras as ck
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.models import presets
from convmixer_keras.models.weights import load_weights, open_weights
from convmixer_keras.utils.errors import InputError

PIXELS = {"input_mean": [100.0, 110.0, 120.0], "input_std": [50.0, 60.0, 70.0]}


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(0, 255, (2, 13, 15, 3)).astype(np.float32)


@pytest.mark.parametrize("ending", ["keras", "weights.h5"])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"normalization": "layer", "residual": False, "activation": "relu", "pooling": "max", **PIXELS},
        {"depth": 11},  # Keras numbers its layers, and 10 stands before 2 in the file.
        {"include_top": False, "pooling": "avg"},
    ],
    ids=str,
)
def test_the_same_network_gives_the_same_outputs(arguments, ending, images, tmp_path):
    model = build(kernel_size=3, **arguments)
    (model.save if ending == "keras" else model.save_weights)(tmp_path / f"m.{ending}")
    again = build(seed=1, kernel_size=3, **arguments)
    load_weights(again, tmp_path / f"m.{ending}")
    np.testing.assert_array_equal(again(images), model(images))


@pytest.mark.parametrize(
    ("theirs", "ours", "message", "in_weights"),
    [
        ({"activation": "relu"}, {}, "activation is 'relu' in them and 'gelu' in the model", False),
        ({"residual": False}, {}, "residual is False in them and True in the model", True),
        ({}, {"residual": False}, "residual is True in them and False in the model", True),
        ({"normalization": "layer"}, {}, "normalization is 'layer' in them and 'batch'", True),
        ({"pooling": "max"}, {}, "pooling is 'max' in them and 'avg' in the model", True),
        (PIXELS, {}, "takes pixels and normalises them.* build it with include_preprocessing=True", True),
        (PIXELS, {**PIXELS, "input_mean": 90}, "input_mean is 100, 110, 120 in them and 90, 90, 90", False),
        (PIXELS, {**PIXELS, "input_std": 1}, "input_std is 50, 60, 70 in them and 1, 1, 1 in", False),
    ],
)
def test_another_network_is_refused_by_name(theirs, ours, message, in_weights, tmp_path):
    """All sizes are the same. A file of weights alone does not say everything."""
    stored, model = build(depth=1, kernel_size=3, **theirs), build(depth=1, kernel_size=3, **ours)
    before = [weight.copy() for weight in model.get_weights()]
    stored.save(tmp_path / "m.keras")
    with pytest.raises(InputError, match=message):
        load_weights(model, tmp_path / "m.keras")
    if in_weights:
        stored.save_weights(tmp_path / "m.weights.h5")
        with pytest.raises(InputError, match=message.replace(" 100, 110, 120", "")):
            load_weights(model, tmp_path / "m.weights.h5")
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_another_epsilon_is_refused(tmp_path):
    def clone(layer):
        config = layer.get_config()
        return type(layer).from_config({**config, "epsilon": 1e-3} if "epsilon" in config else config)

    model = build(depth=1, kernel_size=3)
    keras.models.clone_model(model, clone_function=clone).save(tmp_path / "m.keras")
    with pytest.raises(InputError, match=r"epsilon is 0\.001 in them and 1e-05 in the model"):
        load_weights(model, tmp_path / "m.keras")


def test_a_network_of_normalised_channels_in_one_of_pixels(images, tmp_path):
    """As a converted one has it; its file may record the numbers, and then they count."""
    model = build(depth=1, kernel_size=3)
    model.save(tmp_path / "m.keras")
    pixels = build(depth=1, kernel_size=3, **PIXELS)
    load_weights(pixels, tmp_path / "m.keras")
    normalised = (images - [100, 110, 120]) / [50, 60, 70]
    np.testing.assert_allclose(pixels(images), model(normalised), rtol=0, atol=1e-5)
    record = Preprocessing((13, 15), mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25])
    ck.save_model(model, tmp_path / "m.keras", preprocessing=record)
    with pytest.raises(InputError, match=r"input_mean is 127.5, 127.5, 127.5 in them and 100, 110, 120 in"):
        load_weights(pixels, tmp_path / "m.keras")


def test_the_documented_builder_of_a_published_run(hub, tmp_path, monkeypatch):  # noqa: F811
    """The run's network takes pixels; a builder without normalisation would give other logits."""
    run = ck.ConvMixer256_8_P2(weights="cifar10", include_preprocessing=True)
    ck.save_model(run, tmp_path / "m.keras")
    hub.put("user/repo", {"model.keras": (tmp_path / "m.keras").read_bytes()})
    with pytest.raises(InputError, match=r"takes pixels .* build it with include_preprocessing=True"):
        ck.ConvMixer256_8_P2(weights="hf://user/repo")
    again = ck.ConvMixer256_8_P2(weights="hf://user/repo", include_preprocessing=True)
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    np.testing.assert_array_equal(again(images), run(images))


def test_layers_in_front_and_behind_stay(images, tmp_path):
    """A model on another's tensor, and a file of a model with a softmax behind it."""
    model = build(depth=1, kernel_size=3)
    behind = keras.Model(model.input, keras.layers.Softmax()(model.output))
    behind.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")
    image = keras.Input((13, 15, 3))
    for name in ("m.keras", "m.weights.h5"):
        front = keras.layers.Conv2D(3, 1)(keras.layers.Rescaling(2.0)(image))
        again = ck.ConvMixer(
            24, 1, 3, 3, classes=5, input_tensor=front, weights=tmp_path / name, include_top=True
        )
        given = keras.Model(image, front)(images)
        np.testing.assert_allclose(again(images), model(given), rtol=0, atol=1e-5)


def test_nested_networks_are_taken_and_others_are_not(images, tmp_path):
    model, image = build(depth=1, kernel_size=3), keras.Input((13, 15, 3))
    keras.Sequential([image, keras.Sequential([image, model])]).save(tmp_path / "nested.keras")
    again = build(seed=1, depth=1, kernel_size=3, weights=tmp_path / "nested.keras")
    for name in ("block0_depthwise", "head"):
        np.testing.assert_array_equal(
            again.get_layer(name).get_weights()[0], model.get_layer(name).get_weights()[0]
        )
    keras.Model(image, [model(image), model(image)]).save(tmp_path / "two.keras")
    other = keras.Sequential([image, keras.layers.Conv2D(8, 3), keras.layers.Flatten()])
    other.save(tmp_path / "other.keras")
    other.save_weights(tmp_path / "other.weights.h5")
    (tmp_path / "m.safetensors").write_bytes(b"")
    for name, message in (
        ("two.keras", "it must have one input and one output"),
        ("other.keras", "is not a ConvMixer: layer .* stands where"),
        ("other.weights.h5", "are not a ConvMixer's"),
        ("m.safetensors", "becomes one by convmixer-convert .*m.safetensors model.keras"),
    ):
        with pytest.raises(InputError, match=message) as error:
            open_weights(tmp_path / name)
        assert "\n" not in str(error.value)


def test_published_weights_say_their_facts():
    """The package's own, by name: trained with GELU on normalised channels."""
    from convmixer_keras import pretrained

    body = pretrained.open_body("ConvMixer256_8_P2")
    preset = presets.CONVMIXER_256_8_P2
    assert (body.sizes.hidden_dim, body.sizes.classes) == (256, 10)
    assert (body.facts["activation"], body.facts["residual"]) == ("gelu", True)
    np.testing.assert_allclose(body.facts["mean"], 255 * np.array(preset.mean))
    other = ck.ConvMixer(256, 8, 5, 2, activation="relu", classes=10, input_shape=(32, 32, 3))
    with pytest.raises(InputError, match="ConvMixer256_8_P2 do not fit: activation is 'gelu' in them"):
        load_weights(other, body)
    with pytest.raises(InputError, match="published for"):
        pretrained.open_body("ConvMixer256_8")


@pytest.mark.parametrize("nested", [False, True])
def test_weights_of_a_network_behind_other_layers(nested, tmp_path):
    """A model that scales its input gives other logits than its network; one that augments does not."""
    sizes = {"hidden_dim": 8, "depth": 1, "kernel_size": 3, "patch_size": 2, "classes": 3}
    for front, is_refused in ((keras.layers.Rescaling(1 / 255), True), (keras.layers.RandomFlip(), False)):
        image = keras.Input((8, 8, 3))
        if nested:
            model = keras.Sequential([image, front, ck.ConvMixer(**sizes, input_shape=(8, 8, 3))])
        else:
            model = ck.ConvMixer(**sizes, input_tensor=front(image))
        model.save(tmp_path / "m.keras")
        if is_refused:
            with pytest.raises(InputError, match=r"layer 'rescaling\w*' stands in front of its network"):
                ck.ConvMixer(**sizes, input_shape=(8, 8, 3), weights=tmp_path / "m.keras")
        else:
            ck.ConvMixer(**sizes, input_shape=(8, 8, 3), weights=tmp_path / "m.keras")
