"""Where images come from: digits, any tensorflow-datasets name, or a folder."""

import contextlib
import hashlib
import json
import os
import random
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from convmixer_keras.data.tfdata import shuffle
from convmixer_keras.images.folder import HELD_OUT, VALIDATION_SPLITS, Folder, check_same_classes
from convmixer_keras.images.splits import base_name, part, slice_of
from convmixer_keras.utils import extras
from convmixer_keras.utils.errors import InputError, arg, first_line

DIGITS_TEST_SHARE = 0.2
TURNS = 16  # Files to read at a time, and images of each in its turn.
SHUFFLED_BYTES = 2**31  # Larger splits of tensorflow-datasets are shuffled within a window of that size.
DOWNLOAD_SECONDS = 20  # To connect, and between any two parts of a download.
_KINDS = (
    "dataset must be digits, an existing folder with CLASS/*.jpg or SPLIT/CLASS/*.jpg, or a name that "
    "tensorflow-datasets knows"
)


class Split(NamedTuple):
    """Undecoded images with their labels.

    Attributes:
        examples: A `tf.data.Dataset` of (image, label), always in the same order: a uint8 array, the bytes of
            a JPEG or PNG file, or its path.
        size: Number of images.
        shuffled: Function from seed and epoch, which may be tensors, to the same examples in an order that
            follows from these two and nothing else.
        fingerprint: A text that differs where the images do, as far as their names and sizes tell.
        files: List of all pairs (path, label) where images are paths, as those of a folder; else None.
    """

    examples: tf.data.Dataset
    size: int
    shuffled: Callable
    fingerprint: str
    files: list[tuple[str, int]] | None = None

    def named_images(self, numbers):
        """Returns a dictionary from some examples' numbers, from 0, to the name and the image of each.

        An image is a path, the bytes of a file, or an array.
        """
        if self.files:
            return {i: (self.files[i][0], self.files[i][0]) for i in numbers}
        images = enumerate(self.examples.take(max(numbers, default=-1) + 1).as_numpy_iterator())
        return {i: (f"image {i}", image) for i, (image, _) in images if i in numbers}

    def without(self, paths):
        """Returns the split without some of its files."""
        if not self.files or not paths:
            return self
        return _of_files([file for file in self.files if file[0] not in paths], self.fingerprint)


class Source(NamedTuple):
    """A data set.

    Attributes:
        read: Function from the name of a split to a `Split`.
        parts: Function from the name of a split, or of a part of one, to a list of (split, first image,
            image after the last).
    """

    name: str
    split_names: list[str]
    read: Callable[[str], Split]
    parts: Callable[[str], list[tuple[str, int, int]]]
    class_names: list[str]
    channels: int


def resolved(name):
    """Returns the absolute path of a folder, which is good from anywhere, and a data set's name as it is."""
    path = os.path.expanduser(name)
    return os.path.abspath(path) if name != "digits" and os.path.isdir(path) else name


def open_source(recipe, data_dir=None):
    """Opens the data set of a recipe.

    Args:
        recipe: A `Recipe`; `dataset`, `validation_share` and the names of the splits count.
        data_dir: Where tensorflow-datasets keeps its files; None for its own default.

    Returns:
        A `Source`.

    Raises:
        InputError: If there is no such data set, or it has no images with labels.
    """
    if recipe.dataset != "digits" and os.path.isdir(os.path.expanduser(recipe.dataset)):
        return _folder(recipe)
    return open_named(recipe.dataset, data_dir)


def open_named(name, data_dir=None):
    """Opens "digits" or a data set that tensorflow-datasets knows by its name; see `open_source`."""
    check_dataset(name, data_dir)
    return _digits() if name == "digits" else _tfds(name, data_dir)


def check_dataset(dataset, data_dir=None):
    """Raises InputError where `dataset` is neither "digits" nor a folder nor what tensorflow-datasets knows.

    Downloads nothing, so a mistyped name is reported first.
    """
    if dataset == "digits" or os.path.isdir(os.path.expanduser(dataset)):
        return
    path_like = dataset.startswith(("/", ".", "~")) or dataset.endswith("/") or dataset.count("/") > 1
    if not dataset.strip() or path_like or os.path.lexists(dataset):
        raise InputError(f"{_KINDS}, got {dataset!r}, which is no folder")
    _builder(dataset, data_dir)


def _digits():
    """scikit-learn's 1,797 scans of handwritten digits, split by class, always in the same way."""
    extras.require("sklearn")
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
        x, y = splits[base_name(split)]
        part = slice_of(split, len(x))
        x, y = x[part], y[part]
        examples = tf.data.Dataset.from_tensor_slices((x, y))
        return Split(examples, len(x), partial(shuffle, examples, len(x)), "scikit-learn's")

    def parts(split):
        return [part(split, len(splits[base_name(split)][0]))]

    return Source("digits", list(splits), read, parts, [str(name) for name in digits.target_names], 1)


def _folder(recipe):
    """A folder; see `images/folder.py` for its layouts."""
    train = base_name(recipe.train_split or "train")
    asked_for = (recipe.train_split, recipe.validation_split, recipe.test_split)
    named = [base_name(name) for name in asked_for if name]
    divides = recipe.validation_split is None or base_name(recipe.validation_split) == HELD_OUT
    root = os.path.expanduser(recipe.dataset)
    folder = Folder(root, train, recipe.validation_share if divides else 0.0, named)
    candidates = (train, *named, *VALIDATION_SPLITS, *folder.split_names)
    names = sorted(folder.split(next(name for name in candidates if name in folder.split_names)).paths)
    numbers = {name: i for i, name in enumerate(names)}

    def read(split):
        name = base_name(split)
        found = folder.split(name)
        check_same_classes(names, found.paths, f"{name!r} of {root}")
        files = [(path, numbers[name]) for name, paths in sorted(found.paths.items()) for path in paths]
        # Shuffled once, so that the first images are not all of one class.
        random.Random(name).shuffle(files)
        files = files[slice_of(split, len(files))]
        facts = [[path[len(root) :] for path, _ in files], found.sizes]
        fingerprint = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        return _of_files(files, fingerprint)

    def parts(split):
        return [part(split, sum(map(len, folder.split(base_name(split)).paths.values())))]

    return Source(root, folder.split_names, read, parts, names, 3)


def _of_files(files, fingerprint):
    """The `Split` of a list of pairs (path, label)."""
    paths = tf.constant([path for path, _ in files])
    labels = tf.constant([label for _, label in files], tf.int64)
    places = tf.data.Dataset.range(len(files))  # Shuffled in place of a million paths, for its memory.

    def example(place):
        return tf.gather(paths, place), tf.gather(labels, place)

    def shuffled(seed, epoch):
        return shuffle(places, len(files), seed, epoch).map(example)

    return Split(places.map(example), len(files), shuffled, fingerprint, files)


def _builder(name, data_dir):
    extras.require("tensorflow_datasets")
    import tensorflow_datasets as tfds

    # tensorflow-datasets would make it, and download everything to a mistyped place.
    if data_dir and "://" not in str(data_dir) and not os.path.isdir(os.path.expanduser(data_dir)):
        raise InputError(f"{arg('data_dir')} must be an existing folder, got {data_dir}")
    try:
        return tfds.builder(name, data_dir=data_dir)
    except (tfds.core.registered.DatasetNotFoundError, ValueError):  # ValueError: not the form of a name
        raise InputError(f"{_KINDS}, got {name!r}") from None


def _tfds(name, data_dir):
    """A data set of tensorflow-datasets, downloaded and prepared at its first use."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import downloader

    builder = _builder(name, data_dir)
    features = builder.info.features
    # A list of labels is no ClassLabel, though it has their names.
    kind = type(features["label"]) if {"image", "label"} <= set(features) else None
    if kind is not tfds.features.ClassLabel:
        kinds = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in features.items())
        raise InputError(f"dataset {name} must have images with one class label each, but has {kinds}")
    _fail_soon(downloader)
    try:
        builder.download_and_prepare()
    # AssertionError: of files that have to be downloaded by hand.
    except (OSError, AssertionError, tfds.download.DownloadError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"dataset {name} cannot be downloaded and prepared: {reason}; a folder with its images as "
            f"SPLIT/CLASS/*.jpg works as well: {arg('dataset', 'FOLDER')}"
        ) from error
    splits = builder.info.splits

    def read(split):
        with _named_split(split, name):
            images, whole = splits[split].num_examples, splits[base_name(split)]
        # Always in the same order.
        read_config = tfds.ReadConfig(
            interleave_cycle_length=TURNS, interleave_block_length=TURNS, try_autocache=False
        )
        examples = _undecoded(builder, split, read_config=read_config)
        shards, size = _shards(builder, split), whole.num_bytes * images / whole.num_examples

        def shuffled(seed, epoch):
            if size <= SHUFFLED_BYTES:
                return shuffle(examples, images, seed, epoch)
            window = max(1, int(images * SHUFFLED_BYTES / size))
            return shuffle(shards(seed, epoch) if shards else examples, window, seed, epoch)

        return Split(examples, images, shuffled, f"{builder.info.full_name}, {whole.num_bytes} bytes")

    def parts(split):
        with _named_split(split, name):
            found = tfds.core.ReadInstruction.from_spec(split).to_absolute(splits)
        sizes = {part.splitname: splits[part.splitname].num_examples for part in found}
        return [(p.splitname, p.from_ or 0, sizes[p.splitname] if p.to is None else p.to) for p in found]

    channels = features["image"].shape[-1] or 3
    return Source(name, list(splits), read, parts, features["label"].names, channels)


def _fail_soon(downloader):
    """Limits the retries and the waiting time of tensorflow-datasets' downloads.

    By default it tries 11 times, for more than 3 minutes, and waits forever for a silent server.
    """
    downloader.MAX_RETRIES = 4
    if not isinstance(downloader._open_with_requests, partial):
        opened = partial(downloader._open_with_requests, timeout=DOWNLOAD_SECONDS)
        downloader._open_with_requests = opened


@contextlib.contextmanager
def _named_split(split, dataset):
    """Within this block, the errors of tensorflow-datasets about a split become InputErrors."""
    try:
        yield
    except (ValueError, AssertionError, KeyError) as error:
        raise InputError(f"split {split!r} of {dataset} cannot be read: {first_line(error)}") from None


def _undecoded(builder, split, **options):
    import tensorflow_datasets as tfds

    decoders = {"image": tfds.decode.SkipDecoding()}
    examples = builder.as_dataset(split=split, decoders=decoders, **options)
    return examples.map(lambda example: (example["image"], example["label"]))


def _shards(builder, split):
    """Returns a function from seed and epoch to the examples of a split, its files in an order of that epoch.

    None where it has only one. (tensorflow-datasets itself shuffles files by a seed that cannot be a tensor.)
    """
    import tensorflow_datasets as tfds

    parts = builder.info.splits[split].file_instructions
    if builder.info.file_format != tfds.core.FileFormat.TFRECORD or len(parts) < 2:
        return None
    names = np.array([str(part.filename) for part in parts])
    skipped, taken = np.array([(part.skip, part.take) for part in parts], np.int64).T

    def read(name, skip, take):
        return tf.data.TFRecordDataset(name).skip(skip).take(take)

    def parse(record):
        decoders = {"image": tfds.decode.SkipDecoding()}
        example = builder.info.features.deserialize_example(record, decoders=decoders)
        return example["image"], example["label"]

    def shards(seed, epoch):
        seeds = tf.stack([tf.cast(seed, tf.int64), tf.cast(epoch, tf.int64)])
        order = tf.argsort(tf.random.stateless_uniform((len(parts),), seeds))
        files = tuple(tf.gather(values, order) for values in (names, skipped, taken))
        return (
            tf.data.Dataset.from_tensor_slices(files)
            .interleave(read, TURNS, TURNS, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            .map(parse, num_parallel_calls=tf.data.AUTOTUNE)
        )

    return shards
