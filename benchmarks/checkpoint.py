"""What an epoch's checkpoint and models cost, beside an epoch of training.

Writes what a run writes after each epoch: `last.keras`, `model.keras` and the checkpoint. For the CIFAR-10
model it also times training steps (batch 128, no input pipeline), and so says which share of an epoch of
50,000 images that is; for the ImageNet models it prints seconds and megabytes alone.

  python benchmarks/checkpoint.py [--folder .] [--rounds 5]
"""

import argparse
import functools
import os
import statistics
import tempfile
import time

from side_by_side import seconds_per_step
from train_step import BATCHES, ours

SIZES = {
    "ConvMixer-256/8, patch 2, kernel 5": (256, 8, 5, 2, 32, 10),
    "ConvMixer-768/32": (768, 32, 7, 7, 224, 1000),
    "ConvMixer-1536/20": (1536, 20, 9, 7, 224, 1000),
}


def seconds_and_bytes(sizes, folder, rounds):
    """Median seconds to write everything, and the bytes of it."""
    from convmixer_keras import ConvMixer
    from convmixer_keras.models.saving import save_model
    from convmixer_keras.recipes import IMAGENET
    from convmixer_keras.training import trainer as training
    from convmixer_keras.training.run import checkpoint
    from convmixer_keras.training.step.optimizer import build_optimizer

    hidden_dim, depth, kernel_size, patch_size, side, classes = sizes
    model = ConvMixer(
        hidden_dim, depth, kernel_size, patch_size, input_shape=(side, side, 3), classes=classes
    )
    training.compile_model(model, build_optimizer(IMAGENET, model, 1000), classes)
    model.optimizer.build(model.trainable_variables)
    names = [str(i) for i in range(classes)]
    times = []
    with tempfile.TemporaryDirectory(dir=folder) as place:
        for _ in range(rounds):
            began = time.perf_counter()
            save_model(model, os.path.join(place, "last.keras"), names)
            save_model(model, os.path.join(place, "model.keras"), names)
            checkpoint.write(model, os.path.join(place, "checkpoint.weights.h5"), checkpoint.Progress(1))
            times.append(time.perf_counter() - began)
        return statistics.median(times), sum(entry.stat().st_size for entry in os.scandir(place))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", default=".", help="on the disk to measure")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    step = {"step": functools.partial(ours, "cifar10")}
    epoch = 50_000 / BATCHES["cifar10"] * seconds_per_step(step, arguments.rounds, repeats=2)["step"]
    for name, sizes in SIZES.items():
        seconds, size = seconds_and_bytes(sizes, arguments.folder, arguments.rounds)
        share = f", {100 * seconds / (seconds + epoch):.2f} % of an epoch" if sizes[-1] == 10 else ""
        print(f"{name}: {seconds:.2f} s, {size / 1e6:.0f} MB{share}", flush=True)


if __name__ == "__main__":
    main()
