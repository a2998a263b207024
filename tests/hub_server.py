"""A Hugging Face hub on loopback: repositories to read from and to upload to, over real HTTP."""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse

import pytest

COMMIT = "1" * 40


class Server:
    """Serves files of repositories and other addresses, takes uploads, and counts what was asked for.

    Attributes:
        files: Dict from path, such as "/user/repo/resolve/main/model.keras", to (status, headers, body).
        asked: The paths of all GET requests for them.
        broken: Whether every request is answered with 503.
        refuses: Part of the paths of POST requests that are answered with 403, or None.
        cut: None, or after how many bytes of a file to close the connection.
        uploaded: Dict from repository to a dict from path to bytes.
        created: The repositories that were made.
        private: Those of them that are private.
        deleted: Paths of the files that commits removed.
        messages: What the commits said.
        tokens: The tokens that came with uploads.
    """

    def __init__(self):
        self.files, self.asked, self.cut, self.broken = {}, [], None, False
        self.uploaded, self.messages, self.tokens, self._large = {}, [], set(), {}
        self.created, self.private, self.deleted, self.refuses = set(), set(), [], None
        handler = type("Handler", (_Handler,), {"hub": self})
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"

    def put(self, repository, files):
        """Makes a repository of a dict from path to bytes."""
        for name, body in files.items():
            self.files[f"/{repository}/resolve/main/{name}"] = (200, {}, body)

    def listed(self, repository):
        start = f"/{repository}/resolve/main/"
        return [path.removeprefix(start) for path in self.files if path.startswith(start)]


class _Handler(http.server.BaseHTTPRequestHandler):
    hub = None

    def do_HEAD(self):
        self._file(send=False)

    def do_GET(self):
        if self.hub.broken:
            return self._json({}, 503)
        path = urllib.parse.unquote(self.path.split("?")[0])
        if match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/tree/.*", path):
            names = self.hub.listed(match[1])
            found = [{"type": "file", "path": name, "size": 1, "oid": "0"} for name in names]
            known = names or match[1] in self.hub.created
            self._json(found, 200) if known else self._json({}, 404, "RepoNotFound")
        elif path.startswith("/api/models/"):
            name = path.split("/", 3)[3].split("/revision")[0]
            private = name in self.hub.private
            self._json({"id": name, "sha": COMMIT, "siblings": [], "private": private})
        else:
            self.hub.asked.append(path)
            self._file(send=True)

    def _file(self, send):
        if self.hub.broken:
            return self._json({}, 503)
        path = urllib.parse.unquote(self.path.split("?")[0])
        nothing = (404, {"X-Error-Code": "EntryNotFound"}, b"no such file")
        path = path.replace(f"/resolve/{COMMIT}/", "/resolve/main/")
        status, headers, body = self.hub.files.get(path, nothing)
        start = 0
        if status == 200 and (wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))):
            start, status = int(wanted[1]), 206
            headers = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}", **headers}
        etag = f'"{hashlib.sha256(body).hexdigest()}"'
        given = {"Content-Length": len(body) - start, "X-Repo-Commit": COMMIT, "ETag": etag} | headers
        self.send_response(status)
        for name, value in given.items():
            self.send_header(name, value)
        self.end_headers()
        if send:
            self.wfile.write(body[start : self.hub.cut])

    def do_PUT(self):
        self.hub._large[self.path.split("/")[-1]] = self.rfile.read(int(self.headers["Content-Length"]))
        self._json({})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hub.tokens.add(self.headers.get("Authorization"))
        path = self.path.split("?")[0]
        if self.hub.refuses and self.hub.refuses in path:
            self._json({"error": "no"}, 403)
        elif path == "/api/repos/create":
            asked = json.loads(body)
            repository = f"{asked['organization']}/{asked['name']}"
            private = asked.get("private") or asked.get("visibility") == "private"
            if private and repository not in self.hub.created:  # Of one that is there, it is overlooked.
                self.hub.private.add(repository)
            self.hub.created.add(repository)
            self._json({"url": f"{self.hub.address}/{repository}"})
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            modes = [
                {"path": file["path"], "uploadMode": "lfs" if file["size"] > 4000 else "regular"}
                for file in json.loads(body)["files"]
            ]
            self._json({"files": [{**mode, "shouldIgnore": False} for mode in modes]})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            actions = {"upload": {"href": f"{self.hub.address}/lfs/"}}
            for item in objects:
                item["actions"] = {"upload": {"href": f"{actions['upload']['href']}{item['oid']}"}}
            self._json({"transfer": "basic", "objects": objects})
        elif "/commit/" in path:
            self._commit("/".join(path.split("/")[3:5]), body)
        else:
            self._json({"error": f"unknown: {path}"}, 404)

    def _commit(self, repository, body):
        files = self.hub.uploaded.setdefault(repository, {})
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.hub.messages.append(value["summary"])
            elif line["key"] == "deletedFile":
                self.hub.deleted.append(value["path"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub._large[value["oid"]]
        self.hub.put(repository, files)
        address = f"{self.hub.address}/{repository}/commit/{COMMIT}"
        self._json({"commitUrl": address, "commitOid": COMMIT, "success": True})

    def _json(self, content, status=200, error=None):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if error:
            self.send_header("X-Error-Code", error)
        self.send_header("Content-Length", len(body))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def running():
    server = Server()
    threading.Thread(target=server.http.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A `Server` that huggingface_hub takes for the hub, with a cache and a token of the test's own."""
    from huggingface_hub import constants

    with running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # A protocol of its own.
        yield server
