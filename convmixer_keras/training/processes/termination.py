"""SIGTERM, which Slurm, Kubernetes and spot machines send before they kill: end between two steps."""

import contextlib
import signal
import threading

import keras
import tensorflow as tf

from convmixer_keras.training.processes import replicas
from convmixer_keras.utils.errors import Failure


class Terminated(Failure):
    """The run was asked to end, and has written a checkpoint to continue from."""


@contextlib.contextmanager
def noted():
    """Within this block, SIGTERM sets the `threading.Event` that it yields, and does nothing else."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # Python hears signals in that one alone.
        yield asked
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


class SharedEnd:
    """Lets all processes of a run end after the same step, whichever of them was asked to.

    The note travels with the gradients: each step tells every process whether any of them was asked to end.
    Make it in the strategy's scope.
    """

    def __init__(self):
        self._own = _of_replica()
        self._of_any = _of_replica()

    def ask(self):
        """Asks for the end, from outside of a step."""
        self._own.assign(1.0)

    @property
    def note(self):
        """What this replica adds to the exchange of a step, a scalar tensor."""
        return tf.convert_to_tensor(self._own)

    def take(self, total):
        """Takes the sum of all replicas' notes, within a step."""
        self._of_any.assign(total)

    def is_asked(self):
        """Whether any process was asked to end before the last step; the same in all of them."""
        return float(self._of_any.read_value()) > 0


def exchange(end):
    """Sends a `SharedEnd`'s note around in a step that exchanges nothing else; `end` may be None."""
    if end:
        end.take(*replicas.total([end.note]))


def finish_epoch(model, metrics, callbacks, validation, progress, epochs):
    """Validates and ends an epoch whose steps are all done, as `fit` would have.

    Args:
        model: The `TrainingModel`.
        metrics: The metrics whose sums are in `progress`.
        callbacks: Those of `fit`.
        validation: The batches.
        progress: The `Progress`.
        epochs: Number of epochs of the run.
    """
    sums = iter(progress.sums)
    logs = {metric.name: next(sums) / next(sums) for metric in metrics}  # A total and a count for each.
    run = keras.callbacks.CallbackList(callbacks, model=model, epochs=epochs)
    run.on_train_begin()
    run.on_epoch_begin(progress.epochs)
    found = model.evaluate(validation, callbacks=run, verbose=0, return_dict=True)
    run.on_epoch_end(progress.epochs, {**logs, **{f"val_{name}": value for name, value in found.items()}})
    run.on_train_end()


def _of_replica():
    return tf.Variable(
        0.0,
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )
