"""Weights of other Keras packages' ConvMixers give those packages' own logits.

kimm's class is the real one. kmodels (github.com/IMvision12/keras-vision-models) is not on PyPI, and
keras-cv's class builds under Keras 2 only: `other_packages` holds a small file of each with random weights,
written by their own classes (kmodels at commit 5089754 with `include_normalization=True`, keras-cv 0.9 with
tf-keras 2.21), and what those gave for two images. For other sizes they are written down here, layer for
layer.
"""

import contextlib
import pathlib

import h5py
import keras
import numpy as np
import pytest
from keras import layers
from small_models import randomize

from convmixer_keras.convert.weights import to_keras
from convmixer_keras.models import presets
from convmixer_keras.utils.errors import InputError

H, D, K, P, CLASSES = 12, 11, 4, 2, 5
IMAGES = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)


def network(names, activation, epsilon, front=(), apart=False):
    """A ConvMixer as the three packages write it; `names` of layers are theirs."""
    inputs = keras.Input((16, 16, 3))
    x = inputs
    for layer in front:
        x = layer(x)

    def activated(convolution, x):
        if not apart:
            convolution.activation = keras.activations.get(activation)
            return convolution(x)
        return layers.Activation(activation, name=names("act"))(convolution(x))

    def norm(x, name):
        return layers.BatchNormalization(momentum=0.9, epsilon=epsilon, name=names(name))(x)

    x = norm(activated(layers.Conv2D(H, P, P, name=names("stem_conv")), x), "stem_bn")
    for i in range(D):
        y = activated(layers.DepthwiseConv2D(K, padding="same", name=names(f"block{i}_dw")), x)
        x = layers.Add()([norm(y, f"block{i}_dw_bn"), x])
        x = norm(activated(layers.Conv2D(H, 1, name=names(f"block{i}_pw")), x), f"block{i}_pw_bn")
    x = layers.GlobalAveragePooling2D()(x)
    outputs = layers.Dense(CLASSES, name=names("head"))(x)
    randomize(keras.Model(inputs, outputs))
    return inputs, outputs


@pytest.fixture
def unknown_classes():
    """As in a program that never saw them."""
    with contextlib.suppress(ImportError):  # It registers itself then, and not within a test.
        import kimm._src.models.convmixer  # noqa: F401
    registered = keras.saving.get_custom_objects()
    known = dict(registered)
    registered.clear()
    yield
    registered.update(known)


def converted(path, **arguments):
    model = to_keras.convert_checkpoint(path, **arguments)
    return keras.ops.convert_to_numpy(model(IMAGES)), model


@pytest.mark.parametrize(
    ("file", "mean", "std"),
    [
        ("kmodels.keras", presets.IMAGENET_MEAN, presets.IMAGENET_STD),
        ("keras_cv.h5", (0, 0, 0), (1, 1, 1)),
    ],
)
def test_files_of_the_real_classes(file, mean, std):
    path = pathlib.Path(__file__).parent / "other_packages" / file
    checkpoint = to_keras.open_checkpoint(path)
    assert checkpoint.activation == "gelu"
    model = to_keras.build(checkpoint)
    with np.load(path.parent / f"{path.stem}.npz") as theirs:
        logits = np.asarray(model(theirs["images"].astype(np.float32)))
        ours = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        np.testing.assert_allclose(ours, theirs["probabilities"], rtol=0, atol=1e-6)
    assert np.ptp(ours) > 0.01


@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.usefixtures("unknown_classes")
def test_kimm(pixels, tmp_path):
    pytest.importorskip("kimm")
    from kimm._src.models.convmixer import ConvMixer

    options = {"include_top": True, "pooling": None, "dropout_rate": 0.0, "classes": CLASSES, "weights": None}
    options |= {"feature_extractor": False, "feature_keys": None, "classifier_activation": "linear"}
    model = ConvMixer(D, H, P, K, "relu", input_shape=(16, 16, 3), include_preprocessing=pixels, **options)
    randomize(model)
    model.compile("adam", "mse")  # Whose epsilon the file holds, too, and not the normalisations'.
    model.save(tmp_path / "kimm.keras")
    images = 100 * IMAGES if pixels else IMAGES
    with pytest.raises(InputError, match=r"kimm\.keras has the epsilon 1e-05, got 0\.001"):
        to_keras.open_checkpoint(tmp_path / "kimm.keras", epsilon=1e-3)
    for epsilon in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="epsilon must be over 0 and finite"):
            to_keras.open_checkpoint(tmp_path / "kimm.keras", epsilon=epsilon)
    ours = to_keras.convert_checkpoint(tmp_path / "kimm.keras")
    expected = keras.ops.convert_to_numpy(model(images))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(ours(images)), expected, rtol=0, atol=1e-4)
    assert ours.get_layer("stem_conv").activation is keras.activations.relu


@keras.saving.register_keras_serializable(package="kmodels")
class KModels(keras.Model):
    """Keeps its own settings in the file, as kmodels' class does, and no list of layers."""

    def __init__(self, activation="relu", **kwargs):
        inputs, outputs = network(lambda name: None, activation, 1e-5)
        super().__init__(inputs, outputs, **kwargs)
        self.act = activation

    def get_config(self):
        return {"dim": H, "depth": D, "activation": self.act, "classifier_activation": "softmax"}


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.usefixtures("unknown_classes")
def test_kmodels(activation, tmp_path):
    model = KModels(activation)
    expected = keras.ops.convert_to_numpy(model(IMAGES))
    model.save(tmp_path / "kmodels.keras")
    logits, _ = converted(tmp_path / "kmodels.keras")
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    model.save_weights(tmp_path / "kmodels.weights.h5")  # As its releases are.
    logits, _ = converted(tmp_path / "kmodels.weights.h5", activation=activation, epsilon=1e-5)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    with pytest.raises(InputError, match="give epsilon, 1e-5"):
        converted(tmp_path / "kmodels.weights.h5", activation=activation)


def keras_cv_names():
    """What Keras 2 calls layers: by kind and number, the first without one."""
    kinds = {"conv": "conv2d", "pw": "conv2d", "dw": "depthwise_conv2d", "bn": "batch_normalization"}
    kinds |= {"act": "tf.nn.gelu", "head": "predictions"}
    counts = {}

    def name(part):
        kind = kinds[part.split("_")[-1]]
        counts[kind] = counts.get(kind, -1) + 1
        return f"{kind}_{counts[kind]}" if counts[kind] else kind

    return name


@pytest.mark.parametrize("whole", [False, True])
def test_keras_cv(whole, tmp_path):
    """A Keras 2 weights file or whole model; batch normalisation with Keras' own epsilon, 1e-3."""
    inputs, outputs = network(keras_cv_names(), "gelu", 1e-3, [layers.Rescaling(1 / 255)], apart=True)
    model = keras.Model(inputs, outputs)
    with h5py.File(tmp_path / "cv.h5", "w") as file:
        group = file.create_group("model_weights") if whole else file
        if whole:
            file.attrs["model_config"] = '{"class_name": "ConvMixer", "config": {"dim": 12}}'
        weighted = [layer.name for layer in model.layers]
        group.attrs["layer_names"] = [name.encode() for name in weighted]
        for layer in model.layers:
            inner = group.create_group(layer.name)
            names = [f"{layer.name}/{weight.name}:0" for weight in layer.weights]
            inner.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, layer.weights, strict=True):
                inner[name] = weight.numpy()
    ours = to_keras.convert_checkpoint(tmp_path / "cv.h5")
    pixels = 127 + 50 * IMAGES
    expected = keras.ops.convert_to_numpy(model(pixels))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(ours(pixels)), expected, rtol=0, atol=1e-4)
    assert ours.get_layer("stem_bn").epsilon == 1e-5
    assert to_keras.open_checkpoint(tmp_path / "cv.h5").input_statistics == ((0, 0, 0), (255, 255, 255))


@keras.saving.register_keras_serializable(package="mine")
class Block(layers.Layer):
    """A block of one's own."""

    def __init__(self, epsilon=1e-3, **kwargs):
        super().__init__(**kwargs)
        self.depthwise = layers.DepthwiseConv2D(K, padding="same", activation="swish")
        self.norm1, self.norm2 = (layers.BatchNormalization(epsilon=epsilon) for _ in range(2))
        self.pointwise = layers.Conv2D(H, 1, activation="swish")

    def build(self, shape):
        for layer in (self.depthwise, self.norm1, self.pointwise, self.norm2):
            layer.build(shape)

    def call(self, x):
        x = x + self.norm1(self.depthwise(x))
        return self.norm2(self.pointwise(x))


@pytest.mark.parametrize("ending", ["keras", "h5"])
@pytest.mark.usefixtures("unknown_classes")
def test_blocks_of_ones_own(ending, tmp_path):
    """Nested layers are told apart by their paths; what the graph shows in front is not dropped."""
    x = image = keras.Input((16, 16, 3))
    x = layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[0.5, 0.6, 0.7])(layers.Rescaling(0.5, -0.1)(x))
    x = layers.BatchNormalization(epsilon=1e-3)(layers.Conv2D(H, P, P, activation="swish")(x))
    for _ in range(D):
        x = Block()(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, layers.Dense(CLASSES, activation="sigmoid")(x))
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            randomize(keras.Sequential([layer]))
    model.compile("adam", "mse")
    model.save(tmp_path / f"m.{ending}")
    logits, ours = converted(tmp_path / f"m.{ending}")
    expected = keras.ops.convert_to_numpy(model(IMAGES))
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), expected, rtol=0, atol=1e-5)
    assert ours.get_layer("stem_conv").activation is keras.activations.silu


def test_weights_under_paths(tmp_path):
    """As tensorflow-image-models' classes name them: a layer holds a block's weights, by their paths."""

    def path(part):
        if part.startswith("block"):
            number, _, end = part.removeprefix("block").partition("_")
            ends = {"dw": "0/fn/0", "dw_bn": "0/fn/2", "pw": "1", "pw_bn": "3"}
            return f"blocks/{number}", f"net/blocks/{number}/{ends[end]}"
        return ("head", "net/head") if part == "head" else ("sequential", f"net/stem/{2 * ('bn' in part)}")

    model = keras.Model(*network(lambda part: part, "relu", 1e-5))
    groups = {}
    for layer in model.layers:
        if layer.weights:
            groups.setdefault(path(layer.name)[0], []).append(layer)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in groups]
        for name, members in groups.items():
            group, names = file.create_group(name), []
            for layer in members:
                for weight in layer.weights:
                    names.append(f"{path(layer.name)[1]}/{weight.name}:0")
                    group[names[-1]] = weight.numpy()
            group.attrs["weight_names"] = [weight.encode() for weight in names]
    logits, _ = converted(tmp_path / "m.h5", activation="relu", epsilon=1e-5)
    np.testing.assert_allclose(logits, keras.ops.convert_to_numpy(model(IMAGES)), rtol=0, atol=1e-4)


@pytest.mark.usefixtures("unknown_classes")
def test_an_adapted_normalisation_is_not_dropped(tmp_path):
    front = layers.Normalization()
    front.adapt(IMAGES)
    keras.Model(*network(lambda name: None, "relu", 1e-3, [front])).save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(InputError, match=r"found normalization\w*\.weight.*ignore leaves out"):
        to_keras.open_checkpoint(tmp_path / "m.weights.h5", activation="relu", epsilon=1e-3)


@pytest.mark.usefixtures("unknown_classes")
def test_the_command_reads_them(tmp_path, convmixer_convert):
    KModels("relu").save(tmp_path / "kmodels.keras")
    outcome = convmixer_convert(tmp_path / "kmodels.keras", tmp_path / "m.keras")
    assert outcome.code == 0, outcome.stderr
    assert "relu" in outcome.stdout
    assert "block 10: depthwise depthwise_conv2d_10, normalisation batch_normalization_21" in outcome.stdout
    assert "verified" in outcome.stdout


def test_files_that_are_refused(tmp_path, convmixer_convert):
    keras.Sequential([keras.Input((3,)), layers.Dense(2)]).save(tmp_path / "dense.keras")
    (tmp_path / "damaged.keras").write_bytes(b"no archive")
    (tmp_path / "damaged.h5").write_bytes(b"no HDF5")
    for name, words in (
        ("dense.keras", "stands where one has GlobalAveragePooling2D"),
        ("damaged.keras", "damaged"),
        ("damaged.h5", "damaged"),
        ("nothing.keras", "there is no file"),
    ):
        outcome = convmixer_convert(tmp_path / name, tmp_path / "out.keras", "--activation", "gelu")
        assert outcome.code == 2
        assert words in outcome.stderr
        assert len(outcome.stderr.splitlines()) == 1


@pytest.mark.usefixtures("unknown_classes")
@pytest.mark.parametrize("front", [layers.Rescaling(1 / 255), layers.Normalization(mean=0.5, variance=0.1)])
def test_what_normalises_without_a_weight_is_not_dropped(front, tmp_path):
    keras.Model(*network(lambda name: None, "relu", 1e-3, [front])).save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(InputError, match=r"has a layer '(rescaling|normalization)\w*', and not the numbers"):
        to_keras.open_checkpoint(tmp_path / "m.weights.h5", activation="relu", epsilon=1e-3)
