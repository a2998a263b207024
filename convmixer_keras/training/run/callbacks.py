"""What happens between the steps of a run: it is written down, and stopped when its loss is not a number."""

import signal
import time

import keras
import numpy as np

from convmixer_keras.training.processes.termination import Asked, Terminated
from convmixer_keras.training.run.checkpoint import Progress
from convmixer_keras.training.run.resume import exhausted
from convmixer_keras.utils.errors import Failure

LOOK_EVERY_STEPS = 10
LOOK_EVERY_SECONDS = 1.0


class NonFiniteLoss(Failure):
    """The loss of a step or of the validation is infinite or not a number, or a step left such weights."""


class KeepRun(keras.callbacks.Callback):
    """Writes models, history and checkpoint after each epoch, and checkpoints in between.

    A run that is killed before the checkpoint of an epoch repeats that epoch: until then its other files wait
    in a folder of their own (`RunFolder.unsettled`).

    Between the steps it works at the beginning of the next one: Keras waits for the device before it calls
    `on_train_batch_end`, and not before `on_train_batch_begin`.

    It tells `data` which epoch comes next, and where that begins. The sums of `metrics` are part of a
    checkpoint; `average` is the `SwapAverages` callback before this one, or None.
    """

    def __init__(self, writer, data, progress, metrics, checkpoint_every=0, average=None, patience=0):
        super().__init__()
        self.writer = writer
        self.data = data
        self.progress = progress
        self.sums = [variable for metric in metrics for variable in metric.variables]
        self.checkpoint_every = checkpoint_every
        self.average = average
        self.patience = patience
        self.asked = Asked()
        self.stopped = False
        self.steps_before = progress.epochs * data.steps + progress.batches

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.monotonic() - self.progress.seconds
        self.looked = time.monotonic()
        self.batches_before = self.batches = self.progress.batches
        self.data.epoch.assign(epoch)
        self.data.first_batch.assign(self.progress.batches)
        for variable, value in zip(self.sums, self.progress.sums, strict=False):
            variable.assign(value)
        self.progress = Progress(epoch)

    def on_train_batch_begin(self, batch, logs=None):
        before, self.batches = self.batches, self.batches_before + batch
        every = self.checkpoint_every
        checkpoint_is_due = every and before // every < self.batches // every
        if self._look_is_due(before):
            self._stop_unless_finite()
        if (asked := self._is_asked_to_end()) or checkpoint_is_due:
            if self.batches:
                self._write_checkpoint(self._read_sums())
            if asked:
                raise self._ended()

    def on_test_begin(self, logs=None):
        self.batches = self.data.steps
        self.sums_of_epoch = self._read_sums()  # Validation begins its own.

    def on_test_batch_begin(self, batch, logs=None):
        if batch == 0:  # Before a validation that takes a while, with weights that may be useless.
            self._stop_unless_finite()
        if self._is_asked_to_end():
            if self.average:  # It has put the averaged weights into the model.
                self.average.on_test_end()
            self._write_checkpoint(self.sums_of_epoch)
            raise self._ended()

    def on_epoch_end(self, epoch, logs=None):
        self._stop_unless_finite(writing=True)
        row = {key: float(value) for key, value in logs.items() if key != "learning_rate"}
        if not np.isfinite(row["val_loss"]):  # By running statistics, which training does not use.
            raise NonFiniteLoss(
                f"the validation loss is {row['val_loss']} after epoch {epoch + 1}; "
                "nothing was written since the last checkpoint"
            )
        rate = float(self.model.optimizer.learning_rate)
        seconds = round(self._seconds(), 2)
        self.writer.write_epoch({"epoch": epoch + 1, **row, "learning_rate": rate, "seconds": seconds})
        if self.average:  # The models hold the averaged weights; training continues from the others.
            self.average.on_epoch_begin(epoch + 1)
        self.progress = Progress(epoch + 1)
        self.writer.write_checkpoint(self.model, self.progress)
        self.stopped = self.model.stop_training  # By a callback of the user's, before this one.
        only_the_rest = self.batches_before > 0  # Of this epoch was to be trained.
        if only_the_rest or exhausted(self.writer.history, self.patience):
            self.model.stop_training = True

    def _read_sums(self):
        """Reads the metrics' sums. To be called in every process: the sum over all of them takes all."""
        return tuple(float(keras.ops.convert_to_numpy(variable)) for variable in self.sums)

    def _write_checkpoint(self, sums):
        self._stop_unless_finite(writing=True)
        progress = Progress(self.progress.epochs, self.batches, self._seconds(), sums)
        self.writer.write_checkpoint(self.model, progress)

    def _is_asked_to_end(self):
        """Whether a signal has come to any process: between the same two steps in all of them."""
        end = self.model.end
        if end is None:
            return self.asked.signal is not None
        if self.asked.signal:
            end.ask()
        return end.is_asked()

    def _ended(self):
        kind = KeyboardInterrupt if self.asked.signal == signal.SIGINT else Terminated
        ended = kind(f"ended in epoch {self.progress.epochs + 1}, after step {self.batches} of it")
        ended.resumable = self.progress.epochs + self.batches > 0
        return ended

    def _seconds(self):
        return time.monotonic() - self.began

    def _look_is_due(self, batches_before):
        """Whether to ask the device about the loss: often enough for a person, rarely enough for a GPU."""
        if self.batches // LOOK_EVERY_STEPS > batches_before // LOOK_EVERY_STEPS:
            return True
        # Several processes have to stop in the same step, so that none waits for another.
        if self.writer.alone and time.monotonic() - self.looked > LOOK_EVERY_SECONDS:
            self.looked = time.monotonic()
            return True
        return False

    def _stop_unless_finite(self, writing=False):
        """Raises NonFiniteLoss after such a loss or, where something is to be written, with such weights.

        The update that breaks a network comes a step before the loss that shows it.
        """
        failed = self.model.watch.has_failed()
        if not failed and not (writing and self._has_non_finite_weights()):
            return
        noted = self.model.watch.step()
        step = self.steps_before + noted.number
        epoch, of_epoch = divmod(step - 1, self.data.steps)
        raise NonFiniteLoss(
            f"{f'the loss is {noted.loss} in' if failed else 'the weights are no longer finite after'} step "
            f"{step} (epoch {epoch + 1}, step {of_epoch + 1} of {self.data.steps}), at the learning rate "
            f"{noted.learning_rate:.4g}; nothing was written since the last checkpoint"
        )

    def _has_non_finite_weights(self):
        variables = (*self.model.variables, *self.model.optimizer.variables)
        return not all(np.isfinite(keras.ops.convert_to_numpy(variable)).all() for variable in variables)
