"""How much a file may unpack to, so that a small one cannot fill the memory or the disk."""

import os
import zipfile

from convmixer_keras.utils.errors import InputError

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
                f"{path} is packed by a method that is not read ({entry.compress_type}): {entry.filename}"
            )
    check_unpacked(path, sum(entry.file_size for entry in entries))
