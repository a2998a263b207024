"""Where images come from: digits, any tensorflow-datasets name, or a folder."""

import os
import random
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from convmixer_keras.utils.errors import InputError

IMAGE_FILES = (".jpg", ".jpeg", ".png")
DIGITS_TEST_SHARE = 0.2


class Split(NamedTuple):
    """Undecoded examples (image, label): a uint8 array, the bytes of a JPEG or PNG file, or its path.

    Paths are what a folder gives; `files` then lists all of them, each with its label.
    """

    examples: tf.data.Dataset
    size: int
    bytes: float
    files: list[tuple[str, int]] | None = None


class Source(NamedTuple):
    """A data set: `read` takes the name of a split and returns a `Split`."""

    name: str
    split_names: list[str]
    read: Callable[[str], Split]
    class_names: list[str]
    channels: int


def open_source(dataset, data_dir):
    if dataset == "digits":
        return _digits()
    if os.path.isdir(os.path.expanduser(dataset)):
        return _folder(os.path.expanduser(dataset))
    return _tfds(dataset, data_dir)


def _digits():
    """scikit-learn's 1,797 scans of handwritten digits, every class split alike, always the same way."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    # Grey levels are 0..16; everything in this package works in 0..255.
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    train_x, test_x, train_y, test_y = train_test_split(
        images, digits.target, test_size=DIGITS_TEST_SHARE, stratify=digits.target, random_state=0
    )
    splits = {"train": (train_x, train_y), "test": (test_x, test_y)}

    def read(split):
        x, y = splits[split]
        return Split(tf.data.Dataset.from_tensor_slices((x, y)), len(x), x.nbytes)

    return Source("digits", list(splits), read, [str(name) for name in digits.target_names], 1)


def _folder(root):
    """A folder SPLIT/CLASS/*.jpg or *.png; hidden files and folders, and any others, do not count."""
    listed = {
        split.name: {folder.name: _image_files(folder) for folder in _folders(split)}
        for split in _folders(root)
    }
    class_names = sorted({name for classes in listed.values() for name in classes})
    listed = {split: classes for split, classes in listed.items() if any(classes.values())}
    if not listed:
        raise InputError(f"{root} must hold images as SPLIT/CLASS/*.jpg or *.png, such as train/cat/1.jpg")

    def read(split):
        files = [
            (entry.path, class_names.index(name))
            for name, entries in sorted(listed[split].items())
            for entry in entries
        ]
        # In an order of its own, so that the first images are not all of one class.
        random.Random(split).shuffle(files)
        paths, labels = zip(*files, strict=True)
        examples = tf.data.Dataset.from_tensor_slices((list(paths), np.array(labels, np.int64)))
        size = sum(entry.stat().st_size for entries in listed[split].values() for entry in entries)
        return Split(examples, len(files), size, files)

    return Source(root, sorted(listed), read, class_names, 3)


def _folders(path):
    entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    return [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]


def _image_files(folder):
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    return [
        entry
        for entry in entries
        if entry.name.lower().endswith(IMAGE_FILES) and not entry.name.startswith(".") and entry.is_file()
    ]


def _tfds(name, data_dir):
    """A data set of tensorflow-datasets, downloaded and prepared at its first use."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (tfds.core.registered.DatasetNotFoundError, ValueError):  # ValueError: not the form of a name
        raise InputError(
            "dataset must be digits, an existing folder with SPLIT/CLASS/*.jpg, or a name that "
            f"tensorflow-datasets knows, got {name!r}"
        ) from None
    features = builder.info.features
    if not {"image", "label"} <= set(features) or not hasattr(features["label"], "names"):
        raise InputError(
            f"dataset {name} must have images with one class label each, but has {list(features)}"
        )
    try:
        builder.download_and_prepare()
    except (OSError, AssertionError, tfds.download.DownloadError) as error:  # AssertionError: by hand
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"dataset {name} cannot be downloaded and prepared: {reason}") from error
    splits = builder.info.splits

    def read(split):
        images, whole = splits[split].num_examples, splits[_without_slice(split)]
        # Files are read one after the other, so that the order of training follows from the seed alone.
        read_config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
        return Split(
            _undecoded(builder, split, read_config=read_config),
            images,
            whole.num_bytes * images / whole.num_examples,
        )

    channels = features["image"].shape[-1] or 3
    return Source(name, list(splits), read, features["label"].names, channels)


def _undecoded(builder, split, **options):
    import tensorflow_datasets as tfds

    decoders = {"image": tfds.decode.SkipDecoding()}
    examples = builder.as_dataset(split=split, decoders=decoders, **options)
    return examples.map(lambda example: (example["image"], example["label"]))


def split_name(source, name, defaults):
    """Returns the name of the split to read: the one that is asked for, or the first default there is."""
    if name is None:
        name = next((default for default in defaults if default in source.split_names), defaults[0])
    if _without_slice(name) not in source.split_names:
        there = ", ".join(source.split_names)
        raise InputError(f"dataset {source.name} has no split {name!r}; it has: {there}")
    return name


def _without_slice(split):
    """Takes the slice off a tensorflow-datasets split: "train[:90%]" is part of "train"."""
    return split.split("[")[0]
