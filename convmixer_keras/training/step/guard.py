"""Watches the loss inside the training step, on the device, and keeps the last weights that gave one."""

from typing import NamedTuple

import tensorflow as tf


class NonFinite(NamedTuple):
    """The first step of a series whose loss was infinite or not a number."""

    step: int
    loss: float


class Guard:
    """Keeps a copy of a model's variables as they were in the last step whose loss was finite.

    Nothing of it waits for the device: the step copies the variables, or stops copying once `limit` losses
    in a row were not finite, and the host asks for `failure` whenever it looks at the loss anyway.

    A copy, and not just a skipped update: the update that breaks a network comes one step before the loss
    that shows it.

    Args:
        variables: List of `tf.Variable`: what `restore` brings back. Make the guard in the strategy's scope.
        limit: Number of losses in a row after which training has failed. Over 1 for float16, whose loss
            scaling skips an overflow and tries again with a smaller scale.
    """

    def __init__(self, variables, limit=1):
        self._variables = variables
        self._limit = limit
        self._copies = [_of_replica(variable) for variable in variables]
        self._steps = _of_replica(0, tf.int64)
        self._in_a_row = _of_replica(0, tf.int64)
        self._first = _of_replica(0, tf.int64)
        self._loss = _of_replica(0, tf.float32)

    def watch(self, loss):
        """Records a step. Call it in the training step before weights and statistics are updated.

        Args:
            loss: The loss of all replicas together, a scalar tensor.
        """
        # Without a branch: its condition would have to travel from the device to the host.
        in_a_row = tf.identity(self._in_a_row)
        good = tf.math.is_finite(loss) & (in_a_row < self._limit)
        starts = ~good & (in_a_row == 0)
        for copy, variable in zip(self._copies, self._variables, strict=True):
            copy.assign(tf.where(good, tf.identity(variable), tf.identity(copy)))
        self._steps.assign_add(1)
        self._first.assign(tf.where(starts, tf.identity(self._steps), tf.identity(self._first)))
        self._loss.assign(tf.where(starts, tf.cast(loss, tf.float32), tf.identity(self._loss)))
        self._in_a_row.assign(tf.where(good, tf.zeros_like(in_a_row), in_a_row + 1))

    def failure(self):
        """Returns a `NonFinite` whose step counts from 1 since this guard was made, or None."""
        if int(self._in_a_row.read_value()) < self._limit:
            return None
        return NonFinite(int(self._first.read_value()), float(self._loss.read_value()))

    def restore(self):
        """Gives the variables the values with which the loss was last finite."""
        for variable, copy in zip(self._variables, self._copies, strict=True):
            variable.assign(copy.read_value())


def _of_replica(value, dtype=None):
    """A variable that each replica assigns for itself; all assign the same."""
    return tf.Variable(
        value,
        dtype=dtype,
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )
