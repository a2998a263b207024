"""A folder of photographs as a data set: which splits and classes it has, and which file is in which.

Two layouts are read, SPLIT/CLASS/*.jpg and CLASS/*.jpg, with further folders below CLASS in either. Nothing
here needs TensorFlow.
"""

import collections
import hashlib
import os
import unicodedata
import warnings
from typing import NamedTuple

from convmixer_keras.images.listing import entries_of, is_folder, is_image, list_images
from convmixer_keras.utils import progress
from convmixer_keras.utils.errors import InputError

VALIDATION_SPLITS = ("validation", "val", "valid", "test")
_LIKE_A_SPLIT = ("train", "test", "val", "eval", "dev")
HELD_OUT = "validation"  # The name of the split that is made where the folder has none.


class FolderSplit(NamedTuple):
    """The files of one split.

    Attributes:
        paths: Dictionary from the name of each class, sorted, to the sorted paths of its images.
        sizes: Dictionary from the name of each class to the bytes of all images in its folder.
    """

    paths: dict[str, list[str]]
    sizes: dict[str, int]


class Folder:
    """A folder of photographs.

    Args:
        root: The folder.
        train_split: Name of the training split.
        validation_share: Share of each class's photographs, over 0 and below 1, that become the split
            `HELD_OUT` where the folder has none to validate on. Which ones follows from the names of the
            files only, and so is the same on every machine. 0 makes no such split.
        named: Further names that are splits, whatever they look like.

    Attributes:
        split_names: Sorted list of the splits' names.

    Raises:
        InputError: If the folder has neither layout.
    """

    def __init__(self, root, train_split="train", validation_share=0.0, named=()):
        self.root = os.path.expanduser(root)
        self._listed = {}
        self._train_split, self._share = train_split, validation_share
        self._divided = None  # The folder whose images are divided into training and validation.
        self._parts = None  # What becomes of them.
        folders = _subfolders(self.root)
        known = (train_split, *VALIDATION_SPLITS)
        if any(f in named or (f in known and self._is_split(f)) for f in folders):
            self.split_names = [f for f in folders if self._is_split(f)]
            if not self.split_names:
                raise self._no_images()
            if train_split in self.split_names and not {*VALIDATION_SPLITS} & {*self.split_names}:
                self._divided = os.path.join(self.root, train_split)
        else:
            self._check_classes(folders)
            self.split_names, self._divided = [train_split], self.root
        if self._divided and validation_share > 0:
            self.split_names = sorted([*self.split_names, HELD_OUT])

    def split(self, name):
        """Returns a `FolderSplit`; a warning counts what is left out of it.

        Raises:
            InputError: If a class has too few photographs to hold one out.
        """
        if not self._divided or name not in (self._train_split, HELD_OUT):
            return self._list(os.path.join(self.root, name))
        if self._share == 0:
            return self._list(self._divided)
        if self._parts is None:
            self._parts = _divide(self._list(self._divided), self._share, self._divided)
        return self._parts[name == HELD_OUT]

    def _list(self, path):
        if path not in self._listed:
            self._listed[path] = _list_split(path)
        return self._listed[path]

    def _is_split(self, name):
        """Whether a folder holds folders with images in them, and no images itself."""
        path = os.path.join(self.root, name)
        if any(map(is_image, entries_of(path))):
            return False
        return any(_holds_image(os.path.join(path, folder)) for folder in _subfolders(path))

    def _no_images(self):
        return InputError(
            f"{self.root} must hold images as CLASS/*.jpg, such as cat/1.jpg, or SPLIT/CLASS/*.jpg, such "
            "as train/cat/1.jpg"
        )

    def _check_classes(self, folders):
        if not any(_holds_image(os.path.join(self.root, folder)) for folder in folders):
            raise self._no_images()
        for folder in folders:
            if folder.lower().startswith(_LIKE_A_SPLIT) and self._is_split(folder):
                raise InputError(
                    f"{os.path.join(self.root, folder)} looks like a split and not like a class: name the "
                    "splits with --train-split and --validation-split, or rename it to train or val"
                )


def check_same_classes(names, there, where):
    """Raises InputError that names the differences between the training split's classes and another's."""
    unknown, missing = sorted(set(there) - set(names)), sorted(set(names) - set(there))
    if unknown or missing:
        parts = [f"has {_quoted(unknown)}, which the training split lacks"] if unknown else []
        parts += [f"lacks {_quoted(missing)}"] if missing else []
        raise InputError(f"the classes of splits must be the same, but {where} {' and '.join(parts)}")


def _quoted(names, most=8):
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def _list_split(path):
    names = progress.shown_if_slow(_subfolders(path), f"listing {path}", "folders")
    listings = {name: list_images(os.path.join(path, name)) for name in names}
    _report_left_out(path, listings)
    paths = {name: listing.images for name, listing in listings.items() if listing.images}
    return FolderSplit(paths, {name: listings[name].size for name in paths})


def _report_left_out(path, listings):
    stray = sum(map(is_image, entries_of(path)))
    counts = sum((listing.left_out for listing in listings.values()), collections.Counter())
    empty = sorted(name for name, listing in listings.items() if not listing.images)
    parts = []
    if counts:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in counts.most_common(5))
        parts.append(f"{counts.total():,} files that are not images ({kinds})")
    if stray:
        parts.append(f"{stray:,} images outside any class folder")
    if empty:
        parts.append(f"{len(empty):,} folders without images ({_quoted(empty, 3)})")
    if parts:
        warnings.warn(f"{path}: left out {' and '.join(parts)}", stacklevel=2)


def _divide(split, share, root):
    """Divides a split in two: what remains of it, and what is held out."""
    remaining, held_out, begin = {}, {}, len(os.path.join(root, ""))
    for name, files in split.paths.items():
        if len(files) < 2:
            raise InputError(
                f"each class needs at least 2 photographs, one of them to validate on, and {name!r} in "
                f"{root} has 1"
            )
        count = min(len(files) - 1, max(1, round(share * len(files))))
        ranked = sorted(files, key=lambda path: _rank(path[begin:]))
        held_out[name], remaining[name] = sorted(ranked[:count]), sorted(ranked[count:])
    return FolderSplit(remaining, split.sizes), FolderSplit(held_out, split.sizes)


def _rank(path):
    """Returns a number that depends on a relative path alone, and is the same on every file system."""
    name = unicodedata.normalize("NFC", path.replace(os.sep, "/"))
    return hashlib.sha256(name.encode()).digest()


def _subfolders(path):
    return sorted(entry.name for entry in entries_of(path) if is_folder(entry))


def _holds_image(folder, depth=8):
    entries = entries_of(folder)
    return any(map(is_image, entries)) or (
        depth > 0 and any(_holds_image(entry.path, depth - 1) for entry in entries if is_folder(entry))
    )
