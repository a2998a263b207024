"""How much a file may unpack to, so that a small one cannot fill the memory or the disk."""

import os
import zipfile

from convmixer_keras.utils.errors import InputError, first_line
from convmixer_keras.utils.files import LARGEST_TEXT, check_file

# Weights hardly compress. Sizes that a file only claims are held against its own size.
UNPACKED_FREE = 256 * 2**20
UNPACKED_TIMES = 20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def check_unpacked(path, size, what="it"):
    """Raises InputError if a file unpacks to `size` bytes, over 256 MiB plus 20 times its own size."""
    own = os.path.getsize(path)
    allowed = UNPACKED_FREE + UNPACKED_TIMES * own
    if size > allowed:
        raise InputError(
            f"{path} has {own / 1e6:,.2f} MB, and {what} would take {size / 1e6:,.0f} MB when unpacked: over "
            f"the limit of {allowed / 1e6:,.0f} MB"
        )


def check_zip(path):
    """Raises InputError unless a zip archive is whole, not encrypted, and within the limit."""
    check_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"{path} is not a zip archive, or is damaged: {error}") from None
    for entry in entries:
        if entry.flag_bits & 1:
            raise InputError(f"{path} is encrypted: {entry.filename} needs a password")
        if entry.compress_type not in _METHODS:
            raise InputError(
                f"{path} uses an unsupported compression method ({entry.compress_type}): {entry.filename}"
            )
    check_unpacked(path, sum(entry.file_size for entry in entries))


def read_entries(path, *names, file=None):
    """Returns a dictionary of small entries of a zip archive, such as class names; None for no zip archive.

    `file` is the archive as an open file, where it is not the file `path` itself. Raises InputError if there
    is no such file, or an entry is damaged or over `files.LARGEST_TEXT` bytes.
    """
    if file is None:
        check_file(path)
    try:
        archive = zipfile.ZipFile(path if file is None else file)
    except Exception:  # Nearly anything, on a damaged directory of entries.
        return None
    with archive:
        there = {entry.filename: entry for entry in archive.infolist() if entry.filename in names}
        for entry in there.values():
            if entry.file_size > LARGEST_TEXT:
                raise InputError(f"{entry.filename} in {path} has over {LARGEST_TEXT:,} bytes")
            if entry.compress_type not in _METHODS:  # Others unpack without a limit.
                raise InputError(f"{entry.filename} in {path} is packed in a way that is not supported")
        try:
            return {name: archive.read(entry) for name, entry in there.items()}
        except Exception as error:  # Encrypted, packed by a method that is not known, of a wrong checksum.
            raise InputError(f"{path} is damaged: {first_line(error)}") from None
