"""Steps in several passes, and with less memory: the same gradients and statistics."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from convmixer_keras.recipes import DIGITS
from convmixer_keras.training.step.fused import fused_twin
from convmixer_keras.training.step.network import build_model
from convmixer_keras.training.step.optimizer import build_optimizer
from convmixer_keras.training.step.training_model import TrainingModel, compile_model

RECIPE = dataclasses.replace(DIGITS, hidden_dim=6, depth=2, clip_norm=0.05, weight_decay=0.0)


def training_model(model):
    twin = TrainingModel(model)
    compile_model(twin, build_optimizer(RECIPE, twin, 100, gradients_are_summed=True), 10)
    twin.optimizer.build(twin.trainable_variables)
    return twin


@pytest.fixture
def model():
    return build_model(RECIPE, 1, 10)


@pytest.fixture
def batch():
    random = np.random.default_rng(0)
    images = random.uniform(0, 255, (12, 8, 8, 1)).astype(np.float32)
    return images, np.eye(10, dtype=np.float32)[random.integers(0, 10, 12)]


def captured_gradients(twin, batch):
    """What the optimizer gets in a step."""
    found = []
    twin.optimizer.apply = lambda gradients, _: found.extend(gradients)
    twin.train_step(tuple(map(tf.constant, batch)))
    return found


def by_hand(model, parts, weights):
    """Gradient of the weighted mean loss, each part with its own BatchNorm statistics, by plain Keras."""
    variables = [v.value for v in model.trainable_variables]
    with tf.GradientTape() as tape:
        losses = [
            -tf.reduce_sum(labels * tf.nn.log_softmax(model(images, training=True)), 1)
            for images, labels in parts
        ]
        loss = tf.reduce_sum(tf.concat(losses, 0) * weights) / tf.reduce_sum(weights)
    return tape.gradient(loss, variables)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("passes", [1, 2, 3])
def test_gradients_of_passes_are_those_of_the_mean_loss(model, batch, passes, weighted):
    weights = np.linspace(0.1, 2, 12).astype(np.float32) if weighted else np.ones(12, np.float32)
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    parts = list(zip(*(np.split(array, passes) for array in batch), strict=True))
    expected = by_hand(copy, parts, weights)
    twin = training_model(model)
    twin.passes = passes
    found = captured_gradients(twin, (*batch, weights) if weighted else batch)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


def test_running_statistics_move_once_by_the_mean_of_the_passes(model, batch):
    twin = training_model(model)
    start = model.get_layer("stem_bn").get_weights()
    moved = []
    for half in np.split(batch[0], 2):
        model.get_layer("stem_bn").set_weights(start)
        fused_twin(model)(half, training=True)
        moved.append(model.get_layer("stem_bn").get_weights()[2:])
    model.get_layer("stem_bn").set_weights(start)
    twin.passes = 2
    captured_gradients(twin, batch)
    found = model.get_layer("stem_bn").get_weights()[2:]
    for ours, one, two in zip(found, *moved, strict=True):
        np.testing.assert_allclose(ours, (one + two) / 2, rtol=1e-5)


@pytest.mark.parametrize("passes", [1, 2])
def test_rematerialized_blocks_have_the_same_gradients(model, batch, passes):
    plain, again = training_model(model), training_model(model)
    plain.passes = again.passes = passes
    paths = [weight.path for weight in again.weights]
    again.rematerialize()
    assert len(again.chain) == 3  # The stem with the first block, the second block, the head.
    assert [weight.path for weight in again.weights] == paths
    start = model.get_weights()
    expected = captured_gradients(plain, batch)
    statistics = model.get_weights()
    model.set_weights(start)
    for ours, theirs in zip(captured_gradients(again, batch), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(model.get_weights(), statistics, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
