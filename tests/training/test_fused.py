import keras
import numpy as np
import pytest
import torch

import convmixer_keras as ck
from convmixer_keras.training.fused import FusedBatchNormalization, fused_twin


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


def test_gradients_equal_kerass(images):
    import tensorflow as tf

    model = small_model()
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
