"""`train_keras.py` as its users run it: real processes, also several that train together."""

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time

from conftest import ROOT

COMMAND = [sys.executable, str(ROOT / "train_keras.py")]


def environment(**variables):
    kept = {k: v for k, v in os.environ.items() if k not in ("TF_CPP_MIN_LOG_LEVEL", "TF_CONFIG")}
    return {**kept, **variables}


def run(*arguments, cwd, largest_file=None, **variables):
    """Runs the command to its end; a limit in bytes makes larger files fail as on a full disk."""

    def limit():
        if largest_file:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=environment(**variables),
        preexec_fn=limit,
    )


@contextlib.contextmanager
def started(command, cwd, **variables):
    """Starts a command and gives its process, with text pipes; ends it with the block."""
    with subprocess.Popen(
        list(map(str, command)),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**variables),
        # Tests that run in the background are started with Ctrl-C switched off, and hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def tf_configs(workers):
    """TF_CONFIG for each of so many processes on this machine."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(workers)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{free.getsockname()[1]}" for free in sockets]
    return [
        json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}})
        for i in range(workers)
    ]


def wait_for(condition, process, seconds=180):
    """Waits until `condition()` holds, as long as the process runs."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
