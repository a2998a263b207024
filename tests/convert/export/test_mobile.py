"""The rewrite gives what the model gives, and cuts kernels as it says."""

import keras
import numpy as np
import pytest
from small_models import SHAPE, build

from convmixer_keras.convert.export.depthwise import pieces
from convmixer_keras.convert.export.mobile import mobile
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.utils.errors import InputError


def image(shape=SHAPE, seed=1, pixels=False):
    random = np.random.default_rng(seed)
    if pixels:
        return random.integers(0, 256, (1, *shape)).astype(np.float32)
    return random.normal(size=(1, *shape)).astype(np.float32)


def assert_same(model, rewritten, x):
    expected = keras.ops.convert_to_numpy(model(x, training=False)).astype(np.float64)
    got = keras.ops.convert_to_numpy(rewritten(x, training=False))
    assert got.shape == expected.shape
    assert got.dtype == np.float32
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("integer", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"normalization": "layer"},
        {"residual": False},
        {"residual": False, "normalization": "layer"},
        {"activation": "relu"},
        {"activation": "silu"},
        {"activation": "linear"},
        {"activation": "tanh"},
        {"activation": "selu"},
        {"input_mean": [120.0, 110.0, 100.0], "input_std": [60.0, 50.0, 0.5]},
        {"include_top": False},
        {"include_top": False, "pooling": "avg"},
        {"include_top": False, "pooling": "max"},
        {"pooling": "max"},
        {"classifier_activation": "softmax"},
        {"classes": 1, "classifier_activation": "sigmoid"},
        {"hidden_dim": 10},
        {"hidden_dim": 450, "depth": 1, "kernel_size": 7},
        {"hidden_dim": 450, "depth": 1, "normalization": "layer"},
        {"input_shape": (13, 15, 1)},
        {"input_shape": (6, 3, 2), "kernel_size": 15},
    ],
    ids=str,
)
def test_same_outputs(arguments, integer):
    model = build(**arguments)
    rewritten = mobile(model, integer=integer)
    shape = model.input_shape[1:]
    assert rewritten.input_shape == (1, *shape)
    assert_same(model, rewritten, image(shape, pixels="input_mean" in arguments))


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 5, 7, 8, 9, 12, 15, 23])
def test_same_outputs_for_every_kernel(kernel_size):
    model = build(kernel_size=kernel_size, depth=1)
    for integer in (False, True):
        assert_same(model, mobile(model, integer=integer), image())


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("residual", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("scale", [0.0, -1.0, 1e-6, -1e-6, 1e-30])
def test_any_scale_of_a_normalisation(scale, residual, activation):
    model = build(activation=activation, residual=residual)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            gamma, beta, mean, variance = layer.get_weights()
            gamma[::3] = scale
            gamma[1::3] = np.abs(gamma[1::3])
            layer.set_weights([gamma, beta, mean, variance])
    rewritten = mobile(model)
    assert all(np.isfinite(w).all() for w in rewritten.get_weights())
    assert_same(model, rewritten, image())


def test_all_scales_zero():
    model = build(activation="relu")
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            gamma, *rest = layer.get_weights()
            layer.set_weights([np.zeros_like(gamma), *rest])
    assert_same(model, mobile(model), image())


def test_depthwise_by_hand():
    """One block on a known image, summed in NumPy over every tap."""
    model = build(hidden_dim=4, depth=1, kernel_size=7, patch_size=1, activation="linear", residual=False)
    rewritten = mobile(model)
    x = image()[0].astype(np.float64)

    def normalized(x, name):
        gamma, beta, mean, variance = model.get_layer(name).get_weights()
        return (x - mean) / np.sqrt(variance.astype(np.float64) + 1e-5) * gamma + beta

    kernel, bias = model.get_layer("stem_conv").get_weights()
    x = normalized(x @ kernel[0, 0] + bias, "stem_bn")
    kernel, bias = model.get_layer("block0_depthwise").get_weights()
    padded = np.pad(x, ((3, 3), (3, 3), (0, 0)))
    y = sum(
        padded[i : i + SHAPE[0], j : j + SHAPE[1]] * kernel[i, j, :, 0] for i in range(7) for j in range(7)
    )
    x = normalized(y + bias, "block0_depthwise_bn")
    kernel, bias = model.get_layer("block0_pointwise").get_weights()
    x = normalized(x @ kernel[0, 0] + bias, "block0_pointwise_bn")
    kernel, bias = model.get_layer("head").get_weights()
    expected = x.mean((0, 1)) @ kernel + bias
    got = rewritten(image()).numpy()[0]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("side", [1, 2, 3, 5, 7, 8, 9, 11, 12, 13, 15])
def test_pieces_cover_each_tap_once(side, integer):
    counted = np.zeros((side, side), int)
    for rows, columns in pieces(side, side, integer):
        assert len(rows) * len(columns) <= 25
        counted[rows.start : rows.stop, columns.start : columns.stop] += 1
    assert (counted == 1).all()


def test_small_kernels_stay_whole():
    assert [len(pieces(side, side)) for side in (1, 3, 5)] == [1, 1, 1]
    assert len(pieces(9, 9)) == 4


@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize(
    "arguments",
    [{"hidden_dim": 300, "input_mean": 120.0, "input_std": 50.0}, {"kernel_size": 8, "depth": 1}],
    ids=str,
)
def test_whole_kernels(arguments, integer):
    model = build(**arguments)
    rewritten = mobile(model, integer=integer, whole_kernels=True)
    assert_same(model, rewritten, image(pixels="input_mean" in arguments))
    sizes = [
        layer.kernel_size for layer in rewritten.layers if isinstance(layer, keras.layers.DepthwiseConv2D)
    ]
    kernel_size = arguments.get("kernel_size", 9)
    assert sizes.count((kernel_size, kernel_size)) == len(
        [n for n in model.layers if n.name.endswith("_depthwise")]
    )
    assert set(sizes) <= {(kernel_size, kernel_size), (1, 1)}


def test_no_kernel_has_more_than_25_taps_or_208_channels():
    rewritten = mobile(build(hidden_dim=512, depth=1))
    found = [layer for layer in rewritten.layers if isinstance(layer, keras.layers.DepthwiseConv2D)]
    assert found
    for layer in found:
        height, width, channels, _ = layer.kernel.shape
        assert height * width <= 25
        assert channels <= 208
        assert channels % 16 == 0


def test_no_normalisation_is_left():
    kinds = {type(layer).__name__ for layer in mobile(build(input_mean=100.0, input_std=50.0)).layers}
    assert not kinds & {"BatchNormalization", "Normalization"}


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_becomes_float32(policy):
    exact = build(input_mean=100.0, input_std=50.0)
    keras.config.set_dtype_policy(policy)
    model = build(input_mean=100.0, input_std=50.0)
    model.set_weights(exact.get_weights())
    # Under the same global policy, as after a training run.
    rewritten = mobile(model)
    keras.config.set_dtype_policy("float32")
    assert_same(exact, rewritten, image(pixels=True))


def test_normalisation_can_be_added():
    mean, std = (0.45, 0.4, 0.35), (0.25, 0.2, 0.15)
    model, record = build(), Preprocessing(SHAPE[:2], mean=mean, std=std)
    x = image(pixels=True)
    expected = model((x / 255 - np.float32(mean)) / np.float32(std)).numpy()
    got = mobile(model, preprocessing=record)(x).numpy()
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()


def test_saved_and_loaded(tmp_path):
    rewritten = mobile(build(hidden_dim=450, depth=1))
    rewritten.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded(image()), rewritten(image()))


def test_free_size():
    model = build(input_shape=(None, None, 3))
    with pytest.raises(InputError, match="leaves the size of its images open"):
        mobile(model)
    assert_same(model, mobile(model, preprocessing=Preprocessing((13, 15))), image())


def test_layers_in_front_are_kept():
    pixels = keras.Input(SHAPE)
    model = build(input_tensor=keras.layers.Rescaling(1 / 255)(pixels), input_shape=None)
    assert_same(model, mobile(model), image(pixels=True))


def test_what_is_no_convmixer():
    dense = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(InputError, match="is not a ConvMixer: layer "):
        mobile(dense)
    with pytest.raises(InputError, match=r"must be a keras\.Model, got str"):
        mobile("model.keras")
    with pytest.raises(InputError, match="leave out mean and std"):
        mobile(
            build(input_mean=1.0, input_std=2.0), preprocessing=Preprocessing(SHAPE[:2], mean=0.5, std=0.2)
        )
