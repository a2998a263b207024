"""Where the processes of a run are written down."""

import json
import subprocess

import pytest
from processes import tf_configs

from convmixer_keras.training.processes import distribution, workers


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch):
    for name in ("TF_CONFIG", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)


def test_tf_config(monkeypatch):
    assert workers.find_workers() is workers.ALONE
    monkeypatch.setenv("TF_CONFIG", tf_configs(1)[0])
    assert workers.find_workers().count == 1
    cluster = {"chief": ["a:1"], "worker": ["b:2", "c:3"]}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 0}}))
    found = workers.find_workers()
    assert (found.name, found.index, found.is_chief, found.chief) == ("worker 0", 1, False, "chief 0")
    assert found.addresses == {"chief 0": "a:1", "worker 0": "b:2", "worker 1": "c:3"}


@pytest.mark.parametrize(
    "config",
    ["", "{}", '{"cluster": {}}', '{"environment": "cloud", "task": {"type": "worker", "index": 0}}'],
)
def test_a_tf_config_without_a_cluster(monkeypatch, config):
    """As hosted notebooks and jobs of a single process set it."""
    monkeypatch.setenv("TF_CONFIG", config)
    assert distribution.choose_strategy("auto")[1] is workers.ALONE
    with pytest.raises(ValueError, match="strategy multiworker needs several processes"):
        distribution.choose_strategy("multiworker")


@pytest.mark.parametrize(
    ("cluster", "job"),
    [({"worker": ["a:1"], "ps": ["b:2"]}, "worker"), ({"chief": ["a:1"], "worker": ["b:2"]}, "evaluator")],
)
def test_other_jobs(monkeypatch, cluster, job):
    config = {"cluster": cluster, "task": {"type": job, "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    with pytest.raises(ValueError, match=r"TF_CONFIG has the job '(ps|evaluator)'; only 'chief'"):
        distribution.choose_strategy("auto")


@pytest.mark.parametrize(
    "config",
    [
        "{",
        "[]",
        '{"cluster": {"worker": ["a:1"]}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": ["nowhere"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:0"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:999999"]}, "task": {"type": "worker", "index": 0}}',
    ],
)
def test_a_tf_config_that_cannot_be_used(monkeypatch, config):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(ValueError, match="the environment variable TF_CONFIG must be"):
        workers.find_workers()


def test_the_same_address_twice(monkeypatch):
    config = {"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    with pytest.raises(ValueError, match="TF_CONFIG must list each address once, got a:1, a:1"):
        workers.find_workers()


@pytest.mark.parametrize(
    ("address", "expected"), [("host:2222", ("host", 2222)), ("[fe80::1]:22", ("fe80::1", 22))]
)
def test_addresses(address, expected):
    assert workers.host_and_port(address) == expected


SLURM = {
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_PROCID": "3",
    "SLURM_NODEID": "1",
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "node[2,10-11]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
}


@pytest.fixture
def slurm(monkeypatch, tmp_path):
    """The variables of a task, for the `scontrol` of this machine."""
    config = tmp_path / "slurm.conf"
    config.write_text("ClusterName=tests\nSlurmctldHost=localhost\n")
    monkeypatch.setenv("SLURM_CONF", str(config))
    try:
        done = subprocess.run(["scontrol", "show", "hostnames", "a[1-2]"], capture_output=True, text=True)
    except OSError:
        pytest.skip("needs Slurm's scontrol (Debian: slurm-client)")
    if done.stdout.split() != ["a1", "a2"]:
        pytest.skip(f"scontrol does not work here: {done.stderr}")
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)


def test_slurm(slurm):
    found = workers.find_workers()
    assert list(found.addresses) == [f"worker {i}" for i in range(5)]
    hosts = [workers.host_and_port(address)[0] for address in found.addresses.values()]
    assert hosts == ["node2", "node2", "node10", "node10", "node11"]
    ports = [workers.host_and_port(address)[1] for address in found.addresses.values()]
    assert ports[1] - ports[0] == ports[3] - ports[2] == 1
    assert 20_000 <= min(ports) <= max(ports) < 30_100
    assert found.name == "worker 3"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SLURM_NODEID": "2"}, "srun --distribution=block"),
        ({"SLURM_STEP_NUM_TASKS": "4"}, "srun --distribution=block"),
        ({"SLURM_PROCID": "three"}, "the tasks of this Slurm job are unknown"),
        ({"SLURM_STEP_TASKS_PER_NODE": ""}, "the tasks of this Slurm job are unknown"),
    ],
)
def test_a_slurm_job_that_cannot_be_used(slurm, monkeypatch, changes, message):
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        workers.find_workers()


def test_tf_config_comes_before_slurm(slurm, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", tf_configs(2)[1])
    assert workers.find_workers().name == "worker 1"


def test_a_single_task(monkeypatch):
    """No names of machines are needed, nor `scontrol`, which containers do not have."""
    for name, value in {**SLURM, "SLURM_STEP_NUM_TASKS": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", "")
    assert workers.find_workers() is workers.ALONE
