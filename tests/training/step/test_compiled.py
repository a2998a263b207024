"""The step that a GPU runs: Keras compiles it whole by XLA there, without the operations for CPUs."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from convmixer_keras.recipes import DIGITS
from convmixer_keras.training.run.settings import Settings
from convmixer_keras.training.step import fused, training_model
from convmixer_keras.training.step.network import build_model

RECIPE = dataclasses.replace(DIGITS, hidden_dim=6, depth=2, batch_size=12, learning_rate=0.05, clip_norm=0.05)

FLOAT16 = {"dtype_policy": "mixed_float16"}


def three_steps(recipe, settings, batches, compiled):
    """Returns the twin after three steps, and the loss of each."""
    keras.utils.set_random_seed(0)
    model = build_model(recipe, 1, 10)
    twin, _ = training_model.training_twin(model, recipe, settings, steps=3)
    if compiled:
        assert not any(isinstance(layer, fused.FusedConvolution) for layer in twin.layers)
        twin.jit_compile = True
    twin.make_train_function()
    losses = []
    for batch in batches:
        twin.reset_metrics()
        losses.append(float(twin.train_function(iter([batch]))["loss"]))
    return twin, losses


@pytest.mark.parametrize(
    ("changes", "settings", "weighted", "poisoned"),
    [
        ({"accumulate": 2}, {}, False, True),
        pytest.param({}, {}, False, False, marks=pytest.mark.slow),
        pytest.param(
            {"accumulate": 2, "ema_momentum": 0.5},
            {"rematerialize": True},
            True,
            False,
            marks=pytest.mark.slow,
        ),
        pytest.param(FLOAT16 | {"ema_momentum": 0.5}, {}, False, False, marks=pytest.mark.slow),
        pytest.param(
            FLOAT16 | {"accumulate": 3}, {"rematerialize": True}, True, False, marks=pytest.mark.slow
        ),
    ],
)
def test_the_compiled_step_is_the_plain_one(monkeypatch, changes, settings, weighted, poisoned):
    recipe = dataclasses.replace(RECIPE, **changes)
    draw = np.random.default_rng(0)
    batches = []
    for step in range(3):
        images = draw.uniform(0, 255, (12, 8, 8, 1)).astype(np.float32)
        images[0, 0, 0, 0] = np.nan if poisoned and step == 1 else 0
        labels = np.eye(10, dtype=np.float32)[draw.integers(0, 10, 12)]
        weights = draw.uniform(0.5, 2, 12).astype(np.float32)
        batch = (images, labels, weights) if weighted else (images, labels)
        batches.append(tuple(map(tf.constant, batch)))
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(recipe.dtype_policy)
    try:
        plain, losses = three_steps(recipe, Settings(**settings), batches, compiled=False)
        monkeypatch.setattr(fused, "faster_on_cpu", lambda layer: False)
        compiled, found = three_steps(recipe, Settings(**settings), batches, compiled=True)
    finally:
        keras.config.set_dtype_policy(before)
    np.testing.assert_allclose(found, losses, rtol=1e-3)
    assert compiled.watch.has_failed() == plain.watch.has_failed() == poisoned
    assert compiled.watch.step()[::2] == pytest.approx(plain.watch.step()[::2])
    assert plain.watch.step().number == (2 if poisoned else 3)
    assert np.isfinite(losses).all() != poisoned
    # In float16 the sums behind small gradients cancel: some differ by up to 14 %. A lost scale is more.
    tolerance = 0.2 if recipe.dtype_policy == "mixed_float16" else 1e-3
    for ours, theirs in zip(variables(compiled), variables(plain), strict=True):
        scale = np.nanmax(np.abs(theirs), initial=1e-6)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * scale)


def variables(twin):
    """Weights, statistics and the optimizer's state, sorted by name: the twins differ in their layers."""
    everything = {v.path: v for v in (*twin.variables, *twin.optimizer.variables) if v.dtype == "float32"}
    return [keras.ops.convert_to_numpy(everything[path]) for path in sorted(everything)]
