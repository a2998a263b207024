"""Image files that cannot be read: left out before the first batch, or named when one ends a pass."""

import contextlib
import os
import re
import warnings
from multiprocessing.pool import ThreadPool

import tensorflow as tf

from convmixer_keras.images import scan
from convmixer_keras.utils import progress, streams
from convmixer_keras.utils.errors import InputError, arg

MOST_LISTED = 200
# To look at a file takes 0.1 ms: of more files, it would keep a run of 1.28 million waiting for minutes.
MOST_LOOKED_AT = 200_000
# Up to here, a command decodes JPEG files in any case, at an eighth of their size: a second or two.
FEW_FILES, FEW_BYTES = 10_000, 2**28
AT_ITS_END = 5.0  # Seconds that a run takes to find more bad files than the one that ends it.
CHUNK = 256  # Files that are decoded at once.
_JPEG_DAMAGE = re.compile(r"Corrupt JPEG data: .*|Premature end of JPEG file")  # What libjpeg says.


def leave_out(splits, max_bad_images=0, check_images=False):
    """Looks at the files of splits before they are used.

    Args:
        splits: A list of `Split`s. More than `MOST_LOOKED_AT` files are looked at only where one of the other
            arguments asks for it.
        max_bad_images: How many bad files to leave out, of all splits together, each with a warning. Over 0,
            every file is decoded.
        check_images: Whether to decode every file in any case, and not only to look at its header and its
            end. (A command also decodes the JPEG files where there are few.)

    Returns:
        A list of the splits without the bad files.

    Raises:
        InputError: If more files are bad: it lists all.
    """
    if max_bad_images < 0:
        raise InputError(f"{arg('max_bad_images')} must be at least 0, got {max_bad_images}")
    paths = list(dict.fromkeys(_paths(splits)))
    whole = check_images or max_bad_images > 0
    if len(paths) > MOST_LOOKED_AT and not whole:
        return splits
    bad = scan.unreadable(paths, whole)
    readable = [path for path in paths if path not in bad]
    few = (
        streams.in_command and len(readable) <= FEW_FILES and sum(map(os.path.getsize, readable)) <= FEW_BYTES
    )
    if readable and (whole or few):
        bad |= _damaged_jpegs(readable, strict=whole)
    if len(bad) > max_bad_images:
        raise _error(bad, splits)
    left = [split.without(bad) for split in splits]
    if bad and not all(split.size for split in left):
        raise InputError("a split has no image that can be read", list(map(str, bad.values())))
    for error in bad.values():
        warnings.warn(f"{error}; it is left out", stacklevel=2)
    return left


@contextlib.contextmanager
def named(splits):
    """Within this block, TensorFlow's error about an image or a label of `splits` becomes an InputError.

    That of a file lists it, and what else is found within seconds.
    """
    try:
        yield
    except (tf.errors.ResourceExhaustedError, tf.errors.UnavailableError, tf.errors.AbortedError):
        raise
    except tf.errors.OpError as error:
        if refused := re.search(r"\[(labels must be .*?)\] \[(.*?)\]", str(error)):
            raise InputError(" ".join(refused.groups())) from None
        if "IteratorGetNext" in str(error) and (bad := scan.unreadable(_paths(splits), True, AT_ITS_END)):
            raise _error(bad, splits) from None
        raise


def _damaged_jpegs(paths, strict):
    """Returns a dictionary from path to error: the JPEG files whose data end too soon, or are wrong.

    Decoders take such a file, and fill the rest of its picture with grey. libjpeg says so on standard error,
    where TensorFlow lets it, but names no file. So many are decoded at once, and where it spoke, each alone.
    Bytes too many before a marker may be filler, or the sign of a damaged picture: a warning names them, and
    with `strict` they are an error, but before the end marker.
    """

    def decode(path):
        with open(path, "rb") as file:
            contents = file.read()
        if contents.startswith(b"\xff\xd8"):
            with contextlib.suppress(tf.errors.OpError):
                tf.io.decode_jpeg(contents, ratio=8)

    bad, shown = {}, progress.shown_if_slow(range(0, len(paths), CHUNK), "decoding JPEG files", f"x {CHUNK}")
    with ThreadPool() as pool:
        for begin in shown:
            chunk = paths[begin : begin + CHUNK]
            if not _JPEG_DAMAGE.search(streams.errors_of(lambda chunk=chunk: pool.map(decode, chunk))):
                continue
            for path in chunk:
                damage = _JPEG_DAMAGE.search(streams.errors_of(lambda path=path: decode(path)))
                if damage and re.search("before marker 0xd9" if strict else "extraneous", damage[0]):
                    warnings.warn(f"{path}: {damage[0]}", stacklevel=3)
                elif damage:
                    bad[path] = InputError(f"cannot read {path} as an image: {damage[0]}")
    return bad


def _paths(splits):
    return [path for split in splits for path, _ in split.files or ()]


def _error(bad, splits):
    lines = [str(error) for error in bad.values()]
    if len(lines) > MOST_LISTED:
        lines[MOST_LISTED:] = [f"and {len(lines) - MOST_LISTED:,} more"]
    return InputError(
        f"{len(bad):,} of {len({*_paths(splits)}):,} image files cannot be read: repair or remove them, or "
        f"leave them out with {arg('max_bad_images', len(bad))}",
        lines,
    )
