"""The server of the browser page: what it gives, what it refuses, how it is started. No browser needed."""

import contextlib
import http.client
import http.server
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest
from conftest import on_linux
from web_server import WEB, served

import convmixer_keras

MODEL = b"\x20\0\0\0TFL3" + bytes(range(256)) * 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the page, a model, something that looks like LiteRT.js, and a secret, side by side."""
    root = tmp_path_factory.mktemp("server")
    shutil.copytree(WEB, root / "web", ignore=shutil.ignore_patterns("litert", "__pycache__"))
    (root / "model.tflite").write_bytes(MODEL)
    for name in ("core/dist/index.js", "core/wasm/litert_wasm_internal.js", "wasm-utils/dist/index.js"):
        path = root / "litert" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("export {};\n")
    (root / "litert" / "core" / "wasm" / "a.wasm").write_bytes(b"\0asm")
    (root / "photos" / "horse").mkdir(parents=True)
    (root / "photos" / "horse" / "0000.jpg").write_bytes(b"a horse")
    (root / "secret.js").write_text("secret")
    (root / "web" / "js" / "link.js").symlink_to(root / "secret.js")
    (root / "litert" / "core" / "dist" / "link.js").symlink_to(root / "secret.js")
    return root


@pytest.fixture(scope="module")
def address(folder):
    with served(folder / "model.tflite", "--litert", folder / "litert", web=folder / "web") as (address, _):
        yield address


def start(*arguments, web=WEB, **options):
    """Runs the command to its end."""
    command = [sys.executable, str(web / "serve.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, **options)


def raw(address, request):
    """Sends bytes as they are; returns the whole answer."""
    host, port = urllib.parse.urlsplit(address).netloc.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("", "text/html; charset=utf-8"),
        ("index.html?v=1", "text/html; charset=utf-8"),
        ("style.css", "text/css; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
        ("js/main.js", "text/javascript; charset=utf-8"),
        ("photos/horse/0000.jpg", "image/jpeg"),
        ("litert/core/dist/index.js", "text/javascript; charset=utf-8"),
        ("litert/core/wasm/a.wasm", "application/wasm"),
        ("model.tflite", "application/octet-stream"),
    ],
)
def test_files_and_their_headers(address, folder, path, kind):
    with urllib.request.urlopen(address + path) as response:
        content = response.read()
    name = path.split("?")[0] or "index.html"
    base = folder if name.startswith(("litert", "model", "photos")) else folder / "web"
    assert content == (base / name).read_bytes()
    assert response.headers["Content-Type"] == kind
    assert int(response.headers["Content-Length"]) == len(content)
    assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert response.headers["Cross-Origin-Embedder-Policy"] == "require-corp"


def test_head(address):
    answer = raw(address, b"HEAD /model.tflite HTTP/1.0\r\n\r\n")
    head, body = answer.split(b"\r\n\r\n")
    assert b"Content-Length: %d" % len(MODEL) in head
    assert body == b""


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_other_methods(address, method):
    request = f"{method} /model.tflite HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc"
    assert raw(address, request.encode()).split()[1] in (b"405", b"501")


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.js", "/js/../../secret.js", "/js/..", "/..", "..", "/.", "/js/", "/js", "/litert/",
        "/%2e%2e/secret.js", "/..%2fsecret.js", "/js/%2e%2e/%2e%2e/secret.js", "/%252e%252e/secret.js",
        "/..\\secret.js", "/js\\main.js", "/..%5csecret.js", "/.%00./secret.js", "/index.html%00.js",
        "/index.html\0", "/js/main.js/", "/js//main.js", "/./index.html", "/%69ndex.html", "/INDEX.HTML",
        "//etc/passwd", "/etc/passwd", "///etc/passwd", "/%2fetc/passwd", "file:///etc/passwd",
        "http://127.0.0.1/secret.js", "/model.tflite/../secret.js", "/litert/../../secret.js",
        "/litert/core/../../../secret.js", "/..;/secret.js", "/..\xc0\xafsecret.js", "/~root/", "/js/*.js",
        "/js/link.js", "/litert/core/dist/link.js", "/serve.py", "/README.md", "/secret.js",
    ],
)  # fmt: skip
def test_refused_paths(address, path):
    answer = raw(address, b"GET " + path.encode("latin-1") + b" HTTP/1.0\r\n\r\n")
    assert answer.split()[1] in (b"404", b"400"), answer
    for content in (b"secret", b"root:"):
        assert content not in answer.split(b"\r\n\r\n", 1)[1]


def test_what_is_not_http(address):
    too_long = b"GET " + b"/" * 70000 + b" HTTP/1.0\r\n\r\n"
    for request in (b"\0" * 100, b"GET /secret.js", b"GET\r\n\r\n", too_long):
        assert b"\r\n\r\nsecret" not in raw(address, request)
    assert b"200" in raw(address, b"GET / HTTP/1.0\r\n\r\n")  # It is still there.


def test_files_that_come_later_are_not_served(address, folder):
    (folder / "web" / "later.js").write_text("secret")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(address + "later.js")


@on_linux
def test_only_this_machine(address):
    port = urllib.parse.urlsplit(address).port
    # All of 127.0.0.0/8 is this machine; the server has one address of it.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=2)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_https_for_the_network(folder):
    """A client that trusts the certificate gets the page; one that does not trust it gets nothing."""
    arguments = (folder / "model.tflite", "--litert", folder / "litert", "--network")
    with served(*arguments, web=folder / "web") as (address, _):
        url = urllib.parse.urlsplit(address)
        trusting = ssl.create_default_context(cadata=ssl.get_server_certificate((url.hostname, url.port)))
        with urllib.request.urlopen(address, context=trusting, timeout=10) as answer:
            assert answer.read() == (folder / "web" / "index.html").read_bytes()
        with pytest.raises(urllib.error.URLError, match="self-signed"):
            urllib.request.urlopen(address, timeout=10)
        with contextlib.suppress(OSError):  # The server may have closed the connection already.
            assert raw(address, b"GET / HTTP/1.0\r\n\r\n") == b""


def test_a_model_that_is_replaced_or_gone(folder, tmp_path):
    model = tmp_path / "name without an ending"
    model.write_bytes(MODEL)
    (tmp_path / "link").symlink_to(model)  # The user's own link, to where the model is.
    with served(tmp_path / "link", "--litert", folder / "litert") as (address, _):
        model.write_bytes(MODEL + b"new")
        assert urllib.request.urlopen(address + "model.tflite").read() == MODEL + b"new"
        model.unlink()
        with pytest.raises(urllib.error.HTTPError, match="500"):
            urllib.request.urlopen(address + "model.tflite")
        assert urllib.request.urlopen(address).status == 200


def test_a_browser_that_leaves(address, folder):
    large = folder / "large.tflite"
    large.write_bytes(MODEL + bytes(50_000_000))
    with served(large, "--litert", folder / "litert") as (address, process):
        for _ in range(3):
            connection = http.client.HTTPConnection(urllib.parse.urlsplit(address).netloc)
            connection.request("GET", "/model.tflite")
            connection.getresponse().read(1000)
            connection.close()
        assert urllib.request.urlopen(address).status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""


def test_ctrl_c_is_one_line(folder):
    """At once, while a browser is slow to take what is sent."""
    (folder / "large.tflite").write_bytes(MODEL + bytes(50_000_000))
    with served(folder / "large.tflite", "--litert", folder / "litert") as (address, process):
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(address).netloc)
        connection.request("GET", "/model.tflite")
        connection.getresponse().read(1000)
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert time.monotonic() - started < 10
        assert process.stdout.read() == "stopped\n"
        assert process.stderr.read() == ""
        connection.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.tflite"], "there is no file none.tflite"),
        (["."], "cannot read .: it is a folder"),
        (["text.tflite"], "text.tflite is not a TFLite model"),
        (["empty.tflite"], "empty.tflite is not a TFLite model"),
        (["model.tflite", "--port", "65536"], "--port must be 0..65535, got 65536"),
        (["model.tflite", "--port", "-1"], "--port must be 0..65535, got -1"),
        (["model.tflite", "--port", "0", "--litert", "none"], "none has no core/dist/index.js"),
    ],
    ids=str,
)
def test_wrong_use(folder, arguments, message):
    (folder / "text.tflite").write_text("no model at all")
    (folder / "empty.tflite").write_text("")
    done = start(*arguments, cwd=folder)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr


def test_arguments_that_are_none(folder):
    for arguments in ([folder / "model.tflite", "--port", "http"], [folder / "model.tflite", "--wrong"]):
        done = start(*arguments)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


def test_a_busy_port(folder):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        done = start(folder / "model.tflite", "--port", port, "--litert", folder / "litert")
    assert done.returncode == 2
    assert done.stderr == f"error: port {port} is in use: choose another with --port\n"


def test_version_and_a_light_start():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", WEB / "serve.py", "--version"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert f"convmixer-keras {convmixer_keras.__version__}" in done.stdout
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert imported.isdisjoint({"numpy", "keras", "tensorflow"})


@pytest.fixture
def registry():
    """A package registry of this machine, which has something else under every name."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"not the package")

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/npm/", asked
        server.shutdown()


def fetch_with(folder, registry, path):
    web = folder / "web"
    shutil.rmtree(web / "litert", ignore_errors=True)
    npm = {"npm_config_registry": registry, "npm_config_cache": str(folder / "cache")}
    environment = {**os.environ, **npm, "PATH": path}
    done = start(folder / "model.tflite", "--port", "0", web=web, env=environment)
    assert done.returncode == 2
    assert not (web / "litert").exists()
    assert not list(web.glob(".litert-*"))
    return done.stderr.splitlines()[-1]


def test_litert_from_another_registry_is_checked(folder, registry):
    url, asked = registry
    message = fetch_with(folder, url, path="")
    assert asked == ["/npm/@litertjs/core/-/core-2.5.3.tgz"]
    assert message == "error: @litertjs/core 2.5.3 from the npm registry has an unexpected checksum"


@pytest.mark.parametrize("with_npm", [False, True])
def test_litert_offline(folder, with_npm):
    if with_npm and shutil.which("npm") is None:
        pytest.skip("needs npm: apt-get install npm")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    message = fetch_with(folder, f"http://127.0.0.1:{port}", path=os.environ["PATH"] if with_npm else "")
    assert message.startswith("error: cannot fetch @litertjs/core 2.5.3 (")
    assert "efused" in message or "REFUSED" in message
    assert "npm install @litertjs/core@2.5.3, and pass --litert node_modules/@litertjs" in message
