"""Which files of a folder are images."""

import collections
import os
from typing import NamedTuple

from convmixer_keras.utils.errors import InputError
from convmixer_keras.utils.text import is_utf8

# Pillow reads these, of a GIF the first frame; the last two with a plugin.
IMAGE_ENDINGS = (
    ".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif"
)  # fmt: skip
# Folders of other programs, in lower case: thumbnails, deleted files, what an archive holds for macOS.
_NOT_THE_USERS = (
    "@eadir", "@tmp", "__macosx", "lost+found", "found.000", "#recycle", "@recycle", "$recycle.bin",
    "#snapshot", "~snapshot", "@recently-snapshot", "system volume information"
)  # fmt: skip


class Listing(NamedTuple):
    """The files of a folder and of the folders in it, at any depth.

    Attributes:
        images: Paths of the image files, sorted.
        left_out: Counts the other files by their ending, such as ".txt"; hidden ones are not counted.
        size: Bytes of the image files together.
        links: Paths of the links to folders that were followed.
    """

    images: list[str]
    left_out: collections.Counter
    size: int
    links: list[str]


def list_images(folder, beside=()):
    """Lists a folder at any depth, without hidden files and folders; returns a `Listing`.

    A file is an image by its ending, whatever its case. Links to folders are followed, but not back: into
    `folder` or one of `beside`, the real paths of other folders that are listed, or to one that holds them.
    Its images are another class's, or twice there.
    """
    folder, left_out, links = os.fspath(folder), collections.Counter(), []
    listed = (os.path.realpath(folder), *beside)
    images = sorted(images_in(folder, listed, left_out, links=links))
    return Listing([path for path, _ in images], left_out, sum(size for _, size in images), links)


def other_files(counts):
    """Says of how many files of which kinds the counts of `Listing.left_out` are."""
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in counts.most_common(5))
    return f"{counts.total():,} files that are not images ({kinds})"


def image_paths(folder):
    """Returns the paths of the image files under a folder, at any depth, sorted."""
    return list_images(folder).images


def entries_of(folder):
    """Returns a folder's `os.DirEntry`s without hidden ones; raises InputError if it cannot be listed."""

    def is_shown(name):
        return not name.startswith(".") and name.lower() not in _NOT_THE_USERS

    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if is_shown(entry.name)]
    except OSError as error:
        raise InputError(f"cannot list the folder {folder}: {error.strerror.lower()}") from None


def is_folder(entry):
    """Whether an `os.DirEntry` is a folder, or a link to one; a link that leads to itself is not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_image(entry):
    """Whether an `os.DirEntry` is a regular file with an image's ending and a name in UTF-8."""
    return entry.name.lower().endswith(IMAGE_ENDINGS) and _is_file(entry) and is_utf8(entry.name)


def images_in(folder, listed=(), left_out=None, seen=None, links=None):
    """Yields path and size of each image as `list_images` finds them.

    Counts other files in `left_out`, and adds the links to folders that it follows to `links`.
    """
    left_out, seen = collections.Counter() if left_out is None else left_out, seen or set()
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in seen:  # A link that leads back.
        return
    seen.add((status.st_dev, status.st_ino))
    for entry in entries_of(folder):
        if is_folder(entry):
            if leads_back(entry, listed):
                left_out["links back"] += 1
            else:
                if links is not None and entry.is_symlink():
                    links.append(entry.path)
                yield from images_in(entry.path, listed, left_out, seen, links)
        elif is_image(entry):
            yield entry.path, entry.stat().st_size
        else:
            left_out[_kind(entry)] += 1


def leads_back(entry, listed):
    """Whether an `os.DirEntry` is a link into one of some folders, real paths, or to what holds one."""
    if not entry.is_symlink():
        return False
    target = os.path.realpath(entry.path)
    return any(os.path.commonpath((target, folder)) in (target, folder) for folder in listed)


def _is_file(entry):
    try:
        return entry.is_file()
    except OSError:  # A link that leads to itself.
        return False


def _kind(entry):
    if not is_utf8(entry.name):
        return "names that are not UTF-8"
    if not _is_file(entry):
        return "no regular files"
    return os.path.splitext(entry.name)[1].lower() or "no ending"
