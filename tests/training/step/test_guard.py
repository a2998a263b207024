"""The guard against a plain loop that remembers every step."""

import math

import numpy as np
import pytest
import tensorflow as tf

from convmixer_keras.training.step.guard import Guard

NAN, INF = math.nan, math.inf


def run(losses, limit=1):
    """Takes a step for each loss, which sets a weight and a statistic to the step's number.

    Returns:
        The guard, its variables, and for each step their values at its beginning.
    """
    weight, statistic = tf.Variable([0.0, 0.0]), tf.Variable([0.0], trainable=False)
    guard = Guard([weight, statistic], limit)

    @tf.function
    def step(loss, number):
        guard.watch(loss)
        statistic.assign([number])
        weight.assign([number, number])

    began = []
    for number, loss in enumerate(losses, 1):
        began.append((weight.numpy(), statistic.numpy()))
        step(tf.constant(loss), tf.constant(float(number)))
    return guard, (weight, statistic), began


@pytest.mark.parametrize(
    ("losses", "limit", "step"),
    [
        ([1.0, 2.0, 3.0], 1, None),
        ([1.0, NAN], 1, 2),
        ([1.0, 2.0, INF, NAN, NAN], 1, 3),
        ([1.0, 2.0, -INF, 4.0, 5.0], 1, 3),  # What comes after a failure does not count.
        ([1.0, INF, INF, 4.0, INF], 3, None),  # Skipped steps of loss scaling.
        ([1.0, INF, 3.0, INF, INF, INF, 7.0], 3, 4),
        ([NAN], 1, 1),
    ],
)
def test_keeps_the_weights_of_the_last_finite_loss(losses, limit, step):
    guard, variables, began = run(losses, limit)
    failure = guard.failure()
    if step is None:
        assert failure is None
        return
    assert failure.step == step
    np.testing.assert_equal(failure.loss, losses[step - 1])
    finite = [i for i in range(step - 1) if math.isfinite(losses[i])]
    guard.restore()
    for variable, expected in zip(variables, began[finite[-1] if finite else 0], strict=True):
        np.testing.assert_array_equal(variable, expected)
