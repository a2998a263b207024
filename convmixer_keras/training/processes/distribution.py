"""Training on several devices and machines: which `tf.distribute` strategy, and who gets which images.

A strategy runs replicas of the model, each on its part of every batch. What they tell each other in a step is
in `step/replicas.py`.
"""

import contextlib
import dataclasses
import os
import socket
import zlib

import keras
import tensorflow as tf
from tensorflow.python.distribute import cross_device_utils

from convmixer_keras.training.processes import peers
from convmixer_keras.training.processes.workers import ALONE, TF_CONFIG, find_workers
from convmixer_keras.utils.errors import InputError, arg, first_line
from convmixer_keras.utils.files import sha256_of
from convmixer_keras.utils.text import one_line

TPU_SECONDS = 20  # How long to wait for the answer of a TPU, or of the service that knows its address.


def choose_strategy(name="auto"):
    """Returns the strategy of a run, one of `--strategy` but "auto", and its `Workers`; starts nothing.

    "mirrored" takes all GPUs of this machine, or where it has none its logical CPUs; "multiworker" the
    processes of TF_CONFIG or of a Slurm job; "tpu" the one of this machine or of TPU_NAME.
    """
    if name == "auto":
        name = _best_strategy()
    if name != "multiworker":
        return name, ALONE
    workers = find_workers()
    if not workers.addresses:
        raise InputError(
            "strategy multiworker needs several processes: tasks of a Slurm job, or the environment variable "
            f"TF_CONFIG as {TF_CONFIG}"
        )
    return name, workers


def start_strategy(name, workers=ALONE, timeout=600):
    """Makes what `choose_strategy` chose, before anything else of TensorFlow runs.

    TensorFlow would wait for other processes for ever; this gives up after `timeout` seconds.
    """
    if name == "one":
        return tf.distribute.get_strategy()
    if name == "tpu":
        return _tpu_strategy()
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    # By default TensorFlow gives every exchange of every step a key of its own, and keeps what it notes about
    # each in memory: 1.6 kB, which is 39 kB a step for a network of one block with synchronised BatchNorm.
    cross_device_utils.CollectiveReplicaLauncher._prefer_unique_instance_key = False
    with peers.start_limited(workers, timeout):
        return tf.distribute.MultiWorkerMirroredStrategy(_cluster_resolver(workers))


def _cluster_resolver(workers):
    jobs = {}
    for name, address in workers.addresses.items():
        jobs.setdefault(name.split()[0], []).append(address)
    job, index = workers.name.split()
    return tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec(jobs), task_type=job, task_id=int(index), rpc_layer="grpc"
    )


def _best_strategy():
    if tf.config.list_physical_devices("TPU") or os.environ.get("TPU_NAME"):
        return "tpu"
    if find_workers().count > 1:
        return "multiworker"
    return "mirrored" if len(tf.config.list_physical_devices("GPU")) > 1 else "one"


def _tpu_strategy():
    name = os.environ.get("TPU_NAME") or "local"
    try:
        with _answering_within(TPU_SECONDS):
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
            address = resolver.master().removeprefix("grpc://")
            if address:  # TensorFlow waits forever for one that does not answer.
                host, _, port = address.rpartition(":")
                socket.create_connection((host.strip("[]"), int(port))).close()
        if address:
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except (ValueError, TypeError, OSError, RuntimeError, tf.errors.OpError) as error:
        raise InputError(
            f"strategy tpu needs a TPU, here or named by TPU_NAME, which is {name!r}: "
            f"{one_line(first_line(error), 200)}"
        ) from None


@contextlib.contextmanager
def _answering_within(seconds):
    """Within this block, connections that set no limit of their own wait for so many seconds."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def summary(name, workers, replicas, batch_size, passes=1):
    """Returns a line about replicas and their images; raises InputError if they cannot share a batch."""
    if batch_size % (replicas * passes):
        parts = f"{replicas} replicas" + (f" times {passes} passes" if passes > 1 else "")
        raise InputError(f"{arg('batch_size')} must be a multiple of the {parts}, got {batch_size}")
    process = f", {workers.name} of {workers.count}" if workers.addresses else ""
    part = f"{passes} times " if passes > 1 else ""
    return (
        f"strategy {name}{process}: {replicas} {'replica' if replicas == 1 else 'replicas'} of "
        f"{part}{batch_size // replicas // passes} images, {batch_size} in a step"
    )


def distribute(strategy, batches, steps, batch_size):
    """Returns what `fit` takes: a worker's part of each batch (`batches`), shared among its replicas."""
    if strategy is tf.distribute.get_strategy():
        return batches
    replicas = strategy.num_replicas_in_sync
    shared = strategy.distribute_datasets_from_function(lambda _: batches.rebatch(batch_size // replicas))
    # What Keras takes for the number of steps. TensorFlow does not know it, and beyond the end Keras would
    # train on made-up images before it stops.
    shared._cardinality = steps
    return shared


def broadcast(strategy, variables):
    """Gives every worker the chief's values of a list of variables, the same on every worker."""
    variables = [v.value if isinstance(v, keras.Variable) else v for v in variables]

    @tf.function
    def values_of_first_replica():
        def replica():
            context = tf.distribute.get_replica_context()
            is_first = context.replica_id_in_sync_group == 0
            kept = [tf.where(is_first, v, tf.zeros_like(v)) for v in map(tf.convert_to_tensor, variables)]
            return [context.all_reduce(tf.distribute.ReduceOp.SUM, value) for value in kept]

        return strategy.run(replica)

    for variable, value in zip(variables, values_of_first_replica(), strict=True):
        variable.assign(strategy.experimental_local_results(value)[0])


def check_same(strategy, workers, recipe, settings, resume):
    """Raises InputError unless this worker has the chief's recipe, settings and weights to start from."""
    if workers.count == 1:
        return
    # Each machine may keep weights and images at a path of its own; the weights of a resumed run are in its
    # checkpoint.
    body = None if resume else settings.init_from
    if body and os.path.isfile(body):
        body = sha256_of(body)
    recipe = dataclasses.replace(recipe, dataset=os.path.basename(recipe.dataset))
    settings = dataclasses.replace(settings, init_from=None, data_dir=None)
    if not _is_the_chiefs(strategy, (recipe, settings, resume, body)):
        raise InputError(f"{workers.name} must be given the same flags as {workers.chief}")


def check_same_data(strategy, workers, facts):
    """Raises InputError unless this worker has the chief's images, as far as `resume.facts` tells."""
    if workers.count > 1 and not _is_the_chiefs(strategy, facts):
        raise InputError(
            f"{workers.name} has other images or classes than {workers.chief}, by their names or sizes"
        )


def _is_the_chiefs(strategy, value):
    """Whether a value reads the same in the chief; to be called in every process."""
    own = zlib.crc32(repr(value).encode())
    chiefs = tf.Variable(own, dtype=tf.int64)
    broadcast(strategy, [chiefs])
    return int(chiefs) == own
