"""Graphs of other Keras programs: a ConvMixer gives its own logits, anything else is refused by its layer."""

import json
import shutil

import h5py
import keras
import numpy as np
import pytest
from keras import layers
from small_models import randomize

from convmixer_keras.convert.weights import to_keras
from convmixer_keras.images import preprocessing
from convmixer_keras.utils.errors import InputError

H, CLASSES, SIDE = 8, 5, 12
PIXELS = np.random.default_rng(0).uniform(0, 255, (2, SIDE, SIDE, 3)).astype(np.float32)


class Builder:
    """A small ConvMixer as strangers write it; subclasses change one thing."""

    activation, patch, depth = "gelu", 2, 2
    front = ()

    def act(self, x):
        return layers.Activation(self.activation)(x)

    def norm(self, x):
        return layers.BatchNormalization()(x)

    def after(self, convolution, x):
        return self.norm(self.act(convolution(x)))

    def stem(self, x):
        return self.after(layers.Conv2D(H, self.patch, self.patch), x)

    def depthwise(self):
        return layers.DepthwiseConv2D(3, padding="same")

    def block(self, x):
        x = layers.Add()([self.after(self.depthwise(), x), x])
        return self.after(layers.Conv2D(H, 1), x)

    def top(self, x):
        return layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x))

    def model(self):
        image = x = keras.Input((SIDE, SIDE, 3))
        for layer in self.front:
            x = layer(x)
        x = self.stem(x)
        for _ in range(self.depth):
            x = self.block(x)
        model = keras.Model(image, self.top(x))
        randomize(model)
        return model


def outputs(model, images):
    return np.asarray(model(images, training=False))


def variant(**changes):
    """A `Builder` with other attributes; functions become methods."""
    return type("Variant", (Builder,), changes)().model()


def agrees(model, path, pixels=PIXELS, scores=lambda logits: logits, **arguments):
    """Converts a saved model, and compares with what that gives; returns the converted one."""
    model.save(path)
    converted = to_keras.convert_checkpoint(path, **arguments)
    expected = outputs(model, pixels)
    logits = outputs(converted, pixels)
    assert np.ptp(logits) > 0.05
    np.testing.assert_allclose(scores(logits), expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    return converted


def nested():
    """A Sequential of Sequentials and functional blocks, all called alike."""

    def normed(convolution):
        return keras.Sequential([convolution, layers.ReLU(name="act"), layers.BatchNormalization(name="bn")])

    def block():
        x = keras.Input((6, 6, H))
        y = normed(layers.DepthwiseConv2D(3, padding="same", name="dw"))(x)
        return keras.Sequential([keras.Model(x, layers.Add(name="add")([x, y])), normed(layers.Conv2D(H, 1))])

    model = keras.Sequential(
        [keras.Input((SIDE, SIDE, 3)), normed(layers.Conv2D(H, 2, 2)), keras.Sequential([block(), block()]),
         layers.GlobalAveragePooling2D(), layers.Dropout(0.5), layers.Dense(CLASSES)]
    )  # fmt: skip
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            randomize(keras.Sequential([layer]))
    return model


def backbone():
    """A body that another model's classifier uses."""
    body = variant(top=lambda self, x: x)
    image = keras.Input((SIDE, SIDE, 3))
    return keras.Model(image, layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(body(image))))


def by_operations(self, x):
    x = x + self.after(self.depthwise(), x)
    return self.after(layers.Conv2D(H, 1), x)


CONVMIXERS = {
    "activations apart": lambda: variant(),
    "within convolutions": lambda: variant(after=lambda self, convolution, x: (
        setattr(convolution, "activation", keras.activations.relu), self.norm(convolution(x)))[1]),
    "relu layer": lambda: variant(act=lambda self, x: layers.ReLU()(x)),
    "relu6 layer": lambda: variant(act=lambda self, x: layers.ReLU(6.0)(x)),
    "operations": lambda: variant(
        act=lambda self, x: keras.ops.gelu(x, approximate=False), block=by_operations,
        top=lambda self, x: layers.Dense(CLASSES)(keras.ops.mean(x, axis=(1, 2)))),
    "no biases": lambda: variant(
        stem=lambda self, x: self.after(layers.Conv2D(H, 2, 2, use_bias=False), x),
        depthwise=lambda self: layers.DepthwiseConv2D(3, padding="same", use_bias=False)),
    "grouped convolution": lambda: variant(
        depthwise=lambda self: layers.Conv2D(H, 3, padding="same", groups=H)),
    "classifier of 1x1": lambda: variant(top=lambda self, x: layers.Flatten()(
        layers.Conv2D(CLASSES, 1)(layers.GlobalAveragePooling2D(keepdims=True)(x)))),
    "dropout": lambda: variant(
        stem=lambda self, x: layers.Dropout(0.3)(Builder.stem(self, x)),
        top=lambda self, x: Builder.top(self, layers.SpatialDropout2D(0.2)(x))),
    "nested": nested,
    "backbone": backbone,
    "swish": lambda: variant(activation="swish"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "ending"), [*((kind, "keras") for kind in CONVMIXERS), ("nested", "h5"), ("backbone", "h5")]
)
def test_genuine_networks_give_their_own_logits(kind, ending, tmp_path):
    agrees(CONVMIXERS[kind](), tmp_path / f"m.{ending}", PIXELS / 100)


@pytest.mark.parametrize(("activation", "apart"), [("softmax", False), ("sigmoid", True)])
def test_an_activation_of_the_scores_is_not_the_networks(activation, apart, tmp_path):
    def top(self, x):
        x = layers.GlobalAveragePooling2D()(x)
        if apart:
            return layers.Activation(activation)(layers.Dense(CLASSES)(x))
        return layers.Dense(CLASSES, activation=activation)(x)

    model = variant(top=top)
    model.compile("adam", "mse")  # Its epsilon is not the normalisations'.
    function = keras.activations.get(activation)
    converted = agrees(model, tmp_path / "m.keras", PIXELS / 100, lambda logits: np.asarray(function(logits)))
    assert converted.get_layer("stem_conv").activation is keras.activations.gelu


def norm_first(self, convolution, x):
    return self.act(self.norm(convolution(x)))


def pointwise_first(self, x):
    x = self.after(layers.Conv2D(H, 1), x)
    return layers.Add()([self.after(self.depthwise(), x), x])


def reading_the_stem(self, x):
    self.first = getattr(self, "first", x)
    x = layers.Add()([self.after(self.depthwise(), self.first), x])
    return self.after(layers.Conv2D(H, 1), x)


def bare_stem(self, x):
    return self.norm(layers.Conv2D(H, 2, 2, name="bare")(x))


def quantised():
    model = variant()
    model.quantize("int8")
    return model


LOOK_ALIKES = {
    "normalisation first": (lambda: variant(after=norm_first), "activation"),
    "no residual": (
        lambda: variant(block=lambda self, x: self.after(
            layers.Conv2D(H, 1, name=f"pw{x.name[-1]}"), self.after(self.depthwise(), x))),
        r"'pw.*no residual"),
    "a second residual": (
        lambda: variant(block=lambda self, x: layers.Add(name=f"second{x.name[-1]}")(
            [Builder.block(self, x), x])),
        "'second"),
    "no activation in the stem": (lambda: variant(stem=bare_stem), "'bare'"),
    "max pooling": (
        lambda: variant(top=lambda self, x: layers.Dense(CLASSES)(layers.GlobalMaxPooling2D(name="most")(x))),
        "'most'.*maximum"),
    "dilation": (
        lambda: variant(depthwise=lambda self: layers.DepthwiseConv2D(
            3, padding="same", dilation_rate=2)), r"'depthwise_conv2d\w*'.*dilation_rate"),
    "another stride": (
        lambda: variant(stem=lambda self, x: self.after(layers.Conv2D(H, 2, 1, name="stem"), x)),
        "'stem'.*strides"),
    "padding in the stem": (
        lambda: variant(stem=lambda self, x: self.after(
            layers.Conv2D(H, 5, 5, padding="same", name="stem"), x)), "'stem'.*padding"),
    "LeakyReLU": (lambda: variant(act=lambda self, x: layers.LeakyReLU()(x)), r"'leaky_re_lu\w*'"),
    "leaky ReLU layer": (lambda: variant(act=lambda self, x: layers.ReLU(negative_slope=0.1)(x)), "'re_lu"),
    "approximate GELU": (lambda: variant(act=lambda self, x: keras.ops.gelu(x)), "'gelu"),
    "two activations": (
        lambda: variant(stem=lambda self, x: self.norm(layers.ReLU()(layers.Conv2D(H, 2, 2)(x)))), "relu"),
    "pointwise first": (lambda: variant(block=pointwise_first), r"'add\w*'"),
    "every depthwise reading the stem": (lambda: variant(block=reading_the_stem), r"'add\w*'.*'depthwise"),
    "layer normalisation": (
        lambda: variant(norm=lambda self, x: layers.LayerNormalization()(x)), "'layer_norm"),
    "one layer more": (
        lambda: variant(top=lambda self, x: Builder.top(
            self, layers.AveragePooling2D(2, name="half")(x))), "'half'"),
    "no blocks": (lambda: variant(depth=0), "blocks"),
    "a cropped image": (lambda: variant(front=[layers.CenterCrop(8, 8, name="middle")]), "'middle'"),
    "a layer as activation": (
        lambda: variant(act=lambda self, x: layers.Activation(layers.LeakyReLU())(x)), "'activation"),
    "quantised": (lambda: quantised(), r"'conv2d\w*'|'dense\w*'.*quantised"),
    "two classifiers": (
        lambda: variant(top=lambda self, x: layers.Dense(CLASSES)(Builder.top(self, x))), r"'dense\w*'"),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "ending"), [*((kind, "keras") for kind in LOOK_ALIKES), ("dilation", "h5")])
def test_look_alikes_are_refused_by_the_layers_name(kind, ending, tmp_path):
    build, words = LOOK_ALIKES[kind]
    build().save(tmp_path / f"m.{ending}")
    with pytest.raises(InputError, match=f"(?s)m.{ending}.*{words}") as error:
        to_keras.open_checkpoint(tmp_path / f"m.{ending}")
    assert "\n" not in str(error.value)


FRONTS = {
    "keras.io": [layers.Rescaling(1 / 255)],
    "to one": [layers.Rescaling(1 / 127.5, offset=-1)],
    "normalization": [layers.Normalization(mean=[100, 120, 140], variance=[400, 500, 600])],
    "both": [layers.Rescaling(1 / 255),
             layers.Normalization(mean=[0.4, 0.5, 0.6], variance=[0.04, 0.05, 0.06])],
    "augmented": [layers.RandomFlip(),
                  keras.Sequential([layers.RandomRotation(0.1), layers.Rescaling(1 / 255)])],
}  # fmt: skip


@pytest.mark.parametrize("front", FRONTS)
def test_what_stands_in_front_becomes_part_of_the_model(front, tmp_path):
    model = agrees(variant(front=FRONTS[front]), tmp_path / "m.keras")
    assert model.layers[1].name == "input_normalization"


def test_sizes_of_a_published_variant_bring_no_constants(tmp_path, convmixer_convert, monkeypatch):
    """keras.io's example has those of ConvMixer256_8_P2, and 1/255 of its own."""
    from convmixer_keras.models import presets

    small = presets.CONVMIXER_256_8_P2.__class__(
        **{**vars(presets.CONVMIXER_256_8_P2), "hidden_dim": H, "depth": 2, "kernel_size": 3}
    )
    monkeypatch.setattr(presets, "PRESETS", (small,))
    model = variant(front=[layers.RandomFlip(name="flip"), layers.Rescaling(1 / 255)], activation="relu")
    model.save(tmp_path / "m.keras")
    outcome = convmixer_convert(tmp_path / "m.keras", tmp_path / "out.keras")
    assert outcome.code == 0, outcome.stderr
    assert "left out: flip (RandomFlip)" in outcome.stdout
    assert "against the file's own graph" in outcome.stdout
    assert preprocessing.of(tmp_path / "out.keras") is None
    converted = keras.saving.load_model(tmp_path / "out.keras")
    np.testing.assert_allclose(outputs(converted, PIXELS), outputs(model, PIXELS), rtol=0, atol=1e-4)
    refused = convmixer_convert(
        tmp_path / "m.keras", tmp_path / "out.keras", "--mean", 0.5, 0.5, 0.5, "--std", 0.2, 0.2, 0.2
    )
    assert refused.code == 2
    assert "normalises by itself" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"activation": "relu"}, "states the activation gelu, got relu"),
        ({"epsilon": 1e-3}, "states its epsilon"),
        ({"ema": True}, "no moving average"),
    ],
)
def test_what_a_graph_states_is_not_overridden(arguments, words, tmp_path):
    variant().save(tmp_path / "m.keras")
    with pytest.raises(InputError, match=words):
        to_keras.open_checkpoint(tmp_path / "m.keras", **arguments)


def test_a_graph_of_keras_2_is_read(tmp_path):
    """It writes a setting of depthwise convolutions that Keras 3 refuses."""
    model = variant(depthwise=lambda self: layers.DepthwiseConv2D(3, padding="same", dilation_rate=2))
    model.save(tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        config = json.loads(file.attrs["model_config"])
        for layer in config["config"]["layers"]:
            if layer["class_name"] == "DepthwiseConv2D":
                layer["config"]["groups"] = 1
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(InputError, match="dilation"):
        to_keras.open_checkpoint(tmp_path / "m.h5")


def test_code_in_front_is_not_left_out(tmp_path):
    image = keras.Input((SIDE, SIDE, 3))
    model = keras.Model(image, variant()(layers.Lambda(lambda x: x / 255.0, name="scaled")(image)))
    model.save(tmp_path / "m.keras")
    with pytest.raises(InputError, match=r"layer 'scaled' \(Lambda\) does is code, which is not run"):
        to_keras.open_checkpoint(tmp_path / "m.keras", activation="gelu")


def test_names_that_belie_the_content(tmp_path):
    model = variant()
    model.save(tmp_path / "a.h5")
    shutil.copy(tmp_path / "a.h5", tmp_path / "b.keras")
    converted = to_keras.convert_checkpoint(tmp_path / "b.keras")
    images = PIXELS / 100
    np.testing.assert_allclose(outputs(converted, images), outputs(model, images), rtol=0, atol=1e-4)


def test_photographs_and_another_top(tmp_path, convmixer_convert, image_folder):
    """Of a network that takes pixels; a graph without a classifier is compared by its features."""
    variant(front=FRONTS["to one"]).save(tmp_path / "m.keras")
    out = tmp_path / "out.keras"
    outcome = convmixer_convert(
        tmp_path / "m.keras", out, "--images", image_folder / "val", "--classes", 7, "--image-size", 24
    )
    assert outcome.code == 0, outcome.stderr
    assert f"{SIDE} x {SIDE}, against the file's own graph" in outcome.stdout
    assert "same top-1 on 15 of 15" in outcome.stdout
    converted = keras.saving.load_model(out)
    assert (converted.input_shape, converted.output_shape) == ((None, 24, 24, 3), (None, 7))
    body = variant(top=lambda self, x: x)
    body.save(tmp_path / "body.keras")
    assert "no classifier" in convmixer_convert(tmp_path / "body.keras", out).stderr
    outcome = convmixer_convert(tmp_path / "body.keras", out, "--no-top")
    assert "against the file's own graph: largest feature difference" in outcome.stdout
    images = PIXELS / 100
    features = outputs(keras.saving.load_model(out), images)
    np.testing.assert_allclose(features, outputs(body, images), rtol=0, atol=1e-4)


def test_a_claimed_size_is_not_built(tmp_path):
    variant().save(tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        config = file.attrs["model_config"].replace(f'"filters": {H}', '"filters": 1000000000')
        file.attrs["model_config"] = config
    with pytest.raises(InputError, match="filters 1000000000, over"):
        to_keras.open_checkpoint(tmp_path / "m.h5")


def test_fixed_batches_and_wrong_arithmetic(tmp_path, convmixer_convert, monkeypatch):
    image = keras.Input(batch_shape=(3, SIDE, SIDE, 3))
    model = keras.Model(image, variant()(image))
    model.save(tmp_path / "m.keras")
    outcome = convmixer_convert(tmp_path / "m.keras", tmp_path / "out.keras")
    assert outcome.code == 0, outcome.stderr
    assert f"{SIDE} x {SIDE}, against the file's own graph" in outcome.stdout
    build = to_keras.build

    def wrong(*arguments):
        model = build(*arguments)
        model.get_layer("block1_depthwise").bias.assign_add([0.01] * H)
        return model

    monkeypatch.setattr(to_keras, "build", wrong)
    outcome = convmixer_convert(tmp_path / "m.keras", tmp_path / "out2.keras")
    assert outcome.code == 1
    assert "Keras and the file's own graph differ" in outcome.stderr
    assert not (tmp_path / "out2.keras").exists()
