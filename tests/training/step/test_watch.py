"""The watch of the losses against a plain loop that remembers every step."""

import math

import pytest
import tensorflow as tf

from convmixer_keras.training.step.watch import LossWatch

NAN, INF = math.nan, math.inf


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
def test_notes_the_first_step_that_failed(losses, limit, step):
    watch = LossWatch(limit)
    note = tf.function(watch.note)
    for number, loss in enumerate(losses, 1):
        note(tf.constant(loss), tf.constant(0.5 * number))
    assert watch.has_failed() == (step is not None)
    if step is not None:
        number, loss, rate = watch.step()
        assert (number, rate) == (step, 0.5 * step)
        assert str(loss) == str(losses[step - 1])
