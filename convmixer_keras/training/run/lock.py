"""One process at a time writes into a run's folder."""

import contextlib
import fcntl
import os
import socket

from convmixer_keras.utils.errors import InputError, arg

NAME = ".lock"


def take(folder):
    """Locks a folder for this process. The system unlocks it where the process ends in any way.

    Returns:
        The open file that holds the lock until it is closed; remove it first.
    """
    path = os.path.join(folder, NAME)
    try:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror.lower()}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with file:
            owner = file.read(100).strip() or "another process"
        raise InputError(f"{folder} is in use by {owner}: choose another {arg('output')}") from None
    except OSError:  # A file system without locks.
        pass
    if not os.path.exists(path) or not os.path.samestat(os.stat(path), os.fstat(file.fileno())):
        file.close()  # Its last owner has just removed it.
        return take(folder)
    with contextlib.suppress(OSError):  # The disk is full.
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
    return file
