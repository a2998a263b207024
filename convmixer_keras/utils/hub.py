"""Files of Hugging Face repositories by name: hf://USER/REPO, hf://USER/REPO/FILE, with @REVISION or without.

HF_ENDPOINT names a mirror, HF_TOKEN the user, HF_HOME the cache, as for Hugging Face's own tools.
"""

import os
import re
from typing import NamedTuple

from convmixer_keras.utils.errors import InputError, first_line

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
    match = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+?))?(?:/([^@]+))?", text)
    if not match:
        raise InputError(f"a hub name reads hf://USER/REPO or hf://USER/REPO/FILE, got {text}")
    repository, revision, file = match.groups()
    return Name(repository, file, revision)


def download(text, wanted):
    """Fetches a file of a repository, or takes it from the cache.

    Args:
        text: A hub name.
        wanted: File names or endings, the most wanted first, to choose by where the name says no file.

    Returns:
        The path of the file in Hugging Face's cache.

    Raises:
        InputError: If huggingface_hub is not installed; if there is no such repository or file; if the hub
            cannot be reached and the file is not in the cache.
    """
    name = parse(text)
    hub = api(text)
    try:
        file = name.file or _choose(
            hub.list_repo_files(name.repository, revision=name.revision), wanted, text
        )
        return hub.hf_hub_download(name.repository, file, revision=name.revision)
    except InputError:
        raise
    except Exception as error:  # Of a dozen classes, among them those of its HTTP client.
        raise InputError(f"cannot fetch {text}: {reason(error)}") from None


def api(text):
    """Returns a `huggingface_hub.HfApi` for the endpoint that is set now, or raises InputError."""
    try:
        import huggingface_hub
    except ImportError:
        raise InputError(f"{text} needs the package huggingface_hub: pip install huggingface_hub") from None
    return huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)


def reason(error):
    """Returns one line on why the hub did not do as asked."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    name = type(error).__name__
    known = {
        "RepositoryNotFoundError": "there is no such repository, or it is private and HF_TOKEN does not fit",
        "RevisionNotFoundError": "there is no such revision",
        "RemoteEntryNotFoundError": "there is no such file in the repository",
        "GatedRepoError": "the repository's owner has to give access first",
        "LocalEntryNotFoundError": "the hub cannot be reached, and the file is not in the cache",
    }
    text = known.get(name) or f"{name}: {first_line(error)}"
    return f"{text} (HTTP {status})" if status else text


def _choose(files, wanted, text):
    for ending in wanted:
        found = sorted(file for file in files if file.endswith(ending))
        if found:
            return min(found, key=lambda file: file.count("/"))
    raise InputError(
        f"{text} holds no file {' or '.join(wanted)}; it holds {', '.join(sorted(files)[:8]) or 'none'}"
    )
