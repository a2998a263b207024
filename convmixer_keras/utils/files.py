"""Files that are written whole or not at all."""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile

from convmixer_keras.utils.errors import Failure, InputError

Path = str | os.PathLike[str]  # Of a file or a folder, in annotations.
WRITING = ".writing-"  # What the names of temporary folders begin with.
LARGEST_TEXT = 2**24  # Bytes of a file of class names, settings or history.
_LFS = b"version https://git-lfs.github.com/spec/"  # What the pointers of Git LFS begin with.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_temporary_folders = set()


@contextlib.contextmanager
def written_whole(path, room=0):
    """Gives a temporary path beside `path` that takes its place when the block ends without an error.

    Whatever happens, `path` is either what it was before or complete; a temporary file of a block that
    raised is removed. Of a symbolic link, what it points to is written.

    Args:
        path: The file to write. Its ending is kept, as Keras looks at it.
        room: Number of bytes to reserve before the block. HDF5 needs it: on a full disk it ends the whole
            process.

    Raises:
        InputError: If `path` cannot be written.
        Failure: If the disk is full.
    """
    check_local(path)
    path = os.path.realpath(path) if os.path.islink(path) else path
    if _exists(path):
        if not os.path.isfile(path):
            raise InputError(f"cannot write {path}: it is not a regular file")
        if not os.access(path, os.W_OK):
            raise InputError(f"cannot write {path}: permission denied")
    folder, name = os.path.split(os.path.abspath(path))
    if os.path.basename(folder).startswith(WRITING):  # It is the temporary path of another such block.
        try:
            if room:
                reserve(path, room)
            yield path
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            raise _cannot_write(os.path.normpath(os.path.join(path, "../..", name)), error) from None
        return
    with contextlib.ExitStack() as removed:
        try:
            temporary = os.path.join(removed.enter_context(temporary_folder(WRITING, folder)), name)
        except OSError as error:
            raise _cannot_write(path, error) from None
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


@contextlib.contextmanager
def temporary_folder(prefix="", parent=None):
    """Gives a new folder, in `parent` or where the system keeps such, that is removed with the block."""
    folder = tempfile.mkdtemp(prefix=prefix, dir=parent)
    _temporary_folders.add(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _temporary_folders.discard(folder)


def remove_temporary_folders():
    """Removes the folders of all blocks that are under way, before the process ends without them."""
    for folder in list(_temporary_folders):
        shutil.rmtree(folder, ignore_errors=True)


def _exists(path):
    try:
        os.lstat(path)
        return True
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:  # A name that is too long, or holds a null byte.
        raise _cannot_write(path, error) from None


def make_folder(path):
    """Makes a folder and those above it where they are missing; "" is the current one."""
    check_local(path or ".")
    try:
        os.makedirs(path or ".", exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {path}: {_reason(error)}") from None


def check_local(path):
    """Raises InputError for an address such as gs://bucket/run: files are written to local folders only."""
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(path), re.IGNORECASE):
        raise InputError(f"cannot write {path}: only local folders are written to; copy the result there")
    if not str(path).strip():
        raise InputError("the name of a file or folder to write must not be empty")


def check_file(path):
    """Raises InputError unless `path` is a regular file that can be read, and not a pointer of Git LFS.

    Any other is refused before it is opened: a pipe would wait for a writer, and a device never end.
    """
    if os.path.isfile(path):
        if not os.access(path, os.R_OK):
            raise InputError(f"cannot read {path}: permission denied")
        try:
            is_pointer = _is_lfs_pointer(path)
        except OSError as error:
            raise InputError(f"cannot read {path}: {_reason(error)}") from None
        if is_pointer:
            raise InputError(f"{path} is only a pointer of Git LFS: fetch the file itself with git lfs pull")
        return
    if os.path.isdir(path):
        raise InputError(f"cannot read {path}: it is a folder")
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"there is no file {path}") from None
    except (OSError, ValueError) as error:  # Links in a circle, a name that is too long or holds a null byte.
        raise InputError(f"cannot read {path}: {_reason(error)}") from None
    raise InputError(f"cannot read {path}: it is not a regular file")


def _is_lfs_pointer(path):
    if os.path.getsize(path) > 1024:
        return False
    with open(path, "rb") as file:
        return file.read(len(_LFS)) == _LFS


def read_text(path, largest=LARGEST_TEXT):
    """Reads a text file in UTF-8, with or without a byte order mark, of at most `largest` bytes."""
    check_file(path)
    try:
        with open(path, "rb") as file:
            content = file.read(largest + 1)  # The size that a file in /proc states is 0.
        if len(content) > largest:
            raise InputError(f"{path} is a text of over {largest:,} bytes, which is not read")
        return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path} as text: {error}") from None


def check_output(path, endings, inputs=()):
    """Raises InputError unless a file to write has one of some endings, and is none of the files to read."""
    check_local(path)
    endings = (endings,) if isinstance(endings, str) else endings
    if not str(path).endswith(endings):
        raise InputError(f"the output's name must end in {' or '.join(endings)}, got {path}")
    for source in inputs:
        if os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
            raise InputError(f"the output {path} is the input {source}: choose another name")


def _cannot_write(path, error):
    kind = Failure if getattr(error, "errno", None) in _NO_ROOM else InputError
    return kind(f"cannot write {path}: {_reason(error)}")


def _reason(error):
    """What the system says of an OSError or, of a name with a null byte, Python of a ValueError."""
    return os.strerror(error.errno).lower() if getattr(error, "errno", None) else str(error)


def check_room(error, path):
    """Raises Failure if the error of a library that unpacks a file is that of a full disk."""
    if getattr(error, "errno", None) in _NO_ROOM:
        raise Failure(f"cannot unpack {path}: {_reason(error)}") from None


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
