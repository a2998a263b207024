"""What `fit` and a run's callbacks add to the bare compiled training step, on the CPU.

ConvMixer-256/8, patch 2, kernel 5, 32x32. `fit` has the guard, TensorBoard and the callbacks of a run, the
bare step none of them; no input pipeline, and without what is written at the end of an epoch
(benchmarks/checkpoint.py). Both take turns in one process.

  python benchmarks/fit_overhead.py [--batch-size 128] [--steps 10] [--rounds 7]
"""

import argparse
import statistics
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf

from convmixer_keras.data.bad_images import BadImages
from convmixer_keras.data.pipeline import Data
from convmixer_keras.recipes import CIFAR10_FAST
from convmixer_keras.training import trainer
from convmixer_keras.training.processes.distribution import ALONE
from convmixer_keras.training.run.callbacks import KeepRun, StopEarly
from convmixer_keras.training.run.checkpoint import Progress
from convmixer_keras.training.run.run_folder import RunFolder
from convmixer_keras.training.run.run_writer import RunWriter
from convmixer_keras.training.run.settings import Settings


class Clock(keras.callbacks.Callback):
    """Measures the training steps of each epoch, in seconds."""

    seconds = ()

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.perf_counter()

    def on_test_begin(self, logs=None):
        self.seconds = (*self.seconds, time.perf_counter() - self.began)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bare, fit = measure(folder, arguments.batch_size, arguments.steps, arguments.rounds)
    ratios = [whole / step for whole, step in zip(fit, bare, strict=True)]
    print(f"bare step   {1000 * statistics.median(bare) / arguments.steps:8.1f} ms")
    print(f"step in fit {1000 * statistics.median(fit) / arguments.steps:8.1f} ms")
    print(f"ratio       {statistics.median(ratios):8.3f}, median of {arguments.rounds} rounds")


def measure(folder, batch_size, steps, rounds):
    """Returns the seconds of `steps` bare steps, and of as many in `fit`, for each round."""
    images = np.random.default_rng(0).integers(0, 256, (batch_size, 32, 32, 3)).astype(np.float32)
    labels = np.eye(10, dtype=np.float32)[np.arange(batch_size) % 10]
    batches = tf.data.Dataset.from_tensors((images, labels)).cache().repeat()
    counters = [tf.Variable(0, dtype=tf.int64) for _ in range(2)]
    names = [str(i) for i in range(10)]
    data = Data(batches, batches, names, 50_000, 10_000, 3, steps, 1, *counters, BadImages())
    place = trainer._Place(RunFolder(folder), ALONE, "one", tf.distribute.get_strategy(), "")
    built = trainer._build(CIFAR10_FAST, data, Settings(), place)
    unguarded = trainer._build(CIFAR10_FAST, data, Settings(), place).twin
    unguarded.guard = None
    unguarded.make_train_function()
    writer = RunWriter(place.folder, built.model, names, [])
    clock = Clock()
    keep_run = KeepRun(writer, data, Progress(), built.metrics)
    callbacks = [clock, keep_run, StopEarly(writer.history, 0)]
    bare = []
    for epoch in range(rounds + 1):
        options = {"initial_epoch": epoch, "epochs": epoch + 1, "steps_per_epoch": steps}
        built.twin.fit(
            batches, validation_data=batches, validation_steps=1, callbacks=callbacks, verbose=0, **options
        )
        iterator = iter(batches)
        began = time.perf_counter()
        for _ in range(steps):
            logs = unguarded.train_function(iterator)
        float(logs["loss"])
        bare.append(time.perf_counter() - began)
    return bare[1:], list(clock.seconds)[1:]  # The first round traces.


if __name__ == "__main__":
    main()
