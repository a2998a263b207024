"""Data sets that tensorflow-datasets knows by their names, downloaded and prepared at their first use."""

import contextlib
import os
from functools import partial

import numpy as np
import tensorflow as tf

from convmixer_keras.data.source import Source, Split
from convmixer_keras.data.tfdata import shuffle
from convmixer_keras.images.splits import base_name
from convmixer_keras.utils import extras
from convmixer_keras.utils.errors import InputError, arg, first_line

TURNS = 16  # Files to read at a time, and images of each in its turn.
SHUFFLED_BYTES = 2**31  # Larger splits are shuffled within a window of that size.
DOWNLOAD_SECONDS = 20  # To connect, and between any two parts of a download.
KINDS = (
    "must be digits, an existing folder with CLASS/*.jpg or SPLIT/CLASS/*.jpg, or a name that "
    "tensorflow-datasets knows"
)


def builder_of(name, data_dir):
    extras.require("tensorflow_datasets")
    import tensorflow_datasets as tfds

    # tensorflow-datasets would make it, and download everything to a mistyped place.
    if data_dir and "://" not in str(data_dir) and not os.path.isdir(os.path.expanduser(data_dir)):
        raise InputError(f"{arg('data_dir')} must be an existing folder, got {data_dir}")
    try:
        return tfds.builder(name, data_dir=data_dir)
    except (AssertionError, ImportError) as error:  # There is no such version; a package is missing.
        raise InputError(f"dataset {name} cannot be opened: {first_line(error)}") from None
    except (tfds.core.registered.DatasetNotFoundError, ValueError):  # ValueError: not the form of a name
        raise InputError(f"{arg('dataset')} {KINDS}, got {name!r}") from None


def open_tfds(name, data_dir):
    """A data set of tensorflow-datasets, downloaded and prepared at its first use."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import download_manager, downloader

    builder = builder_of(name, data_dir)
    features = builder.info.features
    # A list of labels is no ClassLabel, though it has their names.
    kind = type(features["label"]) if {"image", "label"} <= set(features) else None
    if kind is not tfds.features.ClassLabel:
        kinds = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in features.items())
        raise InputError(f"dataset {name} must have images with one class label each, but has {kinds}")
    _fail_soon(downloader)
    # AssertionError: of files that have to be downloaded by hand; ImportError: of a package that is missing.
    unprepared = (OSError, AssertionError, ImportError, tfds.download.DownloadError)
    unprepared += (download_manager.NonMatchingChecksumError,)
    try:
        try:
            builder.download_and_prepare()
        except OSError:
            builder = builder_of(name, data_dir)
            if not builder.is_prepared():  # Else another process was first.
                raise
    except unprepared as error:
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
