"""How processes meet before TensorFlow starts: real ones, in which it never does."""

import contextlib
import json
import socket
import subprocess
import sys
import time

import pytest
import tensorflow as tf
from processes import environment, tf_configs

from convmixer_keras.training.processes import peers
from convmixer_keras.training.processes.workers import Workers

# Says that all have met; one may refuse, as the chief where its folder holds a run.
MEMBER = """
import sys
for name in ("tensorflow", "tensorflow.python.eager"):  # Not needed to meet, and slow to import.
    sys.modules[name] = type(sys)(name)
sys.modules["tensorflow.python.eager"].context = None
from convmixer_keras.training.processes import peers
from convmixer_keras.training.processes.workers import find_workers
from convmixer_keras.utils.errors import InputError
workers = find_workers()
with peers.meeting(workers, float(sys.argv[1])):
    if workers.name == sys.argv[4] and sys.argv[2]:
        raise getattr(__import__("builtins"), sys.argv[3], InputError)(sys.argv[2])
print("met", flush=True)
"""


@contextlib.contextmanager
def members(configs, timeout=30, refusal="", kind="InputError", whose="worker 0"):
    """A process for each TF_CONFIG; one of them may refuse."""
    with contextlib.ExitStack() as stack:
        processes = []
        for config in configs:
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", MEMBER, str(timeout), refusal, kind, whose],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=environment(TF_CONFIG=config),
                )
            )
            stack.callback(process.kill)
            processes.append(process)
        yield processes


def assert_met(processes):
    for process in processes:
        output, errors = process.communicate(timeout=60)
        assert output == "met\n", errors


def test_one_that_never_starts_is_named_by_all():
    configs = tf_configs(3)
    address = json.loads(configs[0])["cluster"]["worker"][2]
    with members(configs[:2], timeout=2) as processes:
        for process in processes:
            errors = process.communicate(timeout=60)[1]
            assert f"PeerLost: worker 2 ({address}) did not start within 2 s" in errors


def test_a_chief_that_never_starts_is_named():
    with members(tf_configs(2)[1:], timeout=1) as (process,):
        assert "PeerLost: worker 0 (127.0.0.1" in process.communicate(timeout=60)[1]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("InputError", "InputError: run already holds a run"),
        ("OSError", r"PeerLost: worker 0 (127.0.0.1:{port}): run already holds a run"),
    ],
)
def test_what_the_chief_refuses_all_refuse(kind, expected):
    configs = tf_configs(3)
    port = json.loads(configs[0])["cluster"]["worker"][0].rpartition(":")[2]
    with members(configs, refusal="run already holds a run", kind=kind) as processes:
        for process in processes[1:]:
            assert expected.format(port=port) in process.communicate(timeout=60)[1]
        assert f"{kind}: run already holds a run" in processes[0].communicate(timeout=60)[1]


def test_what_another_refuses_ends_all():
    """At once, and not after the time that the chief would wait for it."""
    configs = tf_configs(3)
    address = json.loads(configs[0])["cluster"]["worker"][2]
    with members(configs, refusal="there is no file a.keras", whose="worker 2", timeout=500) as processes:
        for process in processes[:2]:
            errors = process.communicate(timeout=60)[1]
            assert f"PeerLost: worker 2 ({address}): there is no file a.keras" in errors
        assert "InputError: there is no file a.keras" in processes[2].communicate(timeout=60)[1]


def test_two_of_the_same_index():
    configs = tf_configs(3)
    with members([configs[0], configs[1], configs[1]], timeout=4) as processes:
        errors = sorted(process.communicate(timeout=60)[1].splitlines()[-1] for process in processes)
        assert sum("another process is worker 1 already: each needs its own index" in e for e in errors) == 1
        assert sum("worker 2 (" in e for e in errors) == 2


def test_one_that_died_before_all_had_met_may_come_again():
    configs = tf_configs(3)
    with members(configs[:2]) as (chief, other):
        time.sleep(1)
        other.kill()
        with members(configs[1:]) as again:
            assert_met([chief, *again])


def test_strangers_at_the_door_do_no_harm():
    configs = tf_configs(2)
    port = int(json.loads(configs[0])["cluster"]["worker"][0].rpartition(":")[2])
    with members(configs[:1]) as (chief,):
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", port)) as stranger:
                    stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
                    break
            except OSError:
                time.sleep(0.05)
        with members(configs[1:]) as (other,):
            assert_met([chief, other])


def test_an_address_in_use():
    configs = tf_configs(2)
    port = int(json.loads(configs[0])["cluster"]["worker"][0].rpartition(":")[2])
    with socket.create_server(("", port)), members(configs[:1]) as (chief,):
        assert "worker 0 cannot listen at 127.0.0.1" in chief.communicate(timeout=60)[1]


WORKERS = ["a:1", "b:2", "c:3"]
RESET = (
    "Collective ops is aborted by: recvmsg:Connection reset by peer\nAdditional GRPC error information from "
    "remote target /job:worker/replica:0/task:{0} while calling /tensorflow.WorkerService/RecvBuf:\n"
)
UNHEALTHY = (
    "Error reported from /job:worker/task:{0}: The following tasks are unhealthy (stopped sending "
    "heartbeats):\n/job:worker/replica:0/task:{0}\nThe tasks have crashed."
)
UNREACHABLE = (
    "Collective ops is aborted by: Deadline Exceeded\n\nRPC: /tensorflow.CoordinationService/Heartbeat"
)


@pytest.mark.parametrize(
    ("own", "message", "lost"),
    [
        (0, RESET.format(2) + RESET.format(1), "worker 2 (c:3)"),  # Worker 1 hands on what it heard.
        (1, RESET.format(0), "worker 0 (a:1)"),
        (0, UNHEALTHY.format(1), "worker 1 (b:2)"),
        (2, UNREACHABLE, "worker 0 (a:1)"),
        (1, UNHEALTHY.format(1) + RESET.format(0), "worker 0 (a:1)"),  # Stopped, and woken too late.
        (2, f"aborted by: {peers.GREETING}worker 1 (b:2): a.jpg is bad\nand", "worker 1 (b:2): a.jpg is bad"),
        (0, "No such file", None),
        (0, UNREACHABLE, None),
    ],
)
def test_tensorflows_words_for_a_lost_process(own, message, lost):
    """As it wrote them where three processes trained and one was stopped or killed."""
    workers = Workers({f"worker {i}": address for i, address in enumerate(WORKERS)}, own)
    error = tf.errors.UnavailableError(None, None, message)
    expected = peers.PeerLost if lost else tf.errors.UnavailableError
    with pytest.raises(expected) as found, peers.losses_named(workers, "runs/x"):
        raise error
    if lost:
        words = f"lost {lost}; start every process again, with resume=True output="
        assert str(found.value).startswith(words)
