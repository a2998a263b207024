"""A recipe that runs in seconds, and a run that is interrupted."""

import dataclasses

from convmixer_keras.recipes import DIGITS
from convmixer_keras.training import trainer as training

# Small enough for seconds; learns what colour an image is.
TINY = dataclasses.replace(
    DIGITS,
    image_size=8,
    hidden_dim=8,
    depth=1,
    patch_size=2,
    batch_size=6,
    epochs=3,
    mean=(0.5,),
    std=(0.25,),
)


class StopAfter(Exception):
    pass


def interrupt_after(monkeypatch, epochs):
    """Ends training with an exception when so many epochs are finished."""
    finish = training.KeepRun.on_epoch_end

    def on_epoch_end(self, epoch, logs=None):
        finish(self, epoch, logs)
        if epoch + 1 == epochs:
            raise StopAfter

    monkeypatch.setattr(training.KeepRun, "on_epoch_end", on_epoch_end)
