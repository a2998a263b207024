"""Where images come from: digits, any tensorflow-datasets name, or a folder."""

import hashlib
import json
import os
import random
from functools import partial

import numpy as np
import tensorflow as tf

from convmixer_keras.data.named import KINDS, builder_of, open_tfds
from convmixer_keras.data.source import Source, Split, of_files
from convmixer_keras.data.tfdata import shuffle
from convmixer_keras.images.folder import HELD_OUT, VALIDATION_SPLITS, Folder, check_same_classes
from convmixer_keras.images.splits import base_name, part, slice_of
from convmixer_keras.utils import extras
from convmixer_keras.utils.errors import InputError, arg

DIGITS_TEST_SHARE = 0.2


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
    return _digits() if name == "digits" else open_tfds(name, data_dir)


def check_dataset(dataset, data_dir=None):
    """Raises InputError where `dataset` is neither "digits" nor a folder nor what tensorflow-datasets knows.

    Downloads nothing, so a mistyped name is reported first.
    """
    if dataset == "digits" or os.path.isdir(os.path.expanduser(dataset)):
        return
    path_like = dataset.startswith(("/", ".", "~")) or dataset.endswith("/") or dataset.count("/") > 1
    if not dataset.strip() or path_like or os.path.lexists(dataset):
        raise InputError(f"{arg('dataset')} {KINDS}, got {dataset!r}, which is no folder")
    builder_of(dataset, data_dir)


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
        return of_files(files, fingerprint)

    def parts(split):
        return [part(split, sum(map(len, folder.split(base_name(split)).paths.values())))]

    return Source(root, folder.split_names, read, parts, names, 3)
