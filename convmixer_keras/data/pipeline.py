"""tf.data pipelines: training and validation batches of a recipe's data set."""

import os
from functools import partial
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from convmixer_keras.data import augmentation
from convmixer_keras.data.bad_images import BadImages, map_batch, read_file, zeros_like_spec
from convmixer_keras.data.datasets import open_source
from convmixer_keras.data.draws import draw
from convmixer_keras.data.tfdata import not_sharded, shuffle, with_cardinality
from convmixer_keras.data.transforms import evaluation_transform
from convmixer_keras.images.splits import check_apart, training_split, validation_split
from convmixer_keras.utils import checks
from convmixer_keras.utils.errors import InputError

# Images that come one after the other are shuffled within a window of so many bytes.
SHUFFLED_BYTES = 2**31
FILLING = -1  # The label of padding that fills up a batch.


class Data(NamedTuple):
    """What `load` returns.

    Attributes:
        train: Batches of float32 images (batch_size / workers, size, size, channels), raw pixels 0..255, and
            float32 labels (batch_size / workers, classes), each row of which sums to 1. One pass is one
            epoch; every pass has another order, and the last, smaller batch is left out. Its `cardinality`
            is that of a full pass. With `class_weight` also float32 weights (batch_size / workers,).
        validation: The same without augmentation, in a fixed order, with the last, smaller batch. With
            `full_batches` also float32 weights (batch_size / workers,): every batch is full, and what fills
            up the last one has the weight 0.
        class_names: The name of each class, in the order of the labels.
        train_size, validation_size: Number of images, over all workers.
        channels: Number of channels.
        steps, validation_steps: Number of batches in a full pass, the same for every worker.
        epoch: A `tf.Variable` that counts the passes over `train`. The order of a pass follows from the seed
            and this number only, so that a run that goes on later sets it to where it was.
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


class _Share(NamedTuple):
    """Worker number `worker` of `workers`, which take the elements of every batch in turn."""

    worker: int
    workers: int
    full_batches: bool

    def of(self, dataset):
        return dataset.shard(self.workers, self.worker) if self.workers > 1 else dataset


def load(recipe, data_dir=None, *, worker=0, workers=1, full_batches=False, max_bad_images=0):
    """Makes the training and the validation pipeline of a recipe's data set.

    Args:
        recipe: A `Recipe`. Its `dataset` is "digits" (8x8 scans in scikit-learn), a folder that holds
            CLASS/*.jpg or SPLIT/CLASS/*.jpg, or a name that tensorflow-datasets knows. `train_split` and
            `validation_split` name the splits, or parts of them such as "train[:90%]"; None stands for
            "train", and for the first there is of "validation", "val", "valid", "test". A folder without one
            of those validates on the `validation_share` of the images of each class.
            The recipe also says image size, batch size, augmentation, evaluation crop and seed.
        data_dir: Where tensorflow-datasets keeps its files; None for its own default.
        worker: Which of the workers this is, from 0.
        workers: How many processes train together. Each takes its share of every batch: batch i of all of
            them together is batch i of a single worker.
        full_batches: Whether every validation batch is full, so that each replica has an image of it. Always
            so with several workers.
        max_bad_images: How many files of a folder may turn out not to be readable as images. Each is named
            by a warning. In training the next file of the split takes its place; validation leaves it out.
            One more is an error, `BadImages.error`. Every worker counts those that it meets.

    Returns:
        A `Data`.

    Raises:
        InputError: If there is no such data set or split, it has no images with labels, the batch cannot be
            shared by the workers, or the recipe's splits overlap (`splits.check_apart`).
    """
    share = _share(worker, workers, recipe.batch_size, full_batches or workers > 1)
    if max_bad_images < 0:
        raise InputError(f"max_bad_images must be at least 0, got {max_bad_images}")
    bad_images = BadImages(max_bad_images)
    source = open_source(recipe, data_dir)
    check_apart(source, recipe)
    train = source.read(training_split(source, recipe))
    validation = _validation(source, recipe, recipe.preprocessing(source.channels), share, bad_images)
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


def _share(worker, workers, batch_size, full_batches):
    workers = checks.positive_int("workers", workers)
    if not 0 <= worker < workers:
        raise InputError(f"worker must be at least 0 and below workers={workers}, got {worker}")
    if batch_size % workers:
        raise InputError(f"batch_size must be a multiple of the {workers} workers, got {batch_size}")
    return _Share(worker, workers, full_batches)


class Validation(NamedTuple):
    """What `load_validation` returns; the fields are those of `Data`."""

    images: tf.data.Dataset
    class_names: list[str]
    size: int
    channels: int
    steps: int
    bad_images: BadImages
    split: str


def load_validation(recipe, data_dir=None, max_bad_images=0, preprocessing=None):
    """Makes only the validation pipeline.

    Args:
        recipe, data_dir, max_bad_images: As in `load`.
        preprocessing: A `Preprocessing` that takes the place of the recipe's, such as a model file's own.

    Returns:
        A `Validation`.

    Raises:
        InputError: As `load`.
    """
    source = open_source(recipe, data_dir)
    if preprocessing is None:
        preprocessing = recipe.preprocessing(source.channels)
    return _validation(source, recipe, preprocessing, _Share(0, 1, False), BadImages(max_bad_images))


def _validation(source, recipe, preprocessing, share, bad_images):
    name = validation_split(source, recipe)
    split = source.read(name)
    steps = -(-split.size // recipe.batch_size)
    examples, read = _in_memory(split)
    if share.full_batches:
        examples = share.of(_filled_up(examples, steps * recipe.batch_size))

    def decode(image):
        return augmentation.decode(image, source.channels, preprocessing.orientation)

    def to_image(image, label, path, guarded):
        pixel = tf.zeros((1, 1, source.channels), tf.uint8)

        def decoded():
            return bad_images.decoded(decode, read, image, path) if guarded else decode(read(image))

        pixels = tf.cond(label == FILLING, lambda: pixel[:0], decoded)
        weight = tf.cast(tf.size(pixels) > 0, tf.float32)
        pixels = tf.cond(weight > 0, lambda: pixels, lambda: pixel)
        return evaluation_transform(pixels, preprocessing), label, weight

    def to_batch(*batch):
        guarded = partial(to_image, guarded=split.files is not None)
        images, labels, weights = map_batch(partial(to_image, guarded=False), guarded, batch)
        labels = augmentation.one_hot(labels, len(source.class_names))
        if share.full_batches:
            return images, labels, weights
        return tf.boolean_mask(images, weights > 0), tf.boolean_mask(labels, weights > 0)

    batches = examples.batch(recipe.batch_size // share.workers)
    batches = batches.map(to_batch, num_parallel_calls=tf.data.AUTOTUNE)
    images = (
        batches.filter(lambda images, *_: tf.size(images) > 0)  # None of a batch may be left.
        .apply(lambda batches: with_cardinality(batches, steps))
        .with_options(not_sharded())
        .prefetch(tf.data.AUTOTUNE)
    )
    return Validation(images, source.class_names, split.size, source.channels, steps, bad_images, name)


def _training_pipeline(source, split, recipe, share, epoch, first_batch, bad_images):
    examples, read = _in_memory(split)
    steps = split.size // recipe.batch_size
    batch_size = recipe.batch_size // share.workers

    def begin(_):
        skipped = tf.identity(first_batch)
        first_batch.assign(0)
        return epoch.assign_add(1) - 1, skipped

    def examples_of_pass(epoch, skipped):
        shuffled = _shuffled(split, examples, recipe.seed, epoch).enumerate()
        rest = shuffled.take(steps * recipe.batch_size).skip(skipped * recipe.batch_size)
        return share.of(rest).map(lambda position, example: (epoch, position, *example))

    def to_image(epoch, position, image, label, path, guarded):
        draws = draw(recipe, epoch, position)

        def decode(image):
            return augmentation.decode_crop(image, source.channels, recipe, draws)

        if guarded:
            pixels, label = bad_images.replaced(decode, read, image, label, path, split.files)
        else:
            pixels = decode(read(image))
        return augmentation.resize_crop(pixels, recipe, draws), label, draws

    transform = augmentation.batch_transform(recipe, source.channels, len(source.class_names))
    weights = class_weights(split, len(source.class_names)) if recipe.class_weight == "balanced" else None

    def to_batch(*batch):
        guarded = partial(to_image, guarded=split.files is not None)
        images, labels, draws = map_batch(partial(to_image, guarded=False), guarded, batch)
        images = tf.ensure_shape(images, (batch_size, *images.shape[1:]))
        images, labels = transform(images, tf.ensure_shape(labels, (batch_size,)), draws)
        return (images, labels) if weights is None else (images, labels, tf.linalg.matvec(labels, weights))

    return (
        tf.data.Dataset.from_tensors(0)
        .map(begin)
        .flat_map(examples_of_pass)
        .batch(batch_size, drop_remainder=True)
        # One core works on one batch from its files to the end: nothing is handed over in between.
        .map(to_batch, num_parallel_calls=tf.data.AUTOTUNE)
        .apply(lambda batches: with_cardinality(batches, steps))
        .with_options(not_sharded())
        .prefetch(tf.data.AUTOTUNE)
    )


def class_weights(split, classes):
    """Returns float32 weights (classes,) with which every class counts alike; 1 on average over images."""
    counts = np.zeros(classes)
    for label in split.examples.map(lambda _, label: label).as_numpy_iterator():
        counts[label] += 1
    return (counts.sum() / (classes * np.maximum(counts, 1))).astype(np.float32)


def _in_memory(split):
    """Reads undecoded examples once, where they fit into memory.

    Returns:
        Examples (image, label, path), the path "" where an image is no file; and what reads an image before
        it is decoded.
    """
    fits = _fits_in_memory(split.bytes)
    if split.files is None:
        examples = split.examples.map(lambda image, label: (image, label, ""))
        return (examples.cache() if fits else examples), tf.identity
    examples = split.examples.map(lambda path, label: (path, label, path))
    if not fits:
        return examples, tf.io.read_file
    examples = examples.map(
        lambda image, label, path: (read_file(image), label, path), num_parallel_calls=tf.data.AUTOTUNE
    )
    return examples.cache(), tf.identity


def _shuffled(split, examples, seed, epoch):
    """Shuffles paths and small data sets as a whole, others within a window of `SHUFFLED_BYTES`."""
    window = split.size  # It follows from the data set and not from the machine, and so does the order.
    if split.files is None and split.bytes > SHUFFLED_BYTES:
        window = max(1, int(split.size * SHUFFLED_BYTES / split.bytes))
        if split.shards:
            examples = split.shards(seed, epoch).map(lambda image, label: (image, label, ""))
    return shuffle(examples, window, seed, epoch)


def _filled_up(examples, size):
    """Adds examples that only fill up a batch, up to `size` examples."""
    image, label, path = examples.element_spec
    filling = (zeros_like_spec(image), tf.constant(FILLING, label.dtype), zeros_like_spec(path))
    return examples.concatenate(tf.data.Dataset.from_tensors(filling).repeat()).take(size)


def _fits_in_memory(size):
    # macOS does not say how much of its memory is free; a half is a guess.
    knows_free = "SC_AVPHYS_PAGES" in os.sysconf_names
    pages = os.sysconf("SC_AVPHYS_PAGES") if knows_free else os.sysconf("SC_PHYS_PAGES") // 2
    available = pages * os.sysconf("SC_PAGE_SIZE")
    return size < available / 4
