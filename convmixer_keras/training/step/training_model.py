"""One training step: forward and backward in passes, the sum over replicas, the watch, the update."""

import keras
import tensorflow as tf

from convmixer_keras.training.step import rematerialize, replicas
from convmixer_keras.training.step.fused import FusedBatchNormalization, fused_twin
from convmixer_keras.training.step.network import thawed
from convmixer_keras.training.step.optimizer import build_optimizer
from convmixer_keras.training.step.watch import LossWatch, SharedEnd

# Loss scaling begins at 2 ** 15 and halves at each overflow, so that after 16 it is not what overflows.
SKIPPED_STEPS = 20


class TrainingModel(keras.Model):
    """A model's twin on the same weights, whose steps are those of this package, on one device and on many.

    - Gradients are summed before the optimizer sees them, so that clipping acts on the whole batch's, and
      loss scaling finds an overflow in any replica (`optimizer.AdamW` with `gradients_are_summed`).
    - Gradients and BatchNorm's statistics of all passes are summed up, travel between replicas in a single
      exchange, and give one update.
    - The weights of images count in every metric.
    - Under `MultiWorkerMirroredStrategy`, Keras' `fit` fails (keras-team/keras issue 20585): it reduces the
      first batch outside of a replica, and metrics along an axis that they do not have. So the model is built
      from its shapes, and metrics get that axis. `tests/training/processes/test_distribution.py` says when
      this is no longer needed.

    `plain`, a functional model of stock layers, is what `save` saves. `watch` is a `LossWatch`, `end` a
    `SharedEnd`, or None. `passes` is how many equal parts each replica's images are taken in, one after the
    other, so that only one part's activations are in memory. Compile it with `compile_model`.
    """

    watch = None
    end = None
    passes = 1
    chain = ()

    def __init__(self, plain, statistics_of="global"):
        fused = fused_twin(plain, statistics_of)
        super().__init__(fused.inputs, fused.outputs)
        # In a dictionary of the instance: as an attribute, its layers would be layers of this one.
        self.__dict__["plain"] = plain

    def save(self, *arguments, **options):
        """Saves the plain model, all of it trainable: what a callback that saves its `model` wants."""
        with thawed(self.plain):
            self.plain.save(*arguments, **options)

    def save_weights(self, *arguments, **options):
        self.plain.save_weights(*arguments, **options)

    def load_weights(self, *arguments, **options):
        self.plain.load_weights(*arguments, **options)

    def let_go(self):
        """Drops the iterator over validation images that Keras keeps where `fit` ends with an error."""
        self._eval_epoch_iterator = None

    def rematerialize(self):
        names = rematerialize.last_layers_of_blocks(self)
        # As `plain`: its models would be layers of this one.
        self.__dict__["chain"] = tuple(rematerialize.segments(self, names))

    def call(self, inputs, training=None, mask=None):
        if training and self.chain:
            return rematerialize.call(self.chain, inputs)
        return super().call(inputs, training=training, mask=mask)

    def train_step(self, data):
        total = None
        for part in _parts(data, self.passes):
            # One pass after the other: TensorFlow would begin all of them at once.
            with tf.control_dependencies(total or ()):
                found = self._forward_and_backward(part)
            total = found if total is None else [a + b for a, b in zip(total, found, strict=True)]
        # Keras has divided the loss by the number of replicas, so that the sum is the mean.
        loss, share, *total = replicas.total([*total, *([self.end.note] if self.end else [])])
        if self.end:
            self.end.take(total.pop())
        weights = self.trainable_weights
        gradients, statistics = total[: len(weights)], total[len(weights) :]
        if len(data) > 2:  # Images have weights, whose sum differs from part to part.
            loss, gradients = loss / share, [gradient / share for gradient in gradients]
        if self.watch:
            self.watch.note(loss, self.optimizer.learning_rate)
        self._update_running_statistics(statistics)
        self.optimizer.apply(gradients, weights)
        return self._metrics_for_keras(self.get_metrics_result())

    def _forward_and_backward(self, data):
        """Returns what a part of the images adds to a step, a list.

        Its loss times its share in the weight of all images, that share, the gradient of this loss by each
        trainable weight, and mean and variance of each BatchNorm.
        """
        images, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
        layers = self._batch_norms()
        for layer in layers:
            layer.keeps_statistics, layer.statistics = True, ()
        with tf.GradientTape() as tape:
            logits = self(images, training=True)
            loss = self.compute_loss(images, labels, logits, weights)
            share = (1.0 if weights is None else tf.reduce_mean(weights)) / (self.passes * replicas.count())
            part = loss * share * replicas.count()
            scaled_loss = self.optimizer.scale_loss(part)
        statistics = [value for layer in layers for value in layer.statistics]
        gradients = tape.gradient(scaled_loss, self.trainable_weights)
        self._update_metrics(images, labels, logits, weights, loss)
        return [part, tf.convert_to_tensor(share), *gradients, *statistics]

    def _batch_norms(self):
        return [layer for layer in self.layers if isinstance(layer, FusedBatchNormalization)]

    def _update_running_statistics(self, totals):
        """Takes in the mean over all passes and replicas, means and variances alternating."""
        means = iter([value / (self.passes * replicas.count()) for value in totals])
        for layer in self._batch_norms():
            if layer.statistics:  # A frozen layer has none.
                layer.update(next(means), next(means))

    def test_step(self, data):
        images, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
        if self.end:
            self.end.take(*replicas.total([self.end.note]))
        logits = self(images, training=False)
        loss = self.compute_loss(images, labels, logits, weights, training=False)
        return self._metrics_for_keras(self._update_metrics(images, labels, logits, weights, loss))

    def _update_metrics(self, images, labels, logits, weights, loss):
        if weights is None:
            weights = tf.ones(tf.shape(images)[:1])
        self._loss_tracker.update_state(loss * replicas.count(), sample_weight=tf.reduce_sum(weights))
        return self.compute_metrics(images, labels, logits, weights)

    def _metrics_for_keras(self, metrics):
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


@keras.saving.register_keras_serializable("convmixer_keras")
def is_in_top(labels, scores, k):
    """Whether the true class is one of the `k` with the highest scores; of equal ones the first count.

    `TopKCategoricalAccuracy` counts all that are equal, under TensorFlow.
    """
    highest = keras.ops.top_k(scores, k)[1]
    truth = keras.ops.cast(keras.ops.argmax(labels, -1), highest.dtype)
    return keras.ops.any(highest == truth[:, None], -1)


def compile_model(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, classes: int, steps_per_execution: int = 1
) -> list[keras.metrics.Metric]:
    """Compiles a model of logits: cross-entropy over soft labels (batch, classes), top-1 and top-5 accuracy.

    Returns:
        The metrics in which an epoch is summed up: loss, accuracy, and of more than five classes top5.
    """
    accuracies = [keras.metrics.CategoricalAccuracy(name="accuracy")]
    if classes > 5:  # Of five classes, the true one is always among the best five.
        accuracies.append(keras.metrics.MeanMetricWrapper(is_in_top, name="top5", k=5))
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight"),
        weighted_metrics=accuracies,
        steps_per_execution=steps_per_execution,
    )
    loss = next(metric for metric in model.metrics if metric.name == "loss")
    return [loss, *accuracies]


def training_twin(model, recipe, settings, steps, several=False):
    """Builds and compiles a `TrainingModel` on a model's weights, in the strategy's scope.

    Returns it, and the metrics in which an epoch is summed up.
    """
    twin = TrainingModel(model, recipe.batch_norm_statistics)
    twin.passes = recipe.accumulate
    if settings.rematerialize:
        twin.rematerialize()
    optimizer = build_optimizer(recipe, twin, recipe.epochs * steps, gradients_are_summed=True)
    classes = model.output_shape[-1]
    metrics = compile_model(twin, optimizer, classes, steps_per_execution=settings.steps_per_execution)
    twin.optimizer.build(twin.trainable_variables)
    twin.watch = LossWatch(SKIPPED_STEPS if recipe.dtype_policy == "mixed_float16" else 1)
    twin.end = SharedEnd() if several else None
    return twin, metrics


def _parts(data, count):
    """Splits each tensor of a batch into so many parts of equal size."""
    if count == 1:
        return [data]
    parts = [tf.split(tensor, count) for tensor in data]
    return list(zip(*parts, strict=True))
