"""Images/s of one process with one core, and of two with one core each: the same images for each core.

  python benchmarks/scaling.py                         256/8 (64 images a core) and 768/2 (8 images a core)
  python benchmarks/scaling.py --batch-norm replica    without synchronised BatchNorm

The settings step by turns, so that a busy machine slows all of them. Each process is a run of its own
(`ck.training.train`) that begins a step when it is told to.
"""

import argparse
import contextlib
import functools
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile

from side_by_side import seconds_per_step

# From the name to the recipe's changes and the images of a process.
NETWORKS = {
    "256/8, patch 2, kernel 5": ({"hidden_dim": 256, "depth": 8, "patch_size": 2, "kernel_size": 5}, 64),
    "768/2, patch 7, kernel 7": (
        {"hidden_dim": 768, "depth": 2, "patch_size": 7, "kernel_size": 7, "image_size": 224},
        8,
    ),
}
REPEATS = 2  # Steps in one turn.

KEPT = contextlib.ExitStack()  # The folders of the runs, until this process ends.


def train(photos, output, network, batch_norm, core, batch_size):
    """Trains in this process, on one core: a step for each line of standard input, answered by a line."""
    os.sched_setaffinity(0, {core})
    import dataclasses

    import keras

    import convmixer_keras as ck

    class StepWhenTold(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            sys.stdin.readline()

        def on_train_batch_end(self, batch, logs=None):
            print("done", file=sys.stderr, flush=True)

    changes, _ = NETWORKS[network]
    recipe = dataclasses.replace(
        ck.recipes.CIFAR10_FAST,
        dataset=photos,
        batch_size=batch_size,
        batch_norm_statistics=batch_norm,
        epochs=1,
        **changes,
    )
    ck.training.train(recipe, output, callbacks=[StepWhenTold()], verbose=0)


def make_folder(root, images):
    """Lays out one small image again and again, as a data set of two classes."""
    import numpy as np
    from PIL import Image

    root.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(root / "image.png")
    for split, count in (("train", images), ("val", 2)):
        for i in range(count):
            folder = root / split / "ab"[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{i}.png").symlink_to(root / "image.png")
    return str(root)


def tf_configs(count):
    """TF_CONFIG of so many processes on this machine."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{free.getsockname()[1]}" for free in sockets]
    return [
        json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}})
        for i in range(count)
    ]


def make_step(network, batch_norm, cores, together, steps):
    """Returns a step of one process for each core: of one run `together`, or each of its own."""
    batch_size = NETWORKS[network][1] * (len(cores) if together else 1)
    folder = pathlib.Path(KEPT.enter_context(tempfile.TemporaryDirectory()))
    photos = make_folder(folder / "photos", batch_size * steps)
    configs = tf_configs(len(cores)) if together else [None] * len(cores)
    processes = []
    for core, config in zip(cores, configs, strict=True):
        options = json.dumps([photos, str(folder / f"run{core}"), network, batch_norm, core, batch_size])
        environment = {name: value for name, value in os.environ.items() if name != "TF_CONFIG"}
        process = subprocess.Popen(
            [sys.executable, __file__, "--process", options],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment | ({"TF_CONFIG": config} if config else {}),
        )
        processes.append(process)

    def step():
        for process in processes:
            print(file=process.stdin, flush=True)
        for process in processes:
            while (line := process.stderr.readline()) != "done\n":
                if not line:
                    sys.exit(f"error: a process of {network} has ended")

    return step


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--network", choices=NETWORKS, help="only this one")
    parser.add_argument("--batch-norm", choices=("global", "replica"), help="only this one")
    parser.add_argument("--process", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.process:
        return train(*arguments.process)
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        sys.exit("error: needs two cores")
    networks = [arguments.network] if arguments.network else list(NETWORKS)
    batch_norms = [arguments.batch_norm] if arguments.batch_norm else ["global", "replica"]
    for network in networks:
        make = functools.partial(make_step, network, steps=REPEATS * arguments.rounds + 3)
        contenders = {
            "one process": functools.partial(make, "replica", cores[:1], False),
            # What the machine allows: two cores share its memory.
            "two processes, each alone": functools.partial(make, "replica", cores, False),
        }
        for batch_norm in batch_norms:
            name = f"two processes, BatchNorm {batch_norm}"
            contenders[name] = functools.partial(make, batch_norm, cores, True)
        seconds = seconds_per_step(contenders, arguments.rounds, REPEATS)
        images_each = NETWORKS[network][1]
        print(f"\n{network}, {images_each} images a process\n")
        for name, each in seconds.items():
            images = images_each * (1 if name == "one process" else 2)
            times = images / each / (images_each / seconds["one process"])
            print(f"  {name:<36} {images / each:8.1f} images/s  {times:.2f} times")


if __name__ == "__main__":
    main()
