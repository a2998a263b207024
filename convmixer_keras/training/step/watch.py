"""What the host asks of the steps that are done: was a loss no number, has a process been asked to end?

Nothing of it waits for the device: the step writes it down, and the host reads it when it looks. Make both in
the strategy's scope.
"""

from typing import NamedTuple

import tensorflow as tf


class Step(NamedTuple):
    """A step, counted from 1 since its `LossWatch` was made, the loss of all replicas, the learning rate."""

    number: int
    loss: float
    learning_rate: float


class LossWatch:
    """Remembers the first step of those whose loss was infinite or not a number.

    Training has failed after `limit` such losses in a row: over 1 for float16, whose loss scaling skips an
    overflow and tries again with a smaller scale.
    """

    def __init__(self, limit=1):
        self._limit = limit
        self._steps = _of_replica(0, tf.int64)
        self._in_a_row = _of_replica(0, tf.int64)
        self._noted = [_of_replica(0, tf.int64), _of_replica(0, tf.float32), _of_replica(0, tf.float32)]

    def note(self, loss, learning_rate):
        """Notes a step, within it; both are scalar tensors."""
        # Without a branch: its condition would have to travel from the device to the host.
        in_a_row = tf.identity(self._in_a_row)
        good = tf.math.is_finite(loss) & (in_a_row < self._limit)
        self._steps.assign_add(1)
        for variable, value in zip(self._noted, (self._steps, loss, learning_rate), strict=True):
            new = tf.cast(tf.convert_to_tensor(value), variable.dtype)
            variable.assign(tf.where(good | (in_a_row == 0), new, tf.identity(variable)))
        self._in_a_row.assign(tf.where(good, tf.zeros_like(in_a_row), in_a_row + 1))

    def has_failed(self):
        return int(self._in_a_row.read_value()) >= self._limit

    def step(self):
        """Returns the `Step` at which training failed, or the last one whose loss was a number."""
        return Step(*(variable.read_value().numpy().item() for variable in self._noted))


class SharedEnd:
    """Lets all processes of a run end after the same step, whichever of them was asked to.

    The note travels with the gradients: each step tells every process whether any of them was asked to end.
    """

    def __init__(self):
        self._own = _of_replica(0, tf.float32)
        self._of_any = _of_replica(0, tf.float32)

    def ask(self):
        self._own.assign(1.0)

    @property
    def note(self):
        return tf.convert_to_tensor(self._own)

    def take(self, total):
        """Takes the sum of all replicas' notes, within a step."""
        self._of_any.assign(total)

    def is_asked(self):
        """Whether any process was asked to end before the last step; the same in all of them."""
        return float(self._of_any.read_value()) > 0


def _of_replica(value, dtype):
    """A variable that each replica assigns for itself; all assign the same."""
    return tf.Variable(
        value,
        dtype=dtype,
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )
