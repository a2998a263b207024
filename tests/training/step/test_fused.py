import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

import convmixer_keras as ck
from convmixer_keras.training.step import cpu_ops
from convmixer_keras.training.step.fused import (
    FusedBatchNormalization,
    FusedConvolution,
    fused_twin,
)


def small_model(**options):
    return ck.ConvMixer(
        16, 2, 3, 2, classes=5, input_shape=(8, 8, 3), input_mean=127, input_std=60, **options
    )


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(0, 255, (16, 8, 8, 3)).astype(np.float32)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_twin_computes_what_the_model_does(policy, images):
    keras.config.set_dtype_policy(policy)
    model = small_model()
    twin = fused_twin(model)
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    atol = 1e-5 if policy == "float32" else 0.05
    np.testing.assert_allclose(twin(images, training=True), copy(images, training=True), atol=atol)
    np.testing.assert_allclose(twin(images), model(images), atol=atol)


def test_twin_shares_every_weight():
    model = small_model()
    twin = fused_twin(model)
    assert [id(v) for v in twin.trainable_variables] == [id(v) for v in model.trainable_variables]
    assert len(twin.non_trainable_variables) == len(model.non_trainable_variables)
    assert not any(isinstance(layer, FusedBatchNormalization) for layer in model.layers)
    assert sum(isinstance(layer, FusedBatchNormalization) for layer in twin.layers) == 5
    assert sum(isinstance(layer, FusedConvolution) for layer in twin.layers) == 5


def test_running_statistics_equal_pytorch():
    layer = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
    layer.build((None, None, None, 6))
    fused = FusedBatchNormalization(layer)
    reference = torch.nn.BatchNorm2d(6, momentum=0.1)
    for seed in range(3):
        x = np.random.default_rng(seed).normal(2, 3, (4, 5, 3, 6)).astype(np.float32)
        ours = fused(x, training=True)
        theirs = reference(torch.tensor(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).detach()
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    np.testing.assert_allclose(layer.moving_mean, reference.running_mean, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, reference.running_var, rtol=1e-5)


def test_running_statistics_stay_finite():
    layer = keras.layers.BatchNormalization(momentum=0.9)
    layer.build((None, 4, 4, 3))
    before = [variable.numpy() for variable in (layer.moving_mean, layer.moving_variance)]
    mean, variance = np.float32([1, 2, np.nan]), np.float32([1, np.inf, 1])
    FusedBatchNormalization(layer).update(tf.constant(mean), tf.constant(variance))
    for running, old, value in zip(
        (layer.moving_mean, layer.moving_variance), before, (mean, variance), strict=True
    ):
        expected = [0.9 * old[0] + 0.1 * value[0], old[1], old[2]]
        np.testing.assert_allclose(running, expected, rtol=1e-6)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_gradients_equal_kerass(images, activation):
    model = small_model(activation=activation)
    gradients = []
    for network in (model, fused_twin(model)):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(network(images, training=True) ** 2)
        gradients.append(tape.gradient(loss, [v.value for v in model.trainable_variables]))
    for ours, theirs in zip(*gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


def test_frozen_layers_keep_their_statistics(images):
    model = small_model()
    twin = fused_twin(model)
    model.trainable = False
    before = model.get_weights()
    twin(images, training=True)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_layer_normalization_is_left_alone(images):
    model = small_model(normalization="layer")
    np.testing.assert_allclose(fused_twin(model)(images, training=True), model(images), atol=1e-6)


@pytest.mark.parametrize(
    ("batch", "height", "width", "channels", "kernel"),
    [(6, 8, 8, 16, 5), (3, 5, 7, 3, 3), (2, 4, 4, 5, 7), (5, 6, 6, 8, (4, 2)), (3, 3, 2, 4, 1)],
)
@pytest.mark.parametrize("chunk_bytes", [1, 1000, 2**20])
def test_depthwise_gradients_equal_pytorch(monkeypatch, batch, height, width, channels, kernel, chunk_bytes):
    monkeypatch.setattr(cpu_ops, "_CHUNK_BYTES", chunk_bytes)
    generator = np.random.default_rng(0)
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    x, dy = generator.normal(size=(2, batch, height, width, channels)).astype(np.float32)
    k = generator.normal(size=(*kernel, channels, 1)).astype(np.float32)

    @tf.function(input_signature=[tf.TensorSpec((None, height, width, channels))] * 2)
    def ours(x, dy):
        with tf.GradientTape() as tape:
            tape.watch([x, weights])
            y = cpu_ops.depthwise_conv(x, weights)
        return y, *tape.gradient(y, [x, weights], dy)

    weights = tf.constant(k)
    theirs = torch.tensor(x, requires_grad=True), torch.tensor(k, requires_grad=True)
    y = torch.nn.functional.conv2d(
        theirs[0].permute(0, 3, 1, 2), theirs[1].permute(2, 3, 0, 1), padding="same", groups=channels
    ).permute(0, 2, 3, 1)
    y.backward(torch.tensor(dy))
    for found, expected in zip(ours(x, dy), (y.detach(), *(t.grad for t in theirs)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_rounds_and_no_more():
    """Results are those of float32 on the same rounded numbers, to the 8 bits of a bfloat16."""
    generator = np.random.default_rng(0)
    x, dy = (tf.cast(generator.normal(size=(300, 6, 5, 4)), tf.bfloat16) for _ in range(2))
    kernel, bias = (tf.cast(generator.normal(size=size), tf.bfloat16) for size in ((3, 3, 4, 1), (4,)))

    def with_gradients(dtype):
        arguments = [tf.cast(tensor, dtype) for tensor in (x, kernel, bias)]
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(arguments)
            outputs = [cpu_ops.depthwise_conv(*arguments[:2]), cpu_ops.bias_gelu(arguments[0], arguments[2])]
        gradients = tape.gradient(outputs, arguments, [tf.cast(dy, dtype)] * 2)
        assert all(tensor.dtype == dtype for tensor in outputs + gradients)
        return [tf.cast(tensor, tf.float32).numpy() for tensor in outputs + gradients]

    for found, expected in zip(with_gradients(tf.bfloat16), with_gradients(tf.float32), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-2, atol=1e-2 * np.abs(expected).max())


def test_gelu_equals_pytorchs():
    generator = np.random.default_rng(0)
    x, dy = generator.normal(0, 3, (2, 4, 3, 5, 6)).astype(np.float32)
    x[0, 0, 0] = 30, -30, 0, 5, -5, -1e-6
    bias = generator.normal(size=6).astype(np.float32)
    ours = tf.constant(x), tf.constant(bias)
    with tf.GradientTape() as tape:
        tape.watch(ours)
        y = cpu_ops.bias_gelu(*ours)
    theirs = torch.tensor(x, requires_grad=True), torch.tensor(bias, requires_grad=True)
    expected = torch.nn.functional.gelu(theirs[0] + theirs[1])
    expected.backward(torch.tensor(dy))
    np.testing.assert_allclose(y, expected.detach(), rtol=1e-5, atol=5e-6)
    for found, tensor in zip(tape.gradient(y, ours, tf.constant(dy)), theirs, strict=True):
        np.testing.assert_allclose(found, tensor.grad, rtol=1e-4, atol=1e-5)


def test_other_batch_normalizations_are_left_alone(images):
    """Without scale or centre, of another axis, or of vectors: the layer itself computes them."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization(scale=False)(inputs)
    x = keras.layers.BatchNormalization(center=False)(x)
    x = keras.layers.BatchNormalization(axis=1)(x)
    x = keras.layers.BatchNormalization()(keras.layers.Flatten()(x))
    model = keras.Model(inputs, x)
    twin = fused_twin(model)
    assert not any(isinstance(layer, FusedBatchNormalization) for layer in twin.layers)
    np.testing.assert_allclose(twin(images, training=True), model(images, training=True), atol=1e-6)


def test_other_convolutions_are_left_alone(images):
    """A stride, a dilation, no bias or another padding: the layer itself computes them."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.DepthwiseConv2D(3, strides=2, activation="gelu")(inputs)
    x = keras.layers.DepthwiseConv2D(3, dilation_rate=2, padding="same", activation="gelu")(x)
    x = keras.layers.Conv2D(4, 1, use_bias=False, activation="gelu")(x)
    x = keras.layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, activation="gelu")(x)
    model = keras.Model(inputs, keras.layers.Conv2D(4, 1)(x))
    twin = fused_twin(model)
    assert not any(isinstance(layer, FusedConvolution) for layer in twin.layers)
    np.testing.assert_array_equal(twin(images), model(images))


def test_twin_trains_in_graph_mode_as_the_model(images):
    """The compiled step of `fit`, and a last batch of another size."""
    model = small_model()
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    labels = np.arange(16) % 5
    for network in (fused_twin(model), copy):
        network.compile(
            keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        )
        network.fit(images, labels, batch_size=6, epochs=2, shuffle=False, verbose=0)
    for ours, theirs in zip(model.trainable_variables, copy.trainable_variables, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-4)
