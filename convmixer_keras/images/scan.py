"""Which image files cannot be read: all of them at once, before any work begins."""

import functools
import math
import time
from multiprocessing.pool import ThreadPool

from convmixer_keras.images import reading
from convmixer_keras.utils import progress
from convmixer_keras.utils.errors import InputError


def unreadable(paths, whole=False, seconds=math.inf):
    """Finds the files that cannot be read as images.

    Args:
        paths: Iterable of paths; one that comes twice counts once.
        whole: Whether to decode each file, and not only to look at its header and at how it ends.
        seconds: After how long to look no further once there is one.

    Returns:
        A dictionary from the path of each such file to the `InputError` that reading it raises.
    """
    paths = list(dict.fromkeys(paths))
    with ThreadPool() as pool:
        errors = pool.imap(functools.partial(_error_of, whole=whole), paths, chunksize=16)
        shown = progress.shown_if_slow(paths, "looking at the images", "files")
        found, end = {}, time.monotonic() + seconds
        for path, error in zip(shown, errors, strict=True):
            if error:
                found[path] = error
            if found and time.monotonic() > end:
                break
        return found


def _error_of(path, whole):
    try:
        reading.check(path, whole)
    except InputError as error:
        return error
    return None
