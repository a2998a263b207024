"""Gets LiteRT.js, the page's only dependency, from the npm registry: 12 MB, once.

LiteRT.js is Google's, under the Apache-2.0 licence; no part of it is in this repository.
"""

import base64
import hashlib
import http.client
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request

from convmixer_keras.utils.errors import InputError, first_line
from convmixer_keras.utils.files import temporary_folder

VERSION = "2.5.3"
# The registry's own checksums ("npm view @litertjs/core@2.5.3 dist.integrity"), SHA-512 in base 64.
CHECKSUMS = {
    "core": "PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ==",
    "wasm-utils": "4fJiw6tBQnIs+0jH/OQ16nYOiSl8/+zZnn5h2ul8aTKHi05sVqZW580Tmk78pC2kT39A9OYBVdFawteZ/sI1kQ==",
}
NEEDED = ("core/dist/index.js", "core/wasm/litert_wasm_internal.js", "wasm-utils/dist/index.js")
_TIMEOUT = 300  # Seconds.


def check(folder):
    """Raises `InputError` where a folder is no unpacked copy of LiteRT.js."""
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{folder} has no {missing[0]}: --litert takes the folder node_modules/@litertjs "
            f"that npm install @litertjs/core@{VERSION} makes"
        )


def ensure(folder):
    """Makes sure that a folder holds this version of LiteRT.js, which is fetched if it does not.

    Args:
        folder: A `pathlib.Path`; gets the packages as the folders `core` and `wasm-utils`.

    Raises:
        InputError: If the packages cannot be fetched or written, or are not the expected ones.
    """
    if _version(folder) == VERSION and all((folder / name).is_file() for name in NEEDED):
        return
    print(f"fetching LiteRT.js {VERSION} from the npm registry, once (12 MB)", file=sys.stderr)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(".litert-", folder.parent) as temporary:
            new = pathlib.Path(temporary, "new")
            for name, checksum in CHECKSUMS.items():
                _unpack(_package(name, checksum), new / name)
            # Renamed when complete, so that an interrupted start leaves no half of it.
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(new, folder)
    except OSError as error:
        raise InputError(f"cannot write LiteRT.js into {folder}: {error.strerror}") from None


def _version(folder):
    try:
        return json.loads((folder / "core" / "package.json").read_text(encoding="utf-8"))["version"]
    except (OSError, ValueError, KeyError):
        return None


def _package(name, checksum):
    """Returns the content of a package's archive."""
    npm = shutil.which("npm")
    content = _from_npm(npm, name) if npm else _from_registry(name)
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != checksum:
        raise InputError(f"@litertjs/{name} {VERSION} from the npm registry has an unexpected checksum")
    return content


def _from_npm(npm, name):
    """By npm itself, which knows its configured registry, proxy and certificates."""
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", f"@litertjs/{name}@{VERSION}", "--fetch-retries=0", "--loglevel=error"]
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT
            )
        except subprocess.TimeoutExpired:
            raise _unreachable(name, f"npm took over {_TIMEOUT} s") from None
        archives = list(pathlib.Path(folder).glob("*.tgz"))
        if done.returncode or not archives:
            raise _unreachable(name, _reason(done.stderr))
        return archives[0].read_bytes()


def _reason(messages):
    """Returns the line of npm's messages that says what went wrong."""
    lines = [line.removeprefix("npm error ").removeprefix("npm ERR! ") for line in messages.splitlines()]
    reasons = [line for line in lines if not line.startswith(("code ", "errno ", "syscall "))]
    return reasons[0] if reasons else "npm failed"


def _from_registry(name):
    environment = {key.lower(): value for key, value in os.environ.items()}
    registry = environment.get("npm_config_registry") or "https://registry.npmjs.org"
    url = f"{registry.rstrip('/')}/@litertjs/{name}/-/{name}-{VERSION}.tgz"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
            return response.read()
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else first_line(error)
        raise _unreachable(name, f"{url}: {reason}") from None


def _unreachable(name, reason):
    return InputError(
        f"cannot fetch @litertjs/{name} {VERSION} ({reason}); where there is a network, "
        f"npm install @litertjs/core@{VERSION}, and pass --litert node_modules/@litertjs"
    )


def _unpack(content, folder):
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(folder.parent / "unpacked", filter="data")
    os.replace(folder.parent / "unpacked" / "package", folder)
    (folder.parent / "unpacked").rmdir()
