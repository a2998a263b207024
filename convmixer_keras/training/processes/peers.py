"""The other processes of a run: all meet before TensorFlow starts, and a lost one is named.

While they train, TensorFlow's coordination service watches them: each process sends the chief signs of life
from a thread of C++, so that a step, an input or a checkpoint may take any time. A process that is killed
ends the others' next exchange at once, one that is stopped or cut off after ten seconds.
"""

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time

import tensorflow as tf
from tensorflow.python.eager import context

from convmixer_keras.training.processes.workers import host_and_port
from convmixer_keras.utils.errors import Failure, InputError, arg, first_line

GREETING = "convmixer-keras "
LAST_WORDS_SECONDS = 15  # The chief may still be starting.


class PeerLost(Failure):
    """Another process of the run is gone; the message names it."""


@contextlib.contextmanager
def losses_named(workers, output, shared_errors=()):
    """Within this block, TensorFlow's error about a lost process becomes a `PeerLost`.

    Of an error of this process the others are told, but for `shared_errors`, which all of them raise.
    """
    try:
        yield
    except shared_errors:
        raise
    except Exception as error:
        if workers.count == 1:
            raise
        lost = _lost(workers, error.message) if isinstance(error, tf.errors.OpError) else None
        if lost is None:
            with contextlib.suppress(tf.errors.OpError, ValueError):  # Not connected yet, or no more.
                text = f"{GREETING}{workers.named(workers.name)}: {first_line(error)}"
                context.context().report_error_to_cluster(tf.errors.ABORTED, text)
            raise
        raise PeerLost(
            f"lost {lost}; start every process again, with {arg('resume', True)} {arg('output', output)} "
            "where that has a checkpoint"
        ) from None


def _lost(workers, message):
    """Reads in TensorFlow's words which process is lost, and what it reported; None if they say none."""
    if GREETING in message:
        return first_line(message.partition(GREETING)[2])
    # What a process hands on of another's error it puts behind that error's own words.
    for job, index in re.findall(r"/job:(\w+)(?:/replica:\d+)?/task:(\d+)", message):
        if (name := f"{job} {index}") in workers.addresses and name != workers.name:
            return workers.named(name)
    # The calls to the service that the chief runs.
    unreachable = "CoordinationService" in message and not workers.is_chief
    return workers.named(workers.chief) if unreachable else None


@contextlib.contextmanager
def start_limited(workers, timeout):
    """Ends this process where the block, in which TensorFlow connects the processes, takes too long.

    Meanwhile TensorFlow stops every other thread and hears no signal, so that it takes a further process.
    """
    others = " or ".join(workers.named(name) for name in workers.addresses if name != workers.name)
    message = f"error: TensorFlow did not reach {others} within {timeout:g} s"
    arguments = [str(timeout), str(os.getpid()), message]
    heard_before = signal.getsignal(signal.SIGTERM)
    with subprocess.Popen([sys.executable, "-S", "-c", _END_PARENT, *arguments], stdin=subprocess.PIPE):
        yield
    if threading.current_thread() is threading.main_thread():  # TensorFlow now ignores this signal.
        signal.signal(signal.SIGTERM, heard_before)


# Ends the process that started it unless its input is closed in time.
_END_PARENT = """
import os, select, signal, sys
if not select.select([0], [], [], float(sys.argv[1]))[0]:
    print(sys.argv[3], file=sys.stderr, flush=True)
    os.kill(int(sys.argv[2]), signal.SIGKILL)
"""


@contextlib.contextmanager
def meeting(workers, timeout):
    """Waits until every process is here. What the chief refuses in the block, all refuse.

    They meet at the address where the chief's TensorFlow listens afterwards: there is no further port to open
    in a firewall. A process that does not come within `timeout` seconds is a `PeerLost`.
    """
    if workers.count == 1:
        yield
    elif workers.is_chief:
        with contextlib.ExitStack() as connections:
            met = _gather(workers, time.monotonic() + timeout, timeout, connections)
            try:
                yield
            except BaseException as error:
                kind = "refused" if isinstance(error, InputError) else f"lost {workers.named(workers.chief)}:"
                _send(met, f"{kind} {error}")
                raise
            _send(met, "go")
    else:
        try:
            yield
        except Exception as error:
            _tell_chief(workers, error)
            raise
        _join_chief(workers, time.monotonic() + timeout, timeout)


def _gather(workers, deadline, timeout, connections):
    """Returns a dictionary from the connected sockets to the names of the other processes."""
    address = workers.addresses[workers.chief]
    host, port = host_and_port(address)
    missing, met, refused = set(workers.addresses) - {workers.chief}, {}, None
    try:
        family = socket.getaddrinfo(host, port)[0][0]
        server = socket.create_server(("", port), family=family)
    except OSError as error:
        raise InputError(f"{workers.chief} cannot listen at {address}: {error.strerror}") from None
    with server:
        while missing:
            left = deadline - time.monotonic()
            if left < 0 and refused:
                break
            if left < 0:
                names = " or ".join(map(workers.named, sorted(missing)))
                _send(met, f"lost {names} did not start within {timeout:g} s")
                raise PeerLost(f"{names} did not start within {timeout:g} s")
            for ready in select.select([server, *met], [], [], min(left, 1))[0]:
                if ready is not server:  # One that had come is gone; it may come again.
                    missing.add(met.pop(ready))
                    ready.close()
                    continue
                connection = connections.enter_context(server.accept()[0])
                name, _, error = _read_line(connection, timeout=2).removeprefix(GREETING).partition(": ")
                if error and name in missing:  # Those that are still starting shall hear it, too.
                    refused = f"{workers.named(name)}: {error}"
                    deadline = min(deadline, time.monotonic() + LAST_WORDS_SECONDS)
                    missing.discard(name)
                elif name in missing:
                    met[connection] = name
                    missing.discard(name)
                elif name in workers.addresses:
                    taken = f"another process is {name} already: each needs its own index"
                    _send([connection], f"refused {taken}")
                    connection.close()
                else:
                    connection.close()
    if refused:
        _send(met, f"lost {refused}")
        raise PeerLost(refused)
    return met


def _tell_chief(workers, error):
    """Tells the chief, if it listens within some seconds, why this process ends before it has joined."""
    chief = workers.addresses[workers.chief]
    deadline = time.monotonic() + LAST_WORDS_SECONDS
    while time.monotonic() < deadline:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(host_and_port(chief), timeout=5) as connection,
        ):
            _send([connection], f"{GREETING}{workers.name}: {first_line(error)}")
            return
        time.sleep(0.2)


def _join_chief(workers, deadline, timeout):
    chief = workers.addresses[workers.chief]
    while True:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(host_and_port(chief), timeout=5) as connection,
        ):
            _send([connection], GREETING + workers.name)
            # The chief says itself when it has waited for too long.
            answer = _read_line(connection, timeout=max(0, deadline - time.monotonic()) + 15)
            kind, _, text = answer.partition(" ")
            if kind == "go":
                return
            if kind in ("refused", "lost"):
                raise (InputError if kind == "refused" else PeerLost)(text)
        if time.monotonic() > deadline:
            raise PeerLost(f"{workers.named(workers.chief)} did not start within {timeout:g} s")
        time.sleep(0.2)


def _read_line(connection, timeout):
    """Reads a line of at most some thousand bytes; "" where the other end does not send one."""
    connection.settimeout(timeout)
    line = b""
    with contextlib.suppress(OSError):
        while not line.endswith(b"\n") and len(line) < 4096:
            if not (received := connection.recv(4096)):
                return ""
            line += received
    return line.decode(errors="replace").strip()


def _send(connections, line):
    for connection in connections:
        with contextlib.suppress(OSError):  # Whoever waits for it tells of the loss.
            connection.sendall(f"{' '.join(line.split())}\n".encode())
