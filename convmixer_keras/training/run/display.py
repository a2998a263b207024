"""What a run shows while it trains: a bar on a terminal, and in a log a line every now and then."""

import time

import keras

from convmixer_keras.utils import progress

BAR, LINES = 1, 2  # As Keras' `verbose` counts them.


class Display(keras.callbacks.Callback):
    """Shows epoch, step, loss, accuracy, images/s, and the time left in the epoch and in the run.

    `keep_run`, before this callback, knows in which step an epoch begins. Of lines, the first step and the
    end of each epoch have one, and the others are `every` seconds apart.
    """

    async_safe = True  # So that Keras waits for the device in another thread, and not between two steps.

    def __init__(self, keep_run, recipe, verbose, every):
        super().__init__()
        self.keep_run = keep_run
        self.recipe = recipe
        self.verbose = verbose
        self.every = every
        self.next_line = 0.0
        self.bar = None
        data = keep_run.data
        self.steps = {"": data.steps, "validation ": data.validation_steps}
        self.seconds = {"": 0.0, "validation ": 0.0}  # Of a step, as far as one was measured.

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch + 1
        self.began = time.monotonic()
        self._begin("", self.keep_run.batches_before)

    def on_train_batch_end(self, batch, logs=None):
        self._show(self.keep_run.batches_before + batch + 1, logs)

    def on_test_begin(self, logs=None):
        self._begin("validation ", 0)

    def on_test_batch_end(self, batch, logs=None):
        self._show(batch + 1, logs)

    def on_epoch_end(self, epoch, logs=None):
        self.close()
        validation = {key.removeprefix("val_"): value for key, value in logs.items() if "val_" in key}
        seconds = _duration(time.monotonic() - self.began)
        print(f"{self._name()}: {_figures(logs)}; validation {_figures(validation)}; {seconds}", flush=True)

    def close(self):
        """Takes the bar away, if there is one."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _begin(self, part, done):
        self.close()
        self.part, self.done, self.timed_from = part, done, None
        if self.verbose == BAR:
            self.bar = progress.bar(
                f"{self._name()} {part}".rstrip(),
                self.steps[part],
                "steps",
                initial=done,
                leave=False,
                bar_format="{desc} |{bar}|",
            )

    def _show(self, done, logs):
        now = time.monotonic()
        if done <= self.done:  # Threads may come in another order.
            return
        self.done = done
        if self.timed_from is None:  # Not with the first step, which is compiled.
            self.timed_from = now, done
        elif done > self.timed_from[1]:
            self.seconds[self.part] = (now - self.timed_from[0]) / (done - self.timed_from[1])
        if self.bar is not None:
            # All in 80 columns; the bar has what is left of a broader terminal.
            self.bar.bar_format = f"{{desc}} |{{bar}}| {self._text(logs, '{} left, run {}')}"
            self.bar.update(done - self.bar.n)
        elif now >= self.next_line:
            self.next_line = now + self.every
            text = self._text(logs, "{} left in the epoch, {} in the run")
            print(f"{self._name()}, {self.part}step {done}/{self.steps[self.part]}: {text}", flush=True)

    def _text(self, logs, left):
        text, seconds = _figures(logs), self.seconds[self.part]
        if seconds:
            speed = self.recipe.batch_size / seconds
            text += f", {speed:,.{1 if speed < 100 else 0}f} images/s, "
            text += left.format(*map(_duration, self._seconds_left()))
        return text

    def _seconds_left(self):
        """Of the epoch and of the run, as long as the steps so far; a validation counts once it was seen."""
        whole = {part: self.steps[part] * self.seconds[part] for part in self.steps}
        of_epoch = (self.steps[self.part] - self.done) * self.seconds[self.part]
        if not self.part:
            of_epoch += whole["validation "]
        return of_epoch, of_epoch + (self.recipe.epochs - self.epoch) * sum(whole.values())

    def _name(self):
        return f"Epoch {self.epoch}/{self.recipe.epochs}"


def _figures(logs):
    return f"loss {logs['loss']:.4f}, accuracy {100 * logs['accuracy']:.2f} %"


def _duration(seconds):
    """Two or three digits are enough to plan by: 45 s, 12 min, 3.4 h, 2.1 d."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} d"
