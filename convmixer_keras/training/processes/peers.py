"""Signs of life between the processes of a run, so that each learns soon, and by name, which one is gone.

Every process keeps a connection to the chief, opened at first contact at the address where TensorFlow
listens afterwards: there is no further port to open in a firewall. A thread sends an empty line each second.
A connection that ends, or is silent for `SILENCE` seconds, is a lost process. The chief tells the others
which one. How long a step, an input or a checkpoint takes does not matter.
"""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time

from convmixer_keras.training.processes.workers import host_and_port
from convmixer_keras.utils.errors import Failure, InputError

BEAT = 1  # Seconds between two signs of life.
SILENCE = 15  # Seconds without one after which a process is lost.
START = 60  # The same while TensorFlow connects the processes: no other thread runs meanwhile.
PATIENCE = 5  # Seconds that training has to end by itself once a process is lost.
GREETING = "convmixer-keras "


class PeerLost(Failure):
    """Another process of the run is gone; the message names it."""


@contextlib.contextmanager
def connected(workers, timeout, advice="", on_loss=lambda message: None, symptoms=(), shared_errors=()):
    """Waits for all processes of a run; within the block, a loss of one ends the others.

    On a loss, `on_loss` is called, which should make the block fail. An error of the block is then replaced
    by `PeerLost`. Where the block has not ended after `PATIENCE` seconds, as when it waits within TensorFlow
    or for an image, the process itself is ended, after the message was printed.

    At the end of the block every process waits for the others to reach it, too.

    Args:
        workers: The `Workers`.
        timeout: For how many seconds to wait for the others to start.
        advice: What to add to the message, such as the command that goes on.
        on_loss: Function of the message, called in a thread of its own.
        symptoms: Exceptions that may come of a loss, before a connection is known to have ended.
        shared_errors: Exceptions that end the block in every process alike, and so are no loss of one.

    Yields:
        The `Peers`, or None where this process is alone.

    Raises:
        PeerLost: If another process does not start in time, or is lost.
        InputError: If another process has the same place in the cluster.
    """
    if workers.count == 1:
        yield None
        return
    peers = Peers(workers, meet(workers, timeout), advice, on_loss)
    try:
        yield peers
    except shared_errors:
        peers.finish()
        raise
    except Exception as error:
        if peers.have_lost_one(wait=isinstance(error, symptoms)):
            raise PeerLost(peers.message) from error
        raise
    else:
        peers.finish()
    finally:
        peers.close()
    if peers.message:
        raise PeerLost(peers.message)


class Peers:
    """Watches the connections to the other processes, from a thread of its own.

    Attributes:
        message: What to say of the loss, empty as long as none is lost.
    """

    def __init__(self, workers, connections, advice, on_loss):
        self.message = ""
        self._workers = workers
        self._connections = connections  # From each socket to the name at its other end.
        self._advice = advice
        self._on_loss = on_loss
        self._started = False
        self._finishing = False
        self._loss = threading.Event()
        self._block_ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peers", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def starting(self):
        """Within this block, where TensorFlow waits for the others and stops all threads, `START` counts."""
        names = " or ".join(name for name in self._workers.addresses if name != self._workers.name)
        message = f"error: lost {names} as TensorFlow started{self._advice}"
        arguments = [str(START), str(os.getpid()), message]
        heard_before = signal.getsignal(signal.SIGTERM)
        with subprocess.Popen([sys.executable, "-S", "-c", _END_PARENT, *arguments], stdin=subprocess.PIPE):
            yield
        if threading.current_thread() is threading.main_thread():  # TensorFlow now ignores this signal.
            signal.signal(signal.SIGTERM, heard_before)
        self._started = True

    def finish(self):
        """Tells the others that this process is done, and waits until all of them are."""
        self._finishing = True
        self._thread.join()

    def have_lost_one(self, wait):
        """Whether another process is lost; with `wait`, after the time in which that would show."""
        return self._loss.wait(SILENCE + 2 * BEAT if wait else 0)

    def close(self):
        self._block_ended.set()
        self._thread.join(2 * BEAT)
        for connection in self._connections:
            connection.close()

    def _watch(self):
        lost = self._first_loss()
        if not lost:
            return
        self.message = f"lost {lost}{self._advice}"
        self._loss.set()
        if self._finishing:
            return
        threading.Thread(target=self._on_loss, args=(self.message,), daemon=True).start()
        if not self._block_ended.wait(PATIENCE):
            print(f"error: {self.message}", file=sys.stderr, flush=True)
            os._exit(1)

    def _first_loss(self):
        """Names the process that is lost, or returns "" when all are done."""
        heard = dict.fromkeys(self._connections, time.monotonic())
        unread = dict.fromkeys(self._connections, b"")
        next_beat, waiting, told, limit = 0, set(self._connections), False, START
        while not told or waiting:
            if self._block_ended.is_set() and not self._finishing:
                return ""
            now = time.monotonic()
            if self._started and limit != SILENCE:
                limit, heard = SILENCE, dict.fromkeys(heard, now)
            if now >= next_beat:
                # The chief is the last to say it, so that all leave together.
                told = self._finishing and not (self._workers.is_chief and waiting)
                self._send("done" if told else "")
                next_beat = now + BEAT
            for connection in select.select(waiting, [], [], max(0, next_beat - now))[0]:
                heard[connection] = time.monotonic()
                received = _receive(connection)
                *lines, unread[connection] = (unread[connection] + received).split(b"\n")
                for line in lines:
                    if line.startswith(b"lost "):
                        return line.decode(errors="replace").removeprefix("lost ")
                if b"done" in lines:
                    waiting.discard(connection)
                elif not received:
                    return self._lose(connection)
            for connection in waiting:
                if time.monotonic() - heard[connection] > limit:
                    return self._lose(connection)
        return ""

    def _lose(self, connection):
        """Tells the others which process is lost, and returns its name and address."""
        name = self._connections.pop(connection)
        connection.close()
        lost = f"{name} ({self._workers.addresses[name]})"
        self._send(f"lost {lost}")
        return lost

    def _send(self, line):
        for connection in self._connections:
            with contextlib.suppress(OSError):  # Reading tells of the loss.
                connection.sendall(f"{line}\n".encode())


# A process of its own, which ends this one unless its input is closed in time.
_END_PARENT = """
import os, select, signal, sys
if not select.select([0], [], [], float(sys.argv[1]))[0]:
    print(sys.argv[3], file=sys.stderr, flush=True)
    os.kill(int(sys.argv[2]), signal.SIGKILL)
"""


def meet(workers, timeout):
    """Waits until every process has connected to the chief.

    Args:
        workers: The `Workers`.
        timeout: For how many seconds to wait.

    Returns:
        Dictionary from connected sockets to the name of the process at the other end: in the chief those of
        all others, and in these that of the chief.

    Raises:
        PeerLost: If one does not start in time.
        InputError: If another process has the same place, or the chief cannot listen at its address.
    """
    deadline = time.monotonic() + timeout
    if workers.is_chief:
        return _gather(workers, timeout, deadline)
    return {_greet_chief(workers, timeout, deadline): workers.chief}


def _gather(workers, timeout, deadline):
    address = workers.addresses[workers.chief]
    host, port = host_and_port(address)
    missing, met = set(workers.addresses) - {workers.chief}, {}
    try:
        family = socket.getaddrinfo(host, port)[0][0]
        server = socket.create_server(("", port), family=family)
    except OSError as error:
        raise InputError(f"{workers.chief} cannot listen at {address}: {error.strerror}") from None
    with server:
        while missing:
            left = deadline - time.monotonic()
            if left < 0:
                names = " or ".join(f"{name} ({workers.addresses[name]})" for name in sorted(missing))
                message = f"{names} did not start within {timeout:g} s"
                _send_and_close(met, f"error {message}")
                raise PeerLost(message)
            for ready in select.select([server, *met], [], [], min(left, BEAT))[0]:
                if ready is not server:  # One that had come is gone; it may come again.
                    missing.add(met.pop(ready))
                    ready.close()
                    continue
                connection, _ = server.accept()
                name = _read_line(connection, timeout=2).removeprefix(GREETING)
                if name in missing:
                    met[connection] = name
                    missing.discard(name)
                else:
                    known = name in met.values() or name == workers.chief
                    _send_and_close([connection], f"taken {name}" if known else "error")
    for connection in met:
        connection.sendall(b"go\n")
    return met


def _greet_chief(workers, timeout, deadline):
    address = workers.addresses[workers.chief]
    while True:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            connection = stack.enter_context(socket.create_connection(host_and_port(address), timeout=5))
            connection.sendall(f"{GREETING}{workers.name}\n".encode())
            # The chief says itself when it has waited for too long.
            answer = _read_line(connection, timeout=max(0, deadline - time.monotonic()) + SILENCE)
            kind, _, text = answer.partition(" ")
            if kind == "go":
                stack.pop_all()
                connection.settimeout(2 * BEAT)
                return connection
            if kind == "taken":
                raise InputError(f"another process is {workers.name} already: each needs its own index")
            if kind == "error":
                raise PeerLost(text)
        if time.monotonic() > deadline:
            raise PeerLost(f"{workers.chief} ({address}) did not start within {timeout:g} s")
        time.sleep(0.2)


def _read_line(connection, timeout):
    """Reads a line of at most a thousand bytes; "" where the other end does not send one."""
    connection.settimeout(timeout)
    line = b""
    with contextlib.suppress(OSError):
        while not line.endswith(b"\n") and len(line) < 1000:
            received = connection.recv(1)  # No more than the line: beats follow it.
            if not received:
                return ""
            line += received
    return line.decode(errors="replace").strip()


def _receive(connection):
    try:
        return connection.recv(4096)
    except OSError:
        return b""


def _send_and_close(connections, line):
    for connection in connections:
        with contextlib.suppress(OSError), connection:
            connection.sendall(f"{line}\n".encode())
