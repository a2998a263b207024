"""tf.data pipelines: digits, any tensorflow-datasets name, or a folder of images."""

import os
import random
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from convmixer_keras.data import augmentation
from convmixer_keras.utils import checks
from convmixer_keras.data.bad_images import BadImages, read_file, zeros_like_spec
from convmixer_keras.utils.errors import InputError
from convmixer_keras.data.preprocessing import evaluation_transform

VALIDATION_SPLITS = ("validation", "val", "valid", "test")
IMAGE_FILES = (".jpg", ".jpeg", ".png")
SHUFFLED_IMAGES = 16_384  # Where images come one after the other and do not all fit into memory.
DIGITS_TEST_SHARE = 0.2
FILLING = -1  # The label of what only fills up a batch.


class Data(NamedTuple):
    """What `load` returns.

    Attributes:
        train: Batches of float32 images (batch_size / workers, size, size, channels), raw pixels 0..255, and
            float32 labels (batch_size / workers, classes), each row of which sums to 1. One pass is one
            epoch; every pass has another order, and the last, smaller batch is left out. Its `cardinality`
            is that of a full pass.
        validation: The same without augmentation, in a fixed order, with the last, smaller batch. With
            several workers also float32 weights (batch_size / workers,): every worker has the same number of
            full batches, and what fills up the last ones has the weight 0.
        class_names: The name of each class, in the order of the labels.
        train_size, validation_size: Number of images, over all workers.
        channels: Number of channels.
        steps, validation_steps: Number of batches in a full pass, the same for every worker.
        epoch: A `tf.Variable` that counts the passes over `train`. The order of a pass follows from the seed
            and this number alone, so that a run that goes on later sets it to where it was.
        first_batch: A `tf.Variable`: how many batches the next pass leaves out from its beginning, without
            decoding them. What follows is as it would have been. Back to 0 as soon as that pass has begun.
            Keras warns that such a pass "ran out of data", and goes on as it should.
        bad_images: The `BadImages` of both pipelines.
    """

    train: tf.data.Dataset
    validation: tf.data.Dataset
    class_names: list[str]
    train_size: int
    validation_size: int
    channels: int
    steps: int
    validation_steps: int
    epoch: tf.Variable
    first_batch: tf.Variable
    bad_images: BadImages


class _Split(NamedTuple):
    """Undecoded examples (image, label): a uint8 array, the bytes of a JPEG or PNG file, or its path.

    Paths are what a folder gives; `files` then lists all of them, each with its label.
    """

    examples: tf.data.Dataset
    size: int
    bytes: float
    files: list[tuple[str, int]] | None = None


class _Source(NamedTuple):
    """A data set: `read` takes the name of a split and returns a `_Split`."""

    name: str
    split_names: list[str]
    read: Callable[[str], _Split]
    class_names: list[str]
    channels: int


class _Share(NamedTuple):
    """Worker number `worker` of `workers`, which take the elements of every batch by turns."""

    worker: int
    workers: int

    def of(self, dataset):
        return dataset.shard(self.workers, self.worker) if self.workers > 1 else dataset


def load(recipe, data_dir=None, *, worker=0, workers=1, max_bad_images=0):
    """Makes the training and the validation pipeline of a recipe's data set.

    Args:
        recipe: A `Recipe`. Its `dataset` is "digits" (8x8 scans in scikit-learn), a folder that holds
            SPLIT/CLASS/*.jpg or *.png, or a name that tensorflow-datasets knows. `train_split` and
            `validation_split` name the splits, for tensorflow-datasets also slices such as "train[:90%]";
            None stands for "train", and for the first there is of "validation", "val", "valid", "test".
            The recipe also says image size, batch size, augmentation, evaluation crop and seed.
        data_dir: Where tensorflow-datasets keeps its files; None for its own default.
        worker: Which of the workers this is, from 0.
        workers: How many processes train together. Each takes its share of every batch: batch i of all of
            them together is batch i of a single worker.
        max_bad_images: How many files of a folder may turn out not to be readable as images. Each is named
            by a warning. In training the next file of the split takes its place; validation leaves it out.
            One more is an error, `BadImages.error`. Every worker counts those that it meets.

    Returns:
        A `Data`.

    Raises:
        InputError: If there is no such data set or split, it has no images with labels, or the batch cannot
            be shared by the workers.
    """
    share = _share(worker, workers, recipe.batch_size)
    if max_bad_images < 0:
        raise InputError(f"max_bad_images must be at least 0, got {max_bad_images}")
    bad_images = BadImages(max_bad_images)
    source = _source(recipe.dataset, data_dir)
    train = source.read(_split_name(source, recipe.train_split, ("train",)))
    validation = _validation(source, recipe, share, bad_images)
    if recipe.batch_size > train.size:
        raise InputError(
            f"batch_size must be at most the {train.size} training images of {recipe.dataset}, "
            f"got {recipe.batch_size}"
        )
    if len(source.class_names) < 2:
        raise InputError(f"dataset {recipe.dataset} must have at least two classes, has {source.class_names}")
    for name in ("mean", "std"):
        if len(getattr(recipe, name)) not in (1, source.channels):
            raise InputError(
                f"{name} must have one value, or one for each of the {source.channels} channels of "
                f"{recipe.dataset}, got {getattr(recipe, name)}"
            )
    epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
    first_batch = tf.Variable(0, dtype=tf.int64, trainable=False)
    return Data(
        train=_training_pipeline(source, train, recipe, share, epoch, first_batch, bad_images),
        validation=validation.images,
        class_names=validation.class_names,
        train_size=train.size,
        validation_size=validation.size,
        channels=validation.channels,
        steps=train.size // recipe.batch_size,
        validation_steps=validation.steps,
        epoch=epoch,
        first_batch=first_batch,
        bad_images=bad_images,
    )


def _share(worker, workers, batch_size):
    workers = checks.positive_int("workers", workers)
    if not 0 <= worker < workers:
        raise InputError(f"worker must be at least 0 and below workers={workers}, got {worker}")
    if batch_size % workers:
        raise InputError(f"batch_size must be a multiple of the {workers} workers, got {batch_size}")
    return _Share(worker, workers)


class Validation(NamedTuple):
    """What `load_validation` returns; the fields are those of `Data`."""

    images: tf.data.Dataset
    class_names: list[str]
    size: int
    channels: int
    steps: int
    bad_images: BadImages


def load_validation(recipe, data_dir=None):
    """Makes the validation pipeline alone; arguments and errors are those of `load`."""
    return _validation(_source(recipe.dataset, data_dir), recipe, _Share(0, 1), BadImages(0))


def _validation(source, recipe, share, bad_images):
    split = source.read(_split_name(source, recipe.validation_split, VALIDATION_SPLITS))
    steps = -(-split.size // recipe.batch_size)
    examples, read, _ = _in_memory(split)
    if share.workers > 1:
        examples = share.of(_filled_up(examples, steps * recipe.batch_size))

    def decoded(image, path):
        if split.files is None:
            return augmentation.decode(image, source.channels)
        return bad_images.decoded(augmentation.decode, read, image, path)

    def to_image(image, label, path):
        pixel = tf.zeros((1, 1, source.channels), tf.uint8)
        image = tf.cond(label == FILLING, lambda: pixel[:0], lambda: decoded(image, path))
        weight = tf.cast(tf.size(image) > 0, tf.float32)
        image = tf.cond(weight > 0, lambda: image, lambda: pixel)
        image = evaluation_transform(image, recipe.image_size, recipe.crop_pct, recipe.interpolation)
        return image, label, weight

    examples = examples.map(to_image, num_parallel_calls=tf.data.AUTOTUNE)
    if share.workers == 1:
        examples = examples.filter(lambda image, label, weight: weight > 0)

    def to_batch(images, labels, weights):
        labels = augmentation.one_hot(labels, len(source.class_names))
        return (images, labels, weights) if share.workers > 1 else (images, labels)

    images = (
        examples.batch(recipe.batch_size // share.workers)
        .map(to_batch)
        .apply(lambda batches: _with_cardinality(batches, steps))
        .with_options(_not_sharded())
        .prefetch(tf.data.AUTOTUNE)
    )
    return Validation(images, source.class_names, split.size, source.channels, steps, bad_images)


def _training_pipeline(source, split, recipe, share, epoch, first_batch, bad_images):
    examples, read, shuffle_buffer = _in_memory(split)
    steps = split.size // recipe.batch_size

    def begin(_):
        skipped = tf.identity(first_batch)
        first_batch.assign(0)
        return epoch.assign_add(1) - 1, skipped

    def examples_of_pass(epoch, skipped):
        shuffled = _shuffle(examples, shuffle_buffer, recipe.seed, epoch).enumerate()
        rest = shuffled.take(steps * recipe.batch_size).skip(skipped * recipe.batch_size)
        return share.of(rest).map(lambda position, example: (epoch, position, *example))

    def to_image(epoch, position, image, label, path):
        draws = augmentation.draw(recipe, epoch, position)

        def decode(image):
            return augmentation.decode_crop(image, source.channels, recipe, draws)

        if split.files is None:
            image = decode(image)
        else:
            image, label = bad_images.replaced(decode, read, image, label, path, split.files)
        return augmentation.resize_crop(image, recipe, draws), label, draws

    batch_transform = augmentation.batch_transform(recipe, source.channels, len(source.class_names))
    return (
        tf.data.Dataset.from_tensors(0)
        .map(begin)
        .flat_map(examples_of_pass)
        .map(to_image, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(recipe.batch_size // share.workers, drop_remainder=True)
        .map(batch_transform, num_parallel_calls=tf.data.AUTOTUNE)
        .apply(lambda batches: _with_cardinality(batches, steps))
        .with_options(_not_sharded())
        .prefetch(tf.data.AUTOTUNE)
    )


def _in_memory(split):
    """Reads undecoded examples once, where they fit into memory.

    Returns:
        Examples (image, label, path), the path "" where an image is no file; what reads an image before it
        is decoded; and how many examples to shuffle at a time.
    """
    fits = _fits_in_memory(split.bytes)
    if split.files is None:
        examples = split.examples.map(lambda image, label: (image, label, ""))
        return (
            (examples.cache(), tf.identity, split.size) if fits else (examples, tf.identity, SHUFFLED_IMAGES)
        )
    examples = split.examples.map(lambda path, label: (path, label, path))
    if not fits:
        return examples, tf.io.read_file, split.size  # Paths are short.
    examples = examples.map(
        lambda image, label, path: (read_file(image), label, path), num_parallel_calls=tf.data.AUTOTUNE
    )
    return examples.cache(), tf.identity, split.size


def _filled_up(examples, size):
    """Adds examples that only fill up a batch, up to `size` examples."""
    image, label, path = examples.element_spec
    filling = (zeros_like_spec(image), tf.constant(FILLING, label.dtype), zeros_like_spec(path))
    return examples.concatenate(tf.data.Dataset.from_tensors(filling).repeat()).take(size)


def _with_cardinality(batches, steps):
    """Says how many batches a full pass has, without insisting on it: a resumed pass has fewer.

    (`assert_cardinality` fails on such a pass, and Keras wants to know the number.)
    """
    one = tf.data.Dataset.range(1).map(lambda _: tf.nest.map_structure(zeros_like_spec, batches.element_spec))
    endless_for_all_tensorflow_knows = one.filter(lambda *_: False).repeat()
    return batches.concatenate(endless_for_all_tensorflow_knows).take(steps)


def _not_sharded():
    """Each worker reads its own share already."""
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # Images and batches are worked on side by side, so that there is nothing to gain within one of them.
    options.threading.max_intra_op_parallelism = 1
    return options


def _shuffle(examples, buffer, seed, epoch):
    """Shuffles by (seed, epoch) and nothing else.

    `Dataset.shuffle` also mixes in TensorFlow's global seed, and where that is 0 refuses an epoch that is a
    tensor.
    """
    spec = examples.element_spec
    shuffled = tf.raw_ops.ShuffleDataset(
        input_dataset=tf.data.experimental.to_variant(examples),
        buffer_size=tf.cast(buffer, tf.int64),
        seed=tf.cast(seed, tf.int64),
        seed2=epoch + 1,  # Two zeros would stand for no seed.
        output_types=[component.dtype for component in spec],
        output_shapes=[component.shape for component in spec],
        reshuffle_each_iteration=False,
    )
    return tf.data.experimental.from_variant(shuffled, spec)


def _fits_in_memory(size):
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return size < available / 4


def _source(dataset, data_dir):
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
        return _Split(tf.data.Dataset.from_tensor_slices((x, y)), len(x), x.nbytes)

    return _Source("digits", list(splits), read, [str(name) for name in digits.target_names], 1)


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
        return _Split(examples, len(files), size, files)

    return _Source(root, sorted(listed), read, class_names, 3)


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
        return _Split(
            _undecoded(builder, split, read_config=read_config),
            images,
            whole.num_bytes * images / whole.num_examples,
        )

    channels = features["image"].shape[-1] or 3
    return _Source(name, list(splits), read, features["label"].names, channels)


def _undecoded(builder, split, **options):
    import tensorflow_datasets as tfds

    decoders = {"image": tfds.decode.SkipDecoding()}
    examples = builder.as_dataset(split=split, decoders=decoders, **options)
    return examples.map(lambda example: (example["image"], example["label"]))


def _split_name(source, name, defaults):
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
