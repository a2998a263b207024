import inspect
import itertools

import keras
import numpy as np
import pytest
import torch
from torch.nn import functional

import convmixer_keras as ck
from convmixer_keras.models import parts, presets
from convmixer_keras.utils.errors import InputError

SMALL = {"hidden_dim": 8, "depth": 2, "kernel_size": 3, "patch_size": 2}


def randomise(model):
    """Random weights everywhere, so that no bias of zero or scale of one hides a mistake."""
    random = np.random.default_rng(0)
    for weight in model.weights:
        values = random.normal(0, 0.5, weight.shape)
        positive = weight.name in ("gamma", "moving_variance")
        weight.assign(np.abs(values) + 0.5 if positive else values)


def torch_logits(model, images, depth, patch_size, act, residual=True, pool="avg", norm="batch"):
    """The paper's network in PyTorch's functions, on the Keras model's weights."""

    def weights(layer):
        return [torch.tensor(value) for value in model.get_layer(layer).get_weights()]

    def conv(x, layer, **options):
        kernel, bias = weights(layer)
        groups = options.get("groups", 1)
        axes = (2, 3, 0, 1) if groups > 1 else (3, 2, 0, 1)
        return getattr(functional, act)(functional.conv2d(x, kernel.permute(axes), bias, **options))

    def normed(x, name):
        if norm == "layer":
            gamma, beta = weights(f"{name}_ln")
            moved = x.permute(0, 2, 3, 1)
            return functional.layer_norm(moved, gamma.shape, gamma, beta, 1e-5).permute(0, 3, 1, 2)
        gamma, beta, mean, variance = weights(f"{name}_bn")
        return functional.batch_norm(x, mean, variance, gamma, beta, eps=1e-5)

    x = torch.tensor(images).permute(0, 3, 1, 2)
    x = normed(conv(x, "stem_conv", stride=patch_size), "stem")
    for i in range(depth):
        y = conv(x, f"block{i}_depthwise", padding="same", groups=x.shape[1])
        y = normed(y, f"block{i}_depthwise")
        x = y + x if residual else y
        x = normed(conv(x, f"block{i}_pointwise"), f"block{i}_pointwise")
    x = x.mean((2, 3)) if pool == "avg" else x.amax((2, 3))
    kernel, bias = weights("head")
    return (x @ kernel + bias).numpy()


@pytest.mark.parametrize(
    ("arguments", "side", "channels"),
    [
        ((8, 2, 3, 2), 8, 3),
        ((12, 3, 5, 3), 13, 1),  # One row and column more than patches.
        ((6, 1, 9, 1), 7, 4),  # A kernel larger than the image.
        ((10, 2, 7, 7), 29, 2),
        ((8, 2, 8, 2), 19, 3),  # Even kernels, as in ConvMixer-512/16.
        ((8, 1, 2, 1), 5, 1),
        ((6, 2, 8, 2), 6, 3),
    ],
)
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_logits_equal_pytorch(arguments, side, channels, activation):
    model = ck.ConvMixer(*arguments, activation=activation, classes=5, input_shape=(side, side, channels))
    randomise(model)
    images = np.random.default_rng(1).normal(size=(3, side, side, channels)).astype(np.float32)
    _, depth, _, patch_size = arguments
    expected = torch_logits(model, images, depth, patch_size, activation)
    np.testing.assert_allclose(np.asarray(model(images)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"residual": False},
        {"normalization": "layer"},
        {"pooling": "max"},
    ],
)
def test_ablations_equal_pytorch(options):
    model = ck.ConvMixer(**SMALL, classes=4, input_shape=(9, 8, 3), **options)
    randomise(model)
    images = np.random.default_rng(1).normal(size=(2, 9, 8, 3)).astype(np.float32)
    expected = torch_logits(
        model,
        images,
        2,
        2,
        "gelu",
        residual=options.get("residual", True),
        pool=options.get("pooling", "avg"),
        norm=options.get("normalization", "batch"),
    )
    np.testing.assert_allclose(np.asarray(model(images)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("preset", presets.PRESETS, ids=lambda preset: preset.name)
def test_published_sizes_add_up(preset):
    """By arithmetic, layer by layer; the smallest and one full-size network are built besides."""
    h, d, k, p = preset.hidden_dim, preset.depth, preset.kernel_size, preset.patch_size
    classes, places = preset.classes, (preset.image_size // p) ** 2
    normalization = 2 * h  # Scale and shift.
    stem, depthwise, pointwise, head = p * p * 3 * h, k * k * h, h * h, h * classes
    block = depthwise + h + normalization + pointwise + h + normalization
    assert preset.parameters == stem + h + normalization + d * block + head + classes
    assert preset.multiply_adds == places * (stem + d * (depthwise + pointwise)) + head


@pytest.mark.parametrize(
    "preset",
    [presets.CONVMIXER_256_8, presets.CONVMIXER_256_8_P2, presets.CONVMIXER_1024_20],
    ids=lambda preset: preset.name,
)
def test_published_sizes_are_built(preset):
    model = getattr(ck, preset.name)()
    assert model.name == preset.name
    assert model.output_shape == (None, preset.classes)
    assert ck.model_complexity(model) == (preset.parameters, preset.multiply_adds)


def test_complexity_counts_each_multiplication():
    """By hand: 4x4 places x (2x2x3 weights x 8) + 2 x 16 places x (9 x 8 + 8 x 8) + 8 x 5."""
    model = ck.ConvMixer(**SMALL, classes=5, input_shape=(8, 8, 3))
    expected = 16 * 12 * 8 + 2 * 16 * (9 * 8 + 8 * 8) + 8 * 5
    assert ck.model_complexity(model).multiply_adds == expected
    free = ck.ConvMixer(**SMALL, classes=5, input_shape=(None, None, 3))
    assert ck.model_complexity(free, input_shape=(8, 8, 3)).multiply_adds == expected
    with pytest.raises(ValueError, match=r"stem_conv.*input_shape"):
        ck.model_complexity(free)
    nested = keras.Sequential([keras.Input((8, 8, 3)), model, keras.layers.Dense(7)])
    assert ck.model_complexity(nested).multiply_adds == expected + 5 * 7
    image = keras.Input((8, 8, 3))
    body = ck.ConvMixer(**SMALL, include_top=False, pooling="avg", input_shape=(None, None, 3))
    with_head = keras.Model(image, keras.layers.Dense(5)(body(image)))  # The body's own input stays open.
    assert ck.model_complexity(with_head).multiply_adds == expected
    twice = keras.layers.Conv2D(3, 3, padding="same")
    assert ck.model_complexity(keras.Model(image, twice(twice(image)))).multiply_adds == 2 * 64 * 27 * 3
    unknown = keras.Sequential([keras.Input((4, 3)), keras.layers.LSTM(2)])
    with pytest.raises(TypeError, match="LSTM"):
        ck.model_complexity(unknown)


@pytest.mark.parametrize(
    ("layer", "fan_in"),
    [
        ("stem_conv", 7 * 7 * 3),
        ("block0_depthwise", 9 * 9),
        ("block0_pointwise", 512),
        ("head", 512),
    ],
)
def test_initialisation_is_pytorchs_default(layer, fan_in):
    model = ck.ConvMixer(512, 1, 9, 7, classes=400, input_shape=(14, 14, 3))
    kernel, bias = (weight.numpy() for weight in model.get_layer(layer).weights)
    bound = fan_in**-0.5
    for values in (kernel, bias):
        assert np.abs(values).max() <= bound
        assert np.abs(values).max() > 0.97 * bound
        # A uniform distribution's deviation; the sample's own error is well below its size to the half.
        assert np.std(values) == pytest.approx(bound / np.sqrt(3), abs=2 * bound / np.sqrt(values.size))
        assert np.mean(values) == pytest.approx(0, abs=4 * bound / np.sqrt(values.size))
    assert abs(np.corrcoef(kernel.ravel()[: bias.size], bias)[0, 1]) < 0.3  # drawn apart


def test_any_image_size():
    model = ck.ConvMixer(**SMALL, classes=3, input_shape=(None, None, 3))
    for height, width in ((2, 2), (17, 9), (32, 64)):
        assert model.predict(np.zeros((1, height, width, 3)), verbose=0).shape == (1, 3)


@pytest.mark.parametrize("channels", [1, 4])
def test_channel_counts(channels):
    model = ck.ConvMixer256_8(input_shape=(8, 8, channels))
    assert model(np.zeros((1, 8, 8, channels))).shape == (1, 10)


def test_features():
    feature_map = ck.ConvMixer(**SMALL, include_top=False, input_shape=(9, 7, 3))
    assert feature_map.output_shape == (None, 4, 3, 8)
    images = np.random.default_rng(0).normal(size=(2, 9, 7, 3)).astype(np.float32)
    features = np.asarray(feature_map(images))
    for pooling, reduce in (("avg", np.mean), ("max", np.max)):
        pooled = ck.ConvMixer(**SMALL, include_top=False, pooling=pooling, input_shape=(9, 7, 3))
        pooled.set_weights(feature_map.get_weights())
        np.testing.assert_allclose(np.asarray(pooled(images)), reduce(features, (1, 2)), rtol=1e-5)


def test_input_tensor():
    image = keras.Input((8, 8, 1))
    model = ck.ConvMixer(**SMALL, classes=3, input_tensor=keras.layers.Concatenate()([image] * 3))
    assert model.input_shape == (None, 8, 8, 1)
    assert model(np.zeros((1, 8, 8, 1))).shape == (1, 3)
    ck.ConvMixer(**SMALL, input_tensor=image, input_shape=(8, 8, 1))
    with pytest.raises(ValueError, match=r"input_shape.*\(8, 8, 1\).*\(8, 8, 3\)"):
        ck.ConvMixer(**SMALL, input_tensor=image, input_shape=(8, 8, 3))
    with pytest.raises(TypeError, match=r"input_tensor must be a Keras tensor.*ndarray"):
        ck.ConvMixer(**SMALL, input_tensor=np.zeros((1, 8, 8, 3)))


def test_preprocessing_is_part_of_the_model():
    raw = ck.ConvMixer(
        **SMALL, classes=4, input_shape=(8, 8, 3), input_mean=[10, 20, 30], input_std=[1, 2, 4]
    )
    bare = ck.ConvMixer(**SMALL, classes=4, input_shape=(8, 8, 3))
    bare.set_weights(raw.get_weights())
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.float32)
    normalised = (images - [10, 20, 30]) / [1, 2, 4]
    assert raw.layers[1].name == "input_normalization"
    expected = np.asarray(bare(normalised))
    np.testing.assert_allclose(np.asarray(raw(images)), expected, rtol=1e-4, atol=1e-4)


def test_include_preprocessing_takes_imagenet_pixels():
    model = ck.ConvMixer1024_20(include_preprocessing=True, include_top=False, input_shape=(14, 14, 3))
    layer = model.get_layer("input_normalization")
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])  # timm's, times 255
    pixels = np.array([[[[0, 128, 255]]]], np.float32)
    np.testing.assert_allclose(layer(pixels), (pixels - mean) / std, rtol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_logits_stay_float32(policy):
    keras.config.set_dtype_policy(policy)
    model = ck.ConvMixer(**SMALL, classes=3, input_shape=(8, 8, 3), input_mean=127.5, input_std=50)
    assert model.get_layer("stem_conv").compute_dtype == policy.removeprefix("mixed_")
    images = np.random.default_rng(0).uniform(0, 255, (4, 8, 8, 3)).astype(np.float32)
    logits = np.asarray(model(images))
    assert logits.dtype == np.float32
    keras.config.set_dtype_policy("float32")
    full = ck.ConvMixer(**SMALL, classes=3, input_shape=(8, 8, 3), input_mean=127.5, input_std=50)
    full.set_weights(model.get_weights())
    np.testing.assert_allclose(logits, np.asarray(full(images)), atol=0.05)


def test_classifier_activation():
    model = ck.ConvMixer(**SMALL, classes=3, classifier_activation="softmax", input_shape=(8, 8, 3))
    np.testing.assert_allclose(model.predict(np.ones((2, 8, 8, 3)), verbose=0).sum(1), 1, rtol=1e-5)


def test_weights_transfer_between_class_counts(tmp_path):
    ten = ck.ConvMixer(**SMALL, classes=10, input_shape=(8, 8, 3))
    ten.save_weights(tmp_path / "ten.weights.h5")
    five = ck.ConvMixer(**SMALL, classes=5, input_shape=(8, 8, 3))
    with pytest.raises(ValueError, match="shape"):
        five.load_weights(tmp_path / "ten.weights.h5")
    five.load_weights(tmp_path / "ten.weights.h5", skip_mismatch=True)
    for layer in ten.layers[:-1]:
        for weight, other in zip(layer.weights, five.get_layer(layer.name).weights, strict=True):
            np.testing.assert_array_equal(weight, other)


def test_weights_argument(tmp_path):
    model = ck.ConvMixer256_8(input_shape=(8, 8, 3))
    model.save_weights(tmp_path / "m.weights.h5")
    again = ck.ConvMixer256_8(input_shape=(8, 8, 3), weights=tmp_path / "m.weights.h5")
    for weight, other in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(weight, other)
    with pytest.raises(ValueError, match=r"weights.*nowhere\.weights\.h5"):
        ck.ConvMixer256_8(weights="nowhere.weights.h5")
    for name in ("damaged.weights.h5", "damaged.keras"):
        (tmp_path / name).write_text("no weights")
        with pytest.raises(ValueError, match=f"{name} is .*damaged"):
            ck.ConvMixer256_8(weights=tmp_path / name)


@pytest.mark.parametrize("ending", ["keras", "weights.h5"])
@pytest.mark.parametrize(
    "other", [{"classes": 5}, {"kernel_size": 5}, {"depth": 1}, {"include_top": False}], ids=str
)
def test_weights_that_do_not_fit(other, ending, tmp_path):
    """One line that names both networks."""
    if other.get("include_top", True):
        other = {"classes": 10, **other}
    theirs = ck.ConvMixer(**{**SMALL, **other}, input_shape=(8, 8, 3))
    path = tmp_path / f"m.{ending}"
    (theirs.save if ending == "keras" else theirs.save_weights)(path)
    with pytest.raises(InputError) as error:
        ck.ConvMixer(**SMALL, classes=10, input_shape=(8, 8, 3), weights=path)
    message = str(error.value)
    assert "\n" not in message
    theirs_said, ours_said = message.split("they are ")[1].split("; the model is ")
    assert ours_said == "ConvMixer-8/2, kernel 3, patch 2, 3 channels, 10 classes"
    assert theirs_said == str(parts.of(theirs).sizes) != ours_said


@pytest.mark.parametrize(
    ("builder", "known"),
    [
        (ck.ConvMixer768_32, "None, 'imagenet', 'hf://"),
        (ck.ConvMixer256_8_P2, "None, 'cifar10', 'hf://"),
        (ck.ConvMixer256_8, "None, 'hf://"),
    ],
)
def test_a_misspelt_name_of_weights(builder, known):
    with pytest.raises(InputError, match=f"weights must be {known}.* got 'imagnet': there is no such file"):
        builder(weights="imagnet")


def test_builders_have_signatures_and_docstrings():
    for preset in presets.PRESETS:
        builder = getattr(ck, preset.name)
        assert inspect.signature(builder).parameters["name"].default == preset.name
        text = builder.__doc__
        assert f"{preset.hidden_dim}/{preset.depth}" in text
        assert f"patch {preset.patch_size}" in text
        assert f"kernel {preset.kernel_size}" in text
        assert f"{preset.parameters / 1e6:.1f} M parameters, {preset.multiply_adds / 1e9:.2f} G" in text
        assert f"input_shape: By default {(preset.image_size, preset.image_size, 3)}, or" in text
        assert f"classes: By default {preset.classes}." in text
        assert preset.top1 is None or f" top-1 {preset.top1} %" in text


def test_layer_names_say_where_a_weight_sits():
    model = ck.ConvMixer(**SMALL, input_shape=(8, 8, 3))
    assert [layer.name for layer in model.layers[1:]] == [
        "stem_conv",
        "stem_bn",
        *itertools.chain.from_iterable(
            [
                f"block{i}_depthwise",
                f"block{i}_depthwise_bn",
                f"block{i}_add",
                f"block{i}_pointwise",
                f"block{i}_pointwise_bn",
            ]
            for i in range(2)
        ),
        "pool",
        "head",
    ]
    bn = model.get_layer("block1_depthwise_bn")
    assert (bn.epsilon, bn.momentum) == (1e-5, 0.9)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"kernel_size": -3}, ValueError, "kernel_size must be a positive integer, got -3"),
        ({"depth": 0}, ValueError, "depth must be a positive integer, got 0"),
        ({"hidden_dim": 2.5}, TypeError, "hidden_dim must be a positive integer, got 2.5"),
        ({"patch_size": True}, TypeError, "patch_size must be a positive integer, got True"),
        ({"activation": "gleu"}, ValueError, "activation .*'gelu'.* got 'gleu'"),
        ({"activation": None}, TypeError, "activation .* got None"),
        (
            {"normalization": "group"},
            ValueError,
            "normalization must be one of .*, got 'group'",
        ),
        ({"pooling": "sum"}, ValueError, "pooling must be one of None, 'avg', 'max', got 'sum'"),
        ({"classes": 0}, ValueError, "classes must be a positive integer, got 0"),
        ({"include_top": False, "classes": 3}, ValueError, "classes .*include_top=True.* classes=3"),
        (
            {"include_top": False, "classifier_activation": "softmax"},
            ValueError,
            "classifier_activation .*'softmax'",
        ),
        ({"classifier_activation": "sofmax"}, ValueError, "classifier_activation .* got 'sofmax'"),
        ({"include_top": 1}, TypeError, "include_top must be True or False, got 1"),
        ({"input_shape": (1, 8, 3)}, ValueError, r"input_shape .*patch_size=2.* got \(1, 8, 3\)"),
        ({"input_shape": (8, 8)}, ValueError, r"input_shape must be \(height, width, channels\).* \(8, 8\)"),
        ({"input_shape": (8, 8, None)}, ValueError, "input_shape .*channels"),
        ({"input_shape": (8, -8, 3)}, ValueError, "input_shape .*-8"),
        ({"input_mean": 3}, ValueError, "input_mean and input_std .* input_mean=3 and input_std=None"),
        ({"input_mean": [1, 2], "input_std": 1}, ValueError, r"input_mean .* 3 of them.* \[1, 2\]"),
        ({"input_mean": 0, "input_std": [1, 0, 1]}, ValueError, "input_std must be positive"),
        ({"kernal_size": 3}, TypeError, r"ConvMixer\(\) .*'kernal_size'"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        ck.ConvMixer(**{**SMALL, **arguments})


def test_named_builders_name_themselves_in_errors():
    with pytest.raises(TypeError, match=r"ConvMixer768_32\(\) .*'hiden_dim'"):
        ck.ConvMixer768_32(hiden_dim=3)
