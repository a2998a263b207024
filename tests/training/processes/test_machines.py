"""What one machine can show of several: a Slurm cluster, a network that is cut, a long run."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
import slurm_cluster
from conftest import ROOT
from processes import COMMAND, environment, started, tf_configs, wait_for

pytestmark = pytest.mark.real

SMALL = ["--hidden-dim", "8", "--depth", "1", "--batch-size", "128"]


@pytest.fixture
def cluster(tmp_path):
    if reason := slurm_cluster.missing():
        pytest.skip(reason)
    (tmp_path / "slurm").mkdir()
    with slurm_cluster.slurm_cluster(tmp_path / "slurm") as variables:
        yield {**environment(), **variables}


def test_slurm_tasks_train_together(cluster, tmp_path):
    """No TF_CONFIG and no flag. A second job is ended by SIGTERM, and a third continues it."""
    train = ["srun", "--ntasks=2", "--label", *COMMAND, *SMALL]
    done = subprocess.run(
        [*train, "--epochs", "2"], cwd=tmp_path, env=cluster, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for i in range(2):
        assert f"{i}: strategy multiworker, worker {i} of 2: 2 replicas of 64 images" in done.stdout
    assert done.stdout.count("Epoch 2/2: ") == 1
    assert len((tmp_path / "runs/digits/history.csv").read_text().splitlines()) == 3

    long = [*train, "--epochs", "400", "--output", "long"]
    with started(long, tmp_path, **cluster) as job:
        wait_for((tmp_path / "long/checkpoint.weights.h5").exists, job)
        subprocess.run(["scancel", "--signal=TERM", "2"], env=cluster, check=True)
        _, errors = job.communicate(timeout=60)
    assert job.returncode == 143, errors
    assert len(re.findall("terminated: ended in epoch", errors)) == 2
    before = len((tmp_path / "long/history.csv").read_text().splitlines()) - 1
    assert 1 <= before < 400
    with started([*long, "--resume"], tmp_path, **cluster) as job:
        wait_for(lambda: len((tmp_path / "long/history.csv").read_text().splitlines()) - 1 > before + 1, job)
        job.send_signal(signal.SIGTERM)  # srun hands it on.
        job.communicate(timeout=60)


@pytest.fixture
def namespaces():
    """Two network namespaces joined by a cable: their names."""
    if os.getuid() != 0 or not shutil.which("ip"):
        pytest.skip("needs root and iproute2")
    names = [f"convmixer{os.getpid()}{letter}" for letter in "ab"]
    ends = [f"cm{os.getpid() % 100_000}{letter}" for letter in "ab"]

    def ip(*arguments, check=True):
        return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=check)

    with contextlib.ExitStack() as stack:
        for name in names:
            if ip("netns", "add", name, check=False).returncode:
                pytest.skip("needs the right to make network namespaces")
            stack.callback(ip, "netns", "del", name)
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for i, (name, end) in enumerate(zip(names, ends, strict=True)):
            ip("link", "set", end, "netns", name)
            ip("-n", name, "addr", "add", f"10.77.0.{i + 1}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names, lambda: ip("-n", names[1], "link", "set", ends[1], "down")


def test_a_network_that_is_cut(namespaces, tmp_path):
    """The cable is pulled in the middle of training: each of the two names the other within 30 seconds."""
    names, cut = namespaces
    addresses = ["10.77.0.1:2222", "10.77.0.2:2222"]
    with contextlib.ExitStack() as stack:
        processes = []
        for i, name in enumerate(names):
            config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}}
            command = ["ip", "netns", "exec", name, *COMMAND, *SMALL, "--epochs", "5000", "--output", str(i)]
            processes.append(stack.enter_context(started(command, tmp_path, TF_CONFIG=json.dumps(config))))
        wait_for((tmp_path / "0/checkpoint.weights.h5").exists, processes[0])
        cut()
        began = time.monotonic()
        for i, process in enumerate(processes):
            _, errors = process.communicate(timeout=began + 30 - time.monotonic())
            assert process.returncode == 1, errors
            lost = 1 - i
            assert f"error: lost worker {lost} ({addresses[lost]}); start" in errors.splitlines()[-1]


# Trains as the command does; the input of one process takes a rest in the second epoch.
SLOW_INPUT = """
import sys, time
import keras
from convmixer_keras.commands import train
from convmixer_keras.training import trainer

class Rest(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        if self.rests and batch == 5:
            self.rests = False
            time.sleep(float(sys.argv[1]))

whole_train = trainer.train
def train_with_rest(*arguments, **options):
    rest = Rest()
    rest.rests = True
    return whole_train(*arguments, callbacks=[rest], **options)
trainer.train = train_with_rest
sys.exit(train.main(sys.argv[2:]))
"""


def test_three_minutes_without_a_step_are_no_loss(tmp_path):
    arguments = [*SMALL, "--epochs", "2", "--output"]
    configs = tf_configs(2)
    slow = [sys.executable, "-c", SLOW_INPUT, "185"]
    with (
        started([*slow, *arguments, "b"], tmp_path, PYTHONPATH=str(ROOT), TF_CONFIG=configs[1]) as other,
        started([*COMMAND, *arguments, "a"], tmp_path, TF_CONFIG=configs[0]) as chief,
    ):
        _, errors = chief.communicate(timeout=500)
        assert chief.returncode == 0, errors
        assert other.wait(60) == 0


def vitals(process):
    """Threads, memory in MB and open files of a process."""
    lines = pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    files = len(os.listdir(f"/proc/{process.pid}/fd"))
    return int(status["Threads"]), int(status["VmRSS"].split()[0]) / 1000, files


def test_three_thousand_steps_leave_nothing_behind(tmp_path):
    """19 epochs of 179 steps in two processes, which hold at the end what they held after 358 steps."""
    arguments = ["--hidden-dim", "4", "--depth", "1", "--epochs", "19", "--batch-size", "8"]
    configs = tf_configs(2)

    def epochs():
        history = tmp_path / "a/history.csv"
        return len(history.read_text().splitlines()) - 1 if history.exists() else 0

    def most_of_an_epoch(epoch, processes):
        """The largest vitals of each process while an epoch runs: threads come and go with its phases."""
        wait_for(lambda: epochs() >= epoch, processes[0], seconds=3000)
        found = []
        while epochs() == epoch:
            found.append([vitals(process) for process in processes])
            time.sleep(0.2)
        return np.max(found, axis=0)

    with (
        started([*COMMAND, *arguments, "--output", "b"], tmp_path, TF_CONFIG=configs[1]) as other,
        started([*COMMAND, *arguments, "--output", "a"], tmp_path, TF_CONFIG=configs[0]) as chief,
    ):
        early, late = (most_of_an_epoch(epoch, [chief, other]) for epoch in (2, 17))
        _, errors = chief.communicate(timeout=120)
        assert chief.returncode == 0, errors
        assert other.wait(60) == 0
    with h5py.File(tmp_path / "a/checkpoint.weights.h5") as file:
        assert int(file.attrs["epochs"]) == 19
    print("threads, MB, open files after 358 and 3,043 steps:", early.tolist(), late.tolist())
    np.testing.assert_allclose(late, early, rtol=0.05, atol=3)
