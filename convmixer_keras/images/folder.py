"""A folder of photographs as a data set: which splits and classes it has, and which file is in which.

Two layouts are read, SPLIT/CLASS/*.jpg and CLASS/*.jpg, with further folders below CLASS in either. Nothing
here needs TensorFlow.
"""

import collections
import hashlib
import itertools
import os
import re
import unicodedata
import warnings
from collections.abc import Collection
from typing import NamedTuple

from convmixer_keras.images.listing import (
    entries_of,
    is_folder,
    is_image,
    leads_back,
    list_images,
    other_files,
)
from convmixer_keras.utils import progress
from convmixer_keras.utils.errors import InputError, arg
from convmixer_keras.utils.files import Path
from convmixer_keras.utils.text import is_utf8

VALIDATION_SPLITS = ("validation", "val", "valid", "test")
# Names in lower case that nearly are a split's: training, train2017, val_images.
_LIKE_A_SPLIT = re.compile(
    r"(train|test|val|valid|validation|eval|dev)(ing|uation|set)?([-_ ]?\d.*|[-_ ].*)?"
)
HELD_OUT = "validation"  # The name of the split that is made where the folder has none.


class FolderSplit(NamedTuple):
    """The files of one split, by the names of its classes."""

    paths: dict[str, list[str]]  # Sorted, as the classes are.
    sizes: dict[str, int]  # Bytes of all images in the class's folder.


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

    def __init__(
        self,
        root: Path,
        train_split: str = "train",
        validation_share: float = 0.0,
        named: Collection[str] = (),
    ):
        self.root = os.path.expanduser(root)
        self._listed = {}
        self._train_split, self._share = train_split, validation_share
        self._divided = None  # The folder whose images are divided into training and validation.
        self._parts = None  # What becomes of them.
        _report_links_back(self.root, self.root)
        self.split_names = self._splits(_subfolders(self.root, self.root), named)
        if not self.split_names:
            self.split_names, self._divided = [train_split], self.root
        elif train_split in self.split_names and not {*VALIDATION_SPLITS} & {*self.split_names}:
            self._divided = os.path.join(self.root, train_split)
        below = [self._path(name) for name in self.split_names] if not self._divided else [self._divided]
        self._classes = [os.path.join(path, name) for path in below for name in _subfolders(path, self.root)]
        _check_links(self._classes)
        if self._divided and validation_share > 0:
            self.split_names = sorted([*self.split_names, HELD_OUT])

    def split(self, name: str) -> FolderSplit:
        """Returns a `FolderSplit`; a warning counts what is left out of it."""
        if not self._divided or name not in (self._train_split, HELD_OUT):
            return self._list(os.path.join(self.root, name))
        if self._share == 0:
            return self._list(self._divided)
        if self._parts is None:
            self._parts = _divide(self._list(self._divided), self._share, self._divided)
        return self._parts[name == HELD_OUT]

    def _list(self, path):
        if path not in self._listed:
            self._listed[path], links = _list_split(path, self.root)
            self._classes += links
            _check_links(self._classes)
        return self._listed[path]

    def _splits(self, folders, named):
        """Returns which folders are splits, none where they are classes; what may be both is an error.

        A split has one of the known names and holds a folder for each class. Beside splits there are only
        splits, unless the caller names one.
        """
        known = {self._train_split, *VALIDATION_SPLITS, *named}
        splits = [name for name in folders if name in known and self._holds_classes(name)]
        if not splits:
            self._check_classes(folders, known)
            return []
        others = [name for name in folders if name not in splits and _holds_image(self._path(name))]
        foreign = [name for name in others if name not in known]
        if {*named} - {*folders, HELD_OUT}:  # One is asked for that is not there: its error names these.
            return sorted([*splits, *filter(self._holds_classes, foreign)])
        if foreign and not {*splits} & {*named}:
            if all(map(self._holds_images_itself, splits)):
                return []
            raise InputError(
                f"{self._path(splits[0])} holds folders of images as a split does, and {foreign[0]!r} beside "
                "it is no split. If it is a class, move its images up into it; if it is a split, move the "
                f"other elsewhere, or name the splits with {arg('train_split')} and "
                f"{arg('validation_split')}"
            )
        if others:
            warnings.warn(f"{self.root}: left out {_quoted(others)}, no splits of classes", stacklevel=3)
        return splits

    def _check_classes(self, folders, known):
        """Raises InputError for folders that hold no images, and for splits of other names."""
        if not any(_holds_image(self._path(name)) for name in folders):
            raise InputError(
                f"{self.root} must hold images as CLASS/*.jpg, such as cat/1.jpg, or SPLIT/CLASS/*.jpg, such "
                "as train/cat/1.jpg"
            )
        if known.issuperset(folders) and len(folders) > 1:
            raise InputError(
                f"{self._path(folders[0])} is named like a split, and must hold a folder for each class: "
                "images go to SPLIT/CLASS/*.jpg"
            )
        for name in folders:
            if not _LIKE_A_SPLIT.fullmatch(name.lower()) or self._holds_images_itself(name):
                continue
            if self._holds_classes(name):
                raise InputError(
                    f"{self._path(name)} looks like a split and not like a class: name the splits with "
                    f"{arg('train_split')} and {arg('validation_split')}, or rename it to train or "
                    "val. If it is a class, move its images up into it"
                )

    def _path(self, name):
        return os.path.join(self.root, name)

    def _holds_classes(self, name):
        return any(
            _holds_image(os.path.join(self._path(name), f)) for f in _subfolders(self._path(name), self.root)
        )

    def _holds_images_itself(self, name):
        return any(map(is_image, entries_of(self._path(name))))


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


def _list_split(path, root):
    folders = progress.shown_if_slow(_subfolders(path, root), f"listing {path}", "folders")
    linked = (entry.path for entry in entries_of(path) if entry.is_symlink())
    beside = tuple(map(os.path.realpath, (root, path, *linked)))
    listings = {name: list_images(os.path.join(path, name), beside) for name in folders}
    _report_left_out(path, listings)
    if path != root:
        _report_links_back(path, root)
    paths, sizes = {}, collections.Counter()
    for folder, listing in listings.items():
        if not listing.images:
            continue
        if not is_utf8(folder):
            raise InputError(f"the name of the class {folder!r} in {path} must be in UTF-8")
        name = unicodedata.normalize("NFC", folder)  # One system writes it so, another in parts.
        paths[name] = sorted([*paths.get(name, ()), *listing.images])
        sizes[name] += listing.size
    links = [link for listing in listings.values() for link in listing.links]
    return FolderSplit(paths, dict(sizes)), links


def _report_left_out(path, listings):
    stray = sum(map(is_image, entries_of(path)))
    counts = sum((listing.left_out for listing in listings.values()), collections.Counter())
    empty = sorted(name for name, listing in listings.items() if not listing.images)
    parts = []
    if counts:
        parts.append(other_files(counts))
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


def _subfolders(path, root):
    """Returns the names of the folders in one, but for links that lead back into the data set."""
    own = (os.path.realpath(root),)
    return sorted(entry.name for entry in entries_of(path) if is_folder(entry) and not leads_back(entry, own))


def _check_links(folders):
    """Raises InputError where one of some folders, behind its links, is another one or lies in it."""
    real = sorted((os.path.join(os.path.realpath(path), ""), path) for path in folders)
    for (one, path), (other, second) in itertools.pairwise(real):
        if other.startswith(one):
            raise InputError(f"{path} and {second} lead to the same images")


def _report_links_back(path, root):
    links = {entry.name for entry in entries_of(path) if is_folder(entry)} - {*_subfolders(path, root)}
    if links:
        warnings.warn(f"{path}: left out {_quoted(sorted(links))}, links back into it", stacklevel=2)


def _holds_image(folder, depth=8):
    entries = entries_of(folder)
    return any(map(is_image, entries)) or (
        depth > 0 and any(_holds_image(entry.path, depth - 1) for entry in entries if is_folder(entry))
    )
