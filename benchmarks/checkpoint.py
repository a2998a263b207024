"""What a run writes after each epoch, beside an epoch of training.

Those are `last.keras`, `model.keras`, the checkpoint, the history and the logs. Networks of full size train
for one step an epoch, on tiny images of 1000 classes. For the CIFAR-10 model it also times training steps
(batch 128, no input pipeline), and so says which share of an epoch of 50,000 images the writing takes.

  python benchmarks/checkpoint.py [--folder .] [--rounds 5]
"""

import argparse
import dataclasses
import functools
import pathlib
import statistics
import tempfile
import time

import keras
import numpy as np
from PIL import Image
from side_by_side import seconds_per_step
from train_step import BATCHES, ours

import convmixer_keras as ck

# Hidden dimension, depth, kernel size, patch size and classes.
NETWORKS = {
    "ConvMixer-256/8, patch 2, kernel 5": (256, 8, 5, 2, 10),
    "ConvMixer-768/32": (768, 32, 7, 7, 1000),
    "ConvMixer-1536/20": (1536, 20, 9, 7, 1000),
}


class Clock(keras.callbacks.Callback):
    """Measures what comes after the end of an epoch, in seconds."""

    def __init__(self):
        super().__init__()
        self.seconds, self.began = [], None

    def on_epoch_end(self, epoch, logs=None):
        self.began = time.perf_counter()

    def on_epoch_begin(self, epoch, logs=None):
        if self.began is not None:
            self.seconds.append(time.perf_counter() - self.began)


def seconds_and_bytes(network, folder, rounds):
    """Median seconds to write everything, and the bytes of it."""
    hidden_dim, depth, kernel_size, patch_size, classes = network
    with tempfile.TemporaryDirectory(dir=folder) as place:
        photos, run = pathlib.Path(place, "photos"), pathlib.Path(place, "run")
        for split in ("train", "val"):
            for name in range(classes):
                path = photos / split / str(name) / "0.png"
                path.parent.mkdir(parents=True)
                Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
        recipe = dataclasses.replace(
            ck.recipes.IMAGENET,
            dataset=str(photos),
            hidden_dim=hidden_dim,
            depth=depth,
            kernel_size=kernel_size,
            patch_size=patch_size,
            image_size=2 * patch_size,
            randaugment_ops=0,
            batch_size=classes,
            dtype_policy="float32",
            epochs=rounds + 1,
        )
        clock = Clock()
        ck.training.train(recipe, run, callbacks=[clock], verbose=0)
        size = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    return statistics.median(clock.seconds), size


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", default=".", help="on the disk to measure")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    step = {"step": functools.partial(ours, "cifar10")}
    epoch = 50_000 / BATCHES["cifar10"] * seconds_per_step(step, arguments.rounds, repeats=2)["step"]
    for name, network in NETWORKS.items():
        seconds, size = seconds_and_bytes(network, arguments.folder, arguments.rounds)
        share = f", {100 * seconds / (seconds + epoch):.2f} % of an epoch" if network[-1] == 10 else ""
        print(f"{name}: {seconds:.2f} s, {size / 1e6:.0f} MB{share}", flush=True)


if __name__ == "__main__":
    main()
