"""What happens between the steps of a run: models, history and checkpoints are kept, nonsense is stopped."""

import math
import time

import keras
import tensorflow as tf

from convmixer_keras.models.saving import save_model
from convmixer_keras.training import checkpoint, run_folder
from convmixer_keras.training.checkpoint import Progress
from convmixer_keras.utils.errors import Failure


class NonFiniteLoss(Failure):
    """The loss of a step is infinite or not a number."""


class KeepRun(keras.callbacks.Callback):
    """Writes models, history and checkpoint after each epoch, and checkpoints in between.

    The checkpoint comes last: a run that is killed in between does that epoch again.

    Args:
        folder: The `RunFolder`, or None in a process that writes nothing.
        model: The model to save, which shares its weights with the one that is trained.
        data: The `Data` that it is trained on; which epoch a pass is, and where it begins, is set here.
        history: List of the finished epochs, to which this appends.
        average: The `SwapEMAWeights` callback before this one, or None.
        sums: The variables of the metrics, scalars.
        progress: The `Progress` to go on from.
        checkpoint_every: Number of steps between checkpoints within an epoch; 0 for none.
    """

    def __init__(self, folder, model, data, history, average, sums, progress, checkpoint_every):
        super().__init__()
        self.folder = folder
        self.saved_model = model
        self.data = data
        self.history = history
        self.average = average
        self.sums = sums
        self.progress = progress
        self.checkpoint_every = checkpoint_every

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.monotonic() - self.progress.seconds
        self.batches_before = self.batches = self.progress.batches
        self.data.epoch.assign(epoch)
        self.data.first_batch.assign(self.progress.batches)
        for variable, value in zip(self.sums, self.progress.sums, strict=False):
            variable.assign(value)
        self.progress = Progress(epoch)

    def on_test_batch_end(self, batch, logs=None):
        self.data.bad_images.check()

    def on_train_batch_end(self, batch, logs=None):
        self.data.bad_images.check()
        before, self.batches = self.batches, self.batches_before + batch + 1
        every = self.checkpoint_every
        if every and before // every < self.batches // every and self.batches < self.data.steps:
            # Read in every process: the sum over all of them takes all of them.
            sums = tuple(float(keras.ops.convert_to_numpy(variable)) for variable in self.sums)
            self._write_checkpoint(Progress(self.progress.epochs, self.batches, self._seconds(), sums))

    def on_epoch_end(self, epoch, logs=None):
        best_before = max((row["val_accuracy"] for row in self.history), default=-1.0)
        logs = {key: float(value) for key, value in logs.items() if key != "learning_rate"}
        self.history.append(
            {
                "epoch": epoch + 1,
                **logs,
                "learning_rate": float(self.model.optimizer.learning_rate),
                "seconds": round(self._seconds(), 2),
            }
        )
        if self.folder:
            save_model(self.saved_model, self.folder[run_folder.LAST_MODEL], self.data.class_names)
            if logs["val_accuracy"] > best_before:
                save_model(self.saved_model, self.folder[run_folder.BEST_MODEL], self.data.class_names)
            self.folder.write_history(self.history)
        if self.average:  # The models hold the averaged weights; training goes on from the others.
            self.average.on_epoch_begin(epoch + 1)
        self.progress = Progress(epoch + 1)
        self._write_checkpoint(self.progress)
        if self.batches_before:  # Only the rest of this epoch was to be trained.
            self.model.stop_training = True

    def _seconds(self):
        return time.monotonic() - self.began

    def _write_checkpoint(self, progress):
        if self.folder:
            checkpoint.write(self.model, self.folder[run_folder.CHECKPOINT], progress)


class StopAtNonFiniteLoss(keras.callbacks.Callback):
    """Ends training at the first loss that is infinite or not a number, with the weights from before.

    Args:
        keep_run: The `KeepRun` of the run, whose `last.keras` gets the last weights that gave a loss.
        schedule: The learning rate schedule.
    """

    def __init__(self, keep_run, schedule):
        super().__init__()
        self.keep_run = keep_run
        self.schedule = schedule

    def on_train_begin(self, logs=None):
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        self.variables = [v.value for v in (*self.model.variables, *optimizer.averages)]
        self.copies = tf.function(lambda: [tf.identity(variable) for variable in self.variables])
        self.last_good = self.copies()

    def on_train_batch_begin(self, batch, logs=None):
        self.before_step = self.copies()

    def on_train_batch_end(self, batch, logs=None):
        if math.isfinite(logs["loss"]):
            self.last_good = self.before_step
            return
        for variable, value in zip(self.variables, self.last_good, strict=True):
            variable.assign(value)
        run = self.keep_run
        epoch, steps = run.progress.epochs, run.data.steps
        step = run.batches_before + batch + 1
        rate = float(self.schedule(self.model.optimizer.iterations - 1))
        message = (
            f"the loss is {logs['loss']} in step {epoch * steps + step} (epoch {epoch + 1}, step {step} "
            f"of {steps}), at the learning rate {rate:.4g}"
        )
        if run.average:
            run.average.on_epoch_end(epoch)
        if run.folder:
            last = run.folder[run_folder.LAST_MODEL]
            save_model(run.saved_model, last, run.data.class_names)
            message += f"; {last} holds the weights before it went wrong"
        raise NonFiniteLoss(message)
