"""One training step: forward, backward, the sum over replicas, the guard, the update."""

import keras
import tensorflow as tf


class TrainingModel(keras.Model):
    """A functional model whose steps are those of this package, on one device and on many replicas.

    - Gradients are summed before the optimizer sees them, so that clipping acts on the whole batch's, and
      loss scaling finds an overflow in any replica (`optimizer.AdamW` with `gradients_are_summed`).
    - `guard` sees each loss before the weights are updated.
    - A replica without images, as the last batch may leave one, has no loss of 0 / 0.
    - The weights of images count in every metric.
    - Under `MultiWorkerMirroredStrategy`, Keras' `fit` fails (keras-team/keras issue 20585): it reduces the
      first batch outside of a replica, and metrics along an axis that they do not have. So the model is built
      from its shapes, and metrics get that axis. `tests/training/test_distribution.py` says when this is no
      longer needed.

    Compile it with `losses.CategoricalCrossentropy(reduction="mean_with_sample_weight")` and
    `weighted_metrics`.

    Attributes:
        guard: A `Guard`, or None.
    """

    guard = None

    def train_step(self, data):
        images, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
        before = self.guard.before_step() if self.guard else None
        with tf.GradientTape() as tape:
            logits = self(images, training=True)
            loss = self.compute_loss(images, labels, logits, weights)
            scaled_loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled_loss, self.trainable_weights)
        # Keras has divided the loss by the number of replicas, so that the sum is the mean.
        total_loss = loss
        if _replicas() > 1:
            context = tf.distribute.get_replica_context()
            *gradients, total_loss = context.all_reduce(tf.distribute.ReduceOp.SUM, [*gradients, loss])
        if self.guard:
            self.guard.watch(total_loss, before)
        self.optimizer.apply(gradients, self.trainable_weights)
        return self._update_metrics(images, labels, logits, weights, loss)

    def test_step(self, data):
        images, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
        logits = self(images, training=False)
        loss = self.compute_loss(images, labels, logits, weights, training=False)
        return self._update_metrics(images, labels, logits, weights, loss)

    def _update_metrics(self, images, labels, logits, weights, loss):
        if weights is None:
            weights = tf.ones(tf.shape(images)[:1])
        self._loss_tracker.update_state(loss * _replicas(), sample_weight=tf.reduce_sum(weights))
        metrics = self.compute_metrics(images, labels, logits, weights)
        strategy = self.distribute_strategy
        several_workers = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        if several_workers and strategy.extended._in_multi_worker_mode():  # As Keras asks.
            return {name: tf.reshape(value, (1,)) for name, value in metrics.items()}
        return metrics

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        def like(tensor):
            return keras.KerasTensor((1, *tensor.shape[1:]), tensor.dtype)

        with self.distribute_strategy.scope():
            self._symbolic_build(data_batch=(like(self.inputs[0]), like(self.outputs[0])))


def _replicas():
    """How many replicas the strategy that this code runs under has."""
    return tf.distribute.get_strategy().num_replicas_in_sync
