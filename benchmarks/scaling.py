"""Images/s of a training step by strategy and number of replicas.

ConvMixer-256/8, patch 2, kernel 5, 32x32, batch 128 in all, no input pipeline. On a CPU, two replicas share
its cores: two logical devices of one process, or two processes with half of the cores each, which talk over
loopback; beside them one device on all cores and on half of them. With several GPUs, "mirrored" runs on 1, 2,
... of them.

  python benchmarks/scaling.py [--rounds 7]
"""

import argparse
import functools
import json
import os
import socket
import subprocess
import sys

from side_by_side import print_images_per_second, seconds_per_step

BATCH = 128


def make_step(strategy, replicas=1, cores=None, tf_config=None):
    """Returns a training step of so many replicas, on some of the CPU's cores."""
    if cores:
        os.sched_setaffinity(0, cores)
    if tf_config:
        os.environ["TF_CONFIG"] = tf_config
    import tensorflow as tf

    devices = tf.config.list_physical_devices("GPU")
    if devices:
        tf.config.set_visible_devices(devices[:replicas], "GPU")
    elif replicas > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)

    from convmixer_keras.recipes import CIFAR10_FAST
    from convmixer_keras.training import distribution
    from convmixer_keras.training import trainer as training
    from convmixer_keras.training.fused import fused_twin
    from convmixer_keras.training.step import TrainingModel

    name, workers = distribution.choose_strategy(strategy)
    strategy = distribution.start_strategy(name, workers)
    with strategy.scope():
        model = fused_twin(training.build_model(CIFAR10_FAST, 3, 10))
        if name != "one":
            model = TrainingModel(model.inputs, model.outputs)
        optimizer = training.build_optimizer(CIFAR10_FAST, model, 1000, gradients_are_summed=name != "one")
        training.compile_model(model, optimizer, 10)
        optimizer.build(model.trainable_variables)
    part = BATCH // workers.count
    images = tf.random.uniform((part, 32, 32, 3), 0, 255)
    batches = tf.data.Dataset.from_tensors((images, tf.one_hot(tf.range(part) % 10, 10))).repeat()
    shared = distribution.distribute(strategy, batches, None, BATCH)
    iterator = iter(shared)
    model.make_train_function()
    return lambda: float(model.train_function(iterator)["loss"])


def two_processes(all_cores):
    """A step of two processes: this one, and another that always waits for it in the first exchange."""
    with socket.socket() as first, socket.socket() as second:
        for free in (first, second):
            free.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{free.getsockname()[1]}" for free in (first, second)]
    configs = [
        json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}})
        for i in range(2)
    ]
    half = len(all_cores) // 2
    other = json.dumps({"cores": all_cores[half:], "tf_config": configs[1]})
    subprocess.Popen([sys.executable, __file__, "--other-process", other])
    return make_step("multiworker", cores=all_cores[:half], tf_config=configs[0])


def step_for_ever(options):
    step = make_step("multiworker", **options)
    import tensorflow as tf

    try:
        while True:
            step()
    except tf.errors.OpError:  # The other one is done.
        os._exit(0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--other-process", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.other_process:
        return step_for_ever(arguments.other_process)
    import tensorflow as tf

    gpus = len(tf.config.list_physical_devices("GPU"))
    cores = sorted(os.sched_getaffinity(0))
    contenders = {
        "one device, no strategy": functools.partial(make_step, "one"),
        "mirrored, 1 replica": functools.partial(make_step, "mirrored"),
    }
    for replicas in range(2, max(2, gpus) + 1):
        contenders[f"mirrored, {replicas} replicas"] = functools.partial(make_step, "mirrored", replicas)
    if not gpus and len(cores) > 1:
        contenders["multiworker, 2 processes"] = functools.partial(two_processes, cores)
        half = cores[: len(cores) // 2]
        contenders["one device, half of the cores"] = functools.partial(make_step, "one", cores=half)
    seconds = seconds_per_step(contenders, arguments.rounds, repeats=2)
    print_images_per_second(seconds, BATCH, reference="one device, no strategy")


if __name__ == "__main__":
    main()
