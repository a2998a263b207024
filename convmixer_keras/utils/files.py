"""Files that are written whole or not at all."""

import contextlib
import errno
import hashlib
import os
import tempfile

from convmixer_keras.utils.errors import Failure, InputError

WRITING = ".writing-"  # What the names of temporary folders begin with.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def written_whole(path, room=0):
    """Gives a temporary path beside `path` that takes its place when the block ends without an error.

    Whatever happens, `path` is either what it was before or complete; a temporary file of a block that
    raised is removed.

    Args:
        path: The file to write. Its ending is kept, as Keras looks at it.
        room: Number of bytes to reserve before the block. HDF5 needs it: on a full disk it ends the whole
            process.

    Yields:
        The path to write to.

    Raises:
        InputError: If `path` is a folder, a device or write-protected; if its folder does not exist or
            cannot be written to.
        Failure: If the disk is full.
    """
    if os.path.lexists(path):
        if not os.path.isfile(path):
            raise InputError(f"cannot write {path}: it is not a regular file")
        if not os.access(path, os.W_OK):
            raise InputError(f"cannot write {path}: permission denied")
    folder, name = os.path.split(os.path.abspath(path))
    try:
        temporary_folder = tempfile.mkdtemp(prefix=WRITING, dir=folder)
    except OSError as error:
        raise _cannot_write(path, error) from None
    temporary = os.path.join(temporary_folder, name)
    try:
        if room:
            reserve(temporary, room)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise _cannot_write(path, error) from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        os.rmdir(temporary_folder)


def _cannot_write(path, error):
    kind = Failure if error.errno in _NO_ROOM else InputError
    return kind(f"cannot write {path}: {os.strerror(error.errno).lower()}")


def reserve(path, size):
    if hasattr(os, "posix_fallocate"):
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)


def sha256_of(path):
    """Returns the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
