#!/usr/bin/env python3
"""Serves the page that runs a .tflite file in the browser, to this machine only.

  python examples/web/serve.py                            then open the address that it prints
  python examples/web/serve.py model.tflite --network     to the phones of this network, too, by HTTPS

`model.tflite` is a file that convmixer-tflite wrote, with class names in it and raw pixels as its input;
without it the page runs examples/cifar10.tflite, which knows CIFAR-10's ten classes. The first
start fetches LiteRT.js (12 MB) from the npm registry into the folder litert/ beside this file; later ones
need no network.
"""

import errno
import http.server
import os
import pathlib
import shutil
import signal
import sys

import certificate
import fetch_litert

from convmixer_keras.utils import command_line
from convmixer_keras.utils.errors import InputError
from convmixer_keras.utils.files import check_file

HERE = pathlib.Path(__file__).resolve().parent
ADDRESS = "127.0.0.1"
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
}
HEADERS = {
    # These two give the page shared memory, and with it threads.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def main(argv=None):
    arguments = parse(argv)
    check_model(arguments.model)
    address = certificate.own_address() if arguments.network else ADDRESS
    with bind(arguments.port, address) as server:
        if arguments.network:
            certificate.secure(server, address)
        if arguments.litert is None:
            litert = HERE / "litert"
            fetch_litert.ensure(litert)
        else:
            litert = arguments.litert
            fetch_litert.check(litert)
        server.files = site(arguments.model, litert)
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # Ctrl-C is its good end.
            print(
                f"http{'s' if arguments.network else ''}://{address}:{server.server_port}/  (Ctrl-C ends it)",
                flush=True,
            )
            if arguments.network:
                print("The browser warns once: this machine made its certificate itself.", flush=True)
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped")
            command_line.leave(command_line.DONE)  # Whatever is still being sent.


def parse(argv):
    parser = command_line.parser(__doc__)
    parser.add_argument(
        "model", nargs="?", default=HERE.parent / "cifar10.tflite", metavar="MODEL.tflite", type=pathlib.Path,
        help="the network to run",
    )  # fmt: skip
    parser.add_argument("--port", type=int, default=8000, help="where to listen; 0 takes a free one")
    parser.add_argument(
        "--network", action="store_true", help="serve the devices of this network, by HTTPS; needs openssl"
    )
    parser.add_argument(
        "--litert", metavar="DIR", type=pathlib.Path,
        help=f"a copy of LiteRT.js {fetch_litert.VERSION} to use instead: node_modules/@litertjs",
    )  # fmt: skip
    return parser.parse_args(argv)


def check_model(path):
    check_file(path)
    with open(path, "rb") as file:
        start = file.read(8)
    if start[4:] != b"TFL3":
        raise InputError(f"{path} is not a TFLite model")


def bind(port, address=ADDRESS):
    """Returns a server that listens on a port of one of this machine's addresses."""
    if not 0 <= port < 65536:
        raise InputError(f"--port must be 0..65535, got {port}")
    try:
        return Server((address, port), Handler)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(f"port {port} is in use: choose another with --port") from None
        raise InputError(f"cannot listen on port {port}: {error.strerror}") from None


def site(model, litert):
    """Returns every file that is served, by its address: the page, LiteRT.js and the model.

    What a request asks for is looked up here and nowhere else, so that no path in it reaches the disk.
    """
    files = {}
    for pattern in ("*.html", "*.css", "*.svg", "js/*.js"):
        files |= _files(HERE, pattern, "/")
    for pattern in ("core/dist/*.js", "core/wasm/*.js", "core/wasm/*.wasm", "wasm-utils/dist/*.js"):
        files |= _files(litert, pattern, "/litert/")
    files |= _files(HERE.parent / "photos", "*/0000.jpg", "/photos/")
    return {**files, "/": HERE / "index.html", "/model.tflite": model.resolve()}


def _files(folder, pattern, prefix):
    paths = [path for path in folder.glob(pattern) if path.is_file() and not path.is_symlink()]
    return {prefix + path.relative_to(folder).as_posix(): path for path in paths}


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """Says nothing of a browser that has left, or does not trust the certificate."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers GET and HEAD for the files of `server.files`, and nothing else."""

    def do_GET(self):
        self._answer(with_body=True)

    def do_HEAD(self):
        self._answer(with_body=False)

    def _answer(self, with_body):
        path = self.server.files.get(self.path.partition("?")[0])
        if path is None:
            return self.send_error(404)
        try:
            file = open(path, "rb")  # noqa: SIM115
        except OSError as error:
            return self.send_error(500, f"cannot read {path.name}: {error.strerror}")
        with file:
            self.send_response(200)
            self.send_header("Content-Type", TYPES.get(path.suffix, "application/octet-stream"))
            self.send_header("Content-Length", os.fstat(file.fileno()).st_size)
            self.end_headers()
            if with_body:
                try:
                    shutil.copyfileobj(file, self.wfile)
                except ConnectionError:
                    self.close_connection = True  # The browser has left the page.

    def end_headers(self):
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format, *arguments):
        """Says nothing of requests."""


if __name__ == "__main__":
    command_line.run(main)
