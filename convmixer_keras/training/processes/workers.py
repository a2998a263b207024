"""Which processes train together: what TF_CONFIG or Slurm says of them."""

import contextlib
import json
import os
import subprocess
from typing import NamedTuple

from convmixer_keras.utils.errors import InputError, first_line

TF_CONFIG = '{"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": 0}}'


class Workers(NamedTuple):
    """The processes that train together, and which of them this one is.

    `addresses`: from the name of each, such as "worker 1", to its "host:port", in TensorFlow's order; empty
    where there is only this one. Number 0 is the chief: it alone writes files.
    """

    addresses: dict[str, str]
    index: int

    @property
    def count(self):
        return max(1, len(self.addresses))

    @property
    def is_chief(self):
        return self.index == 0

    @property
    def name(self):
        return list(self.addresses)[self.index]

    @property
    def chief(self):
        return next(iter(self.addresses))

    def named(self, name):
        return f"{name} ({self.addresses[name]})"


ALONE = Workers({}, 0)


def find_workers():
    """Returns the `Workers` of the environment: those of TF_CONFIG, or else the tasks of a Slurm job step.

    `ALONE` where there are neither, where TF_CONFIG names no cluster (as hosted notebooks set it), and for a
    single task.
    """
    if text := os.environ.get("TF_CONFIG"):
        return workers_of_tf_config(text)
    if os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        return workers_of_slurm()
    return ALONE


def workers_of_tf_config(text):
    """Returns the `Workers` that a value of the environment variable TF_CONFIG lists."""
    usable = False
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
        config = json.loads(text)
        cluster = config.get("cluster") or {}
        if not cluster:
            return ALONE
        job, index = config["task"]["type"], int(config["task"]["index"])
        others = {job, *(name for name in cluster if cluster[name])} - {"chief", "worker"}
        addresses = {
            f"{name} {i}": address
            for name in ("chief", "worker")
            for i, address in enumerate(cluster.get(name, []))
        }
        places = [host_and_port(address)[1] for address in addresses.values()]
        usable = others or (f"{job} {index}" in addresses and all(0 < port < 65536 for port in places))
    if not usable:
        raise InputError(
            f"the environment variable TF_CONFIG must be {TF_CONFIG}, the index from 0 and another one in "
            f"each process, got {text!r}"
        )
    if others:
        raise InputError(
            f"TF_CONFIG has the job {min(others)!r}; only 'chief' and 'worker' can train together"
        )
    if len(set(addresses.values())) < len(addresses):
        raise InputError(f"TF_CONFIG must list each address once, got {', '.join(addresses.values())}")
    return Workers(addresses, list(addresses).index(f"{job} {index}"))


def workers_of_slurm():
    """Returns the tasks of the Slurm job step that this process is one of, as `Workers`.

    The ports follow from the number of the job, so that two jobs on one machine do not clash.
    (TensorFlow's `SlurmClusterResolver` fails without GPUs, and sorts node10 before node2.)
    """
    try:
        tasks, index, node, job, step = (
            int(os.environ[f"SLURM_{name}"])
            for name in ("STEP_NUM_TASKS", "PROCID", "NODEID", "JOB_ID", "STEP_ID")
        )
        names = os.environ["SLURM_STEP_NODELIST"]
        counts = _counts(os.environ["SLURM_STEP_TASKS_PER_NODE"])
        command = ["scontrol", "show", "hostnames", names]
        hosts = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    except (KeyError, ValueError, OSError, subprocess.CalledProcessError) as error:
        raise InputError(f"the tasks of this Slurm job are unknown: {first_line(error)}") from None
    port = 20_000 + (97 * job + 13 * step) % 10_000
    places = [(host, i) for host, count in zip(hosts, counts, strict=False) for i in range(count)]
    if len(places) != tasks or places[index][0] != hosts[node]:
        raise InputError("Slurm must start the tasks one node after the other: srun --distribution=block")
    addresses = {f"worker {i}": f"{host}:{port + place}" for i, (host, place) in enumerate(places)}
    return Workers(addresses, index)


def _counts(text):
    """Reads Slurm's "2(x3),1" as [2, 2, 2, 1]."""
    found = []
    for part in text.split(","):
        count, _, repeats = part.rstrip(")").partition("(x")
        found += [int(count)] * int(repeats or 1)
    return found


def host_and_port(address):
    """Splits "host:port" or "[IPv6 address]:port"; ValueError for anything else."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
