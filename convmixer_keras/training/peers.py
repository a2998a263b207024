"""The other processes of a run on several machines: waiting for them, and naming the one that was lost."""

import contextlib
import re
import socket
import time

from convmixer_keras.utils.errors import Failure


class PeerLost(Failure):
    """Another process of the run is gone; the message names it."""


def wait_for_peers(addresses, own, timeout):
    """Waits until every process of a run listens at its address.

    This process meanwhile listens at its own, and frees it before returning.

    Args:
        addresses: Dictionary from the name of each process, such as "worker 1", to its "host:port".
        own: The name of this one.
        timeout: For how many seconds to wait.

    Raises:
        PeerLost: If one does not listen in time.
    """
    deadline = time.monotonic() + timeout
    missing = [name for name in addresses if name != own]
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # TensorFlow says it if the address cannot be used.
            listening.bind(("", _host_and_port(addresses[own])[1]))
            listening.listen()
        while missing := [name for name in missing if not _listens(addresses[name])]:
            if time.monotonic() > deadline:
                raise PeerLost(f"{_with_address(missing, addresses)} did not start within {timeout:g} s")
            time.sleep(0.2)


def lost_peer(addresses, own, message, patience=3):
    """Names the process of a run that is gone.

    Args:
        addresses, own: As for `wait_for_peers`.
        message: TensorFlow's error, which may name the process as "/job:worker/replica:0/task:1".
        patience: For how many seconds to look, as a process that is being ended still listens for a moment.

    Returns:
        A text such as "worker 1 (10.0.0.2:2222)".
    """
    others = [name for name in addresses if name != own]
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if lost := [name for name in others if not _listens(addresses[name])]:
            return _with_address(lost, addresses)
        time.sleep(0.2)
    named = {f"{job} {task}" for job, task in re.findall(r"/job:(\w+)/[\w/:]*task:(\d+)", message)}
    return _with_address([name for name in others if name in named] or others, addresses)


def _listens(address):
    try:
        socket.create_connection(_host_and_port(address), timeout=2).close()
        return True
    except OSError:
        return False


def _host_and_port(address):
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _with_address(names, addresses):
    return " or ".join(f"{name} ({addresses[name]})" for name in names)
