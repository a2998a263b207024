"""Files of Hugging Face repositories by name: hf://USER/REPO, hf://USER/REPO/FILE, with @REVISION or without.

HF_ENDPOINT names a mirror, HF_TOKEN the user, HF_HOME the cache, as for Hugging Face's own tools.
"""

import glob
import os
import re
import sys
from typing import NamedTuple

from convmixer_keras.utils.errors import InputError, first_line
from convmixer_keras.utils.files import sha256_of

PREFIX = "hf://"


class Name(NamedTuple):
    """What a hub name says; `file` and `revision` are None where it leaves them out."""

    repository: str
    file: str | None
    revision: str | None


def is_name(text):
    return isinstance(text, str) and text.startswith(PREFIX)


def parse(text):
    """Returns the `Name` in "hf://USER/REPO[@REVISION][/FILE]", or raises InputError."""
    match = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:@(refs/[\w-]+/[\w.-]+|[\w.-]+))?(?:/([^@]+))?", text)
    if not match:
        raise InputError(f"a hub name reads hf://USER/REPO or hf://USER/REPO/FILE, got {text}")
    repository, revision, file = match.groups()
    return Name(repository, file, revision)


def download(text, wanted, folder=None):
    """Fetches a file of a repository, or takes it from the cache.

    Args:
        text: A hub name.
        wanted: File names or endings, the most wanted first, to choose by where the name says no file.
        folder: The cache's folder; None for Hugging Face's own.

    Returns:
        The path of the file in the cache.

    Raises:
        InputError: If there is no such repository or file; if the hub cannot be reached and the file is not
            in the cache; if what came is not what the hub's hash says.
    """
    name = parse(text)
    hub = api()
    options = {"revision": name.revision, "cache_dir": folder}
    try:
        _check_answers(hub, name.repository)
        file = name.file
        if file is None:
            file = _choose(hub.list_repo_files(name.repository, revision=name.revision), wanted, text)
        path = hub.hf_hub_download(name.repository, file, **options)
    except InputError:
        raise
    except Exception as error:  # Of a dozen classes, among them those of its HTTP client.
        path = None
        if (_status(error) or 500) >= 500:  # Not refused: the hub was not asked, or is down.
            path = _fetched_before(hub, name, wanted, text, options)
        if path is None:
            raise InputError(f"cannot fetch {text}: {reason(error)}") from None
    _check_hash(path, text)
    return path


def download_beside(path, text, files):
    """Fetches more files of the folder and commit of `path`, which `download` fetched by the name `text`."""
    commit, *folders = path.rpartition("/snapshots/")[2].split("/")[:-1]
    for file in files:
        beside = "/".join([*folders, file])
        download(f"{PREFIX}{parse(text).repository}@{commit}/{beside}", ())


def _check_answers(hub, repository):
    """Raises the error of one request where the hub is not there; other requests try again for 25 seconds."""
    try:
        hub.model_info(repository, timeout=10)
    except Exception as error:
        if (_status(error) or 500) >= 500:
            raise


def _fetched_before(hub, name, wanted, text, options):
    """Returns the path of a file that the cache has of a repository, or None."""
    try:
        snapshot = hub.snapshot_download(name.repository, local_files_only=True, **options)
    except Exception:  # It was never fetched.
        return None
    found = glob.glob("**/*", root_dir=snapshot, recursive=True)
    files = [file for file in found if os.path.isfile(os.path.join(snapshot, file))]
    file = name.file or _choose(files, wanted, text)
    return os.path.join(snapshot, file) if file in files else None


def _check_hash(path, text):
    """Raises InputError for a damaged file, and removes it; huggingface_hub checks only the size."""
    stored = os.path.realpath(path)  # Named after the SHA-256 that the hub states for large files.
    stated = os.path.basename(stored)
    if not re.fullmatch("[0-9a-f]{64}", stated):
        return
    found = sha256_of(stored)
    if found != stated:
        os.remove(stored)
        raise InputError(f"{text} came in damaged: its SHA-256 is {found}, and should be {stated}")


def api():
    """Returns a `huggingface_hub.HfApi` for the endpoint that is set now."""
    import huggingface_hub

    return huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)


def reason(error):
    """Returns one line that says why a request to the hub failed."""
    status, name = _status(error), type(error).__name__
    known = {
        "RepositoryNotFoundError": "there is no such repository, or it is private and HF_TOKEN does not fit",
        "RevisionNotFoundError": "there is no such revision",
        "RemoteEntryNotFoundError": "there is no such file in the repository",
        "GatedRepoError": "the repository's owner has to give access first",
        "LocalEntryNotFoundError": "the hub cannot be reached, and the file is not in the cache",
        "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set, and the file is not in the cache",
    }
    text = known.get(name) or f"{name}: {first_line(error)}"
    return f"{text} (HTTP {status})" if status else text


def _status(error):
    """Returns the status of the HTTP answer that an error is about, or None."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _choose(files, wanted, text):
    for ending in wanted:
        found = sorted(file for file in files if file.endswith(ending))
        if found:  # Of the whole name before others that end so, and not in a folder before others.
            first = min(found, key=lambda file: (os.path.basename(file) != ending, file.count("/")))
            if len(found) > 1:
                print(
                    f"note: of {text} this takes {first}, and not {found[found[0] == first]}", file=sys.stderr
                )
            return first
    raise InputError(
        f"{text} holds no file {' or '.join(wanted)}; it holds {', '.join(sorted(files)[:8]) or 'none'}"
    )
