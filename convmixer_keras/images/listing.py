"""Which files of a folder are images."""

import collections
import os
from typing import NamedTuple

from convmixer_keras.utils.errors import InputError

# Pillow reads all of these, of a GIF the first frame.
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")


class Listing(NamedTuple):
    """The files of a folder and of the folders in it, at any depth.

    Attributes:
        images: Paths of the image files, sorted.
        left_out: Counts the other files by their ending, such as ".txt"; hidden ones are not counted.
        size: Bytes of the image files together.
    """

    images: list[str]
    left_out: collections.Counter
    size: int


def list_images(folder):
    """Lists a folder at any depth. Hidden files and folders do not count.

    A file is an image by its ending, whatever its case. Links to folders are followed, each folder once.

    Returns:
        A `Listing`.
    """
    listing = Listing([], collections.Counter(), 0)
    size = _add(os.fspath(folder), listing, seen=set())
    return listing._replace(images=sorted(listing.images), size=size)


def image_paths(folder):
    """Returns the paths of the image files under a folder, at any depth, sorted."""
    return list_images(folder).images


def entries_of(folder):
    """Returns the `os.DirEntry`s of a folder that are not hidden.

    Raises:
        InputError: If it cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(f"cannot list the folder {folder}: {error.strerror.lower()}") from None


def is_folder(entry):
    """Whether an `os.DirEntry` is a folder, or a link to one; a link that leads to itself is not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _add(folder, listing, seen):
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in seen:  # A link that leads back.
        return 0
    seen.add((status.st_dev, status.st_ino))
    size = 0
    for entry in entries_of(folder):
        if is_folder(entry):
            size += _add(entry.path, listing, seen)
        elif is_image(entry):
            listing.images.append(entry.path)
            size += entry.stat().st_size
        else:
            listing.left_out[_kind(entry)] += 1
    return size


def is_image(entry):
    """Whether an `os.DirEntry` is a regular file with an image's ending and a name in UTF-8."""
    return entry.name.lower().endswith(IMAGE_ENDINGS) and _is_file(entry) and _is_utf8(entry.name)


def _is_file(entry):
    try:
        return entry.is_file()
    except OSError:  # A link that leads to itself.
        return False


def _kind(entry):
    if not _is_utf8(entry.name):
        return "names that are not UTF-8"
    if not _is_file(entry):
        return "no regular files"
    return os.path.splitext(entry.name)[1].lower() or "no ending"


def _is_utf8(name):
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
