"""First contact and signs of life, between real processes without TensorFlow."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time

import pytest
from processes import environment, tf_configs

# Says when all have met, and then works without an end, or until it has read a line.
MEMBER = """
import sys, time
from convmixer_keras.training.processes import peers
from convmixer_keras.training.processes.workers import workers_of_tf_config
peers.BEAT, peers.SILENCE, peers.START, peers.PATIENCE = 0.1, 1.5, 1.5, float(sys.argv[1])
stopped = []
with peers.connected(workers_of_tf_config(), float(sys.argv[2]), "; go on", stopped.append) as others:
    print("met", flush=True)
    if sys.argv[3] == "asks":
        while not stopped:
            time.sleep(0.05)
        raise RuntimeError("the collectives were aborted")
    if sys.argv[3] == "computes":  # Without a break, and for longer than the silence.
        end = time.monotonic() + 4
        while time.monotonic() < end:
            sum(range(10_000))
    else:
        sys.stdin.readline()
print("done", flush=True)
"""


@contextlib.contextmanager
def members(count, patience=0.5, timeout=30, work="waits", configs=None):
    """So many processes that have not met yet."""
    with contextlib.ExitStack() as stack:
        processes = []
        for config in configs or tf_configs(count):
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", MEMBER, str(patience), str(timeout), work],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=environment(TF_CONFIG=config),
                )
            )
            stack.callback(process.kill)
            processes.append(process)
        yield processes


def last_line(process):
    errors = process.stderr.read()
    process.wait(20)
    return errors.splitlines()[-1]


@pytest.mark.parametrize(
    ("lost", "how", "work"),
    [
        (1, signal.SIGSTOP, "waits"),
        (0, signal.SIGKILL, "asks"),
        pytest.param(2, signal.SIGKILL, "waits", marks=pytest.mark.real),
        pytest.param(0, signal.SIGSTOP, "asks", marks=pytest.mark.real),
        pytest.param(2, signal.SIGSTOP, "asks", marks=pytest.mark.real),
        pytest.param(0, signal.SIGSTOP, "waits", marks=pytest.mark.real),
    ],
)
def test_a_lost_process_is_named_in_every_other(lost, how, work):
    """Training that hears of the loss ends by itself; what waits for something else is ended."""
    configs = tf_configs(3)
    with members(3, work=work, configs=configs, patience=0.5 if work == "waits" else 20) as processes:
        for process in processes:
            assert process.stdout.readline() == "met\n"
        processes[lost].send_signal(how)
        address = json.loads(configs[0])["cluster"]["worker"][lost]
        for process in processes:
            if process is not processes[lost]:
                assert last_line(process).endswith(f"lost worker {lost} ({address}); go on")
                assert process.returncode == 1


def test_a_process_that_was_stopped_and_goes_on_ends_as_well():
    with members(2) as (chief, other):
        assert chief.stdout.readline() == other.stdout.readline() == "met\n"
        other.send_signal(signal.SIGSTOP)
        assert "lost worker 1" in last_line(chief)
        other.send_signal(signal.SIGCONT)
        assert "lost worker 0" in last_line(other)


@pytest.mark.slow
def test_work_without_a_break_is_no_loss():
    with members(2, work="computes") as processes:
        for process in processes:
            assert process.communicate(timeout=30)[0] == "met\ndone\n"


def test_all_wait_for_the_last_to_end():
    with members(3) as processes:
        for process in processes:
            assert process.stdout.readline() == "met\n"
        for process in processes[:2]:
            process.stdin.write("\n")
            process.stdin.flush()
        time.sleep(2)
        assert [process.poll() for process in processes] == [None] * 3
        processes[2].stdin.write("\n")
        processes[2].stdin.flush()
        for process in processes:
            assert process.stdout.readline() == "done\n"
            assert process.wait(20) == 0


def test_one_that_never_starts_is_named_by_all():
    configs = tf_configs(3)
    with members(3, timeout=2, configs=configs[:2]) as processes:
        address = json.loads(configs[0])["cluster"]["worker"][2]
        for process in processes:
            assert last_line(process).endswith(f"worker 2 ({address}) did not start within 2 s")


def test_a_chief_that_never_starts_is_named():
    with members(1, timeout=1, configs=tf_configs(2)[1:]) as (process,):
        assert "worker 0 (127.0.0.1" in last_line(process)


def test_two_of_the_same_index():
    configs = tf_configs(3)
    with members(3, timeout=3, configs=[configs[0], configs[1], configs[1]]) as processes:
        lines = sorted(last_line(process).split(": ", 1)[1] for process in processes)
        assert lines[0] == "another process is worker 1 already: each needs its own index"
        assert all("worker 2 (" in line for line in lines[1:])


def test_one_that_died_before_all_had_met_may_come_again():
    configs = tf_configs(3)
    with members(3, configs=configs[:2]) as (chief, other):
        time.sleep(1)
        other.kill()
        with members(3, configs=configs[1:]) as again:
            for process in (chief, *again):
                assert process.stdout.readline() == "met\n"


def test_strangers_at_the_door_do_no_harm():
    configs = tf_configs(2)
    port = int(json.loads(configs[0])["cluster"]["worker"][0].rpartition(":")[2])
    with members(2, configs=configs[:1]) as (chief,):
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", port)) as stranger:
                    stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
                    break
            except OSError:
                time.sleep(0.05)
        with members(2, configs=configs[1:]) as (other,):
            assert chief.stdout.readline() == other.stdout.readline() == "met\n"


def test_an_address_in_use():
    configs = tf_configs(2)
    port = int(json.loads(configs[0])["cluster"]["worker"][0].rpartition(":")[2])
    with socket.create_server(("", port)), members(2, configs=configs[:1]) as (chief,):
        assert "worker 0 cannot listen at 127.0.0.1" in last_line(chief)
