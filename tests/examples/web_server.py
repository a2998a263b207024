"""Starting `examples/web/serve.py` as its users do."""

import contextlib
import pathlib
import signal
import subprocess
import sys

WEB = pathlib.Path(__file__).parents[2] / "examples" / "web"


@contextlib.contextmanager
def served(model, *arguments, web=WEB, **options):
    """Serves a model on a free port; gives the address and the process."""
    command = [sys.executable, str(web / "serve.py"), str(model), "--port", "0", *map(str, arguments)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that run in the background are started with Ctrl-C switched off, and hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        **options,
    )
    try:
        address = process.stdout.readline().split(" ")[0]
        assert address.startswith(("http://127.0.0.1:", "https://")), process.stderr.read()
        yield address, process
    finally:
        process.kill()
        process.communicate()
