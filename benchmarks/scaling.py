"""Images/s of one process with one core, and of two with one core each: the same images for each core.

  python benchmarks/scaling.py                       256/8 (64 images a core) and 768/2 (8 images a core)
  python benchmarks/scaling.py --statistics replica  without synchronised BatchNorm
  python benchmarks/scaling.py --profile DIR         writes a TensorBoard profile of two processes, too

The settings step by turns, so that a busy machine slows all of them. Prints also threads, memory and open
files of each process after its first and its last steps.
"""

import argparse
import contextlib
import functools
import json
import os
import socket
import subprocess
import sys

from side_by_side import seconds_per_step

# From the name to the recipe's changes and the images of a process.
NETWORKS = {
    "256/8, patch 2, kernel 5": ({"hidden_dim": 256, "depth": 8, "patch_size": 2, "kernel_size": 5}, 64),
    "768/2, patch 7, kernel 7": (
        {"hidden_dim": 768, "depth": 2, "patch_size": 7, "kernel_size": 7, "image_size": 224},
        8,
    ),
}

KEPT = contextlib.ExitStack()  # Connections to other processes, until this one ends.


def make_step(network, batch_norm, cores, tf_config=None, steps=0):
    """Returns a training step on some cores: of one process, or of one of those in TF_CONFIG."""
    os.sched_setaffinity(0, cores)
    os.environ.pop("TF_CONFIG", None)
    if tf_config:
        os.environ["TF_CONFIG"] = tf_config
    import dataclasses

    import tensorflow as tf

    from convmixer_keras.recipes import CIFAR10_FAST
    from convmixer_keras.training import trainer
    from convmixer_keras.training.processes import distribution
    from convmixer_keras.training.step.fused import fused_twin
    from convmixer_keras.training.step.optimizer import build_optimizer
    from convmixer_keras.training.step.training_model import TrainingModel

    changes, images_each = NETWORKS[network]
    recipe = dataclasses.replace(CIFAR10_FAST, **changes)
    name, workers = distribution.choose_strategy("multiworker" if tf_config else "one")
    batch_size = images_each * workers.count
    others = KEPT.enter_context(distribution.together(workers, 300, "-"))
    strategy = distribution.start_strategy(name, workers, others)
    with strategy.scope():
        fused = fused_twin(trainer.build_model(recipe, 3, 10), over_replicas=batch_norm == "global")
        model = TrainingModel(fused.inputs, fused.outputs)
        optimizer = build_optimizer(recipe, model, 1000, gradients_are_summed=True)
        trainer.compile_model(model, optimizer, 10)
        optimizer.build(model.trainable_variables)
    size = recipe.image_size
    images = tf.random.uniform((images_each, size, size, 3), 0, 255)
    labels = tf.one_hot(tf.range(images_each) % 10, 10)
    batches = tf.data.Dataset.from_tensors((images, labels)).repeat()
    iterator = iter(distribution.distribute(strategy, batches, None, batch_size))
    model.make_train_function()
    done = 0

    def step():
        nonlocal done
        done += 1
        loss = float(model.train_function(iterator)["loss"])
        if done in (2, steps):
            print(f"  {name}, BatchNorm {batch_norm}, after {done} steps: {vitals()}", flush=True)
        return loss

    return step


def tf_configs():
    """TF_CONFIG of two processes on this machine."""
    with socket.socket() as first, socket.socket() as second:
        for free in (first, second):
            free.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{free.getsockname()[1]}" for free in (first, second)]
    return [
        json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}})
        for i in range(2)
    ]


def two_processes(network, batch_norm, cores, steps=0):
    """A step of two processes: this one, and another that begins each of its steps when this one does.

    Where `batch_norm` is None, each trains alone.
    """
    configs = tf_configs() if batch_norm else [None, None]
    batch_norm = batch_norm or "replica"
    options = json.dumps([network, batch_norm, cores[1:2], configs[1]])
    command = [sys.executable, __file__, "--other-process", options]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    other = subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0, **quiet)
    step = make_step(network, batch_norm, cores[:1], configs[0], steps)

    def both():
        other.stdin.write(b"\n")
        return step()

    return both


def step_when_asked(options):
    """Makes a step for each line of standard input, until the first process is gone."""
    step = make_step(*options)
    for _ in sys.stdin.buffer:
        step()


def vitals():
    """Threads, memory and open files of this process, as a line."""
    with open("/proc/self/status") as file:
        status = dict(line.split(":", 1) for line in file)
    megabytes, files = int(status["VmRSS"].split()[0]) // 1000, len(os.listdir("/proc/self/fd"))
    return f"{int(status['Threads'])} threads, {megabytes} MB, {files} open files"


def profile(folder, network, batch_norm, cores):
    import tensorflow as tf

    step = two_processes(network, batch_norm, cores)
    step()
    with tf.profiler.experimental.Profile(folder):
        for _ in range(5):
            step()
    print(f"wrote {folder}; tensorboard --logdir {folder}")
    os._exit(0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--network", choices=NETWORKS, help="only this one")
    parser.add_argument("--statistics", choices=("global", "replica"), help="only this one")
    parser.add_argument("--profile", metavar="DIR", help="write a profile of two processes, and no more")
    parser.add_argument("--other-process", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.other_process:
        return step_when_asked(arguments.other_process)
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("error: needs two cores")
    networks = [arguments.network] if arguments.network else list(NETWORKS)
    batch_norms = [arguments.statistics] if arguments.statistics else ["global", "replica"]
    if arguments.profile:
        return profile(arguments.profile, networks[0], batch_norms[0], cores)
    for network in networks:
        steps = 2 + 2 * arguments.rounds
        contenders = {
            "one process": functools.partial(make_step, network, "replica", cores[:1], steps=steps),
            # What the machine allows: two cores share its memory.
            "two processes, each alone": functools.partial(two_processes, network, None, cores, steps),
        }
        for batch_norm in batch_norms:
            name = f"two processes, BatchNorm {batch_norm}"
            contenders[name] = functools.partial(two_processes, network, batch_norm, cores, steps)
        seconds = seconds_per_step(contenders, arguments.rounds, repeats=2)
        images_each = NETWORKS[network][1]
        print(f"\n{network}, {images_each} images a process\n")
        for name, each in seconds.items():
            images = images_each * (1 if name == "one process" else 2)
            times = images / each / (images_each / seconds["one process"])
            print(f"  {name:<36} {images / each:8.1f} images/s  {times:.2f} times")


if __name__ == "__main__":
    main()
