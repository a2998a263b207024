"""tf.data pipelines: training and validation batches of a recipe's data set."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from convmixer_keras.data import bad_images
from convmixer_keras.data.datasets import open_source
from convmixer_keras.data.source import Source, Split
from convmixer_keras.data.training import training_batches
from convmixer_keras.data.validation import filled_up, prepared_batches
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.images.splits import check_apart, training_split, validation_split
from convmixer_keras.utils.checks import positive_int
from convmixer_keras.utils.errors import InputError, arg
from convmixer_keras.utils.files import Path
from convmixer_keras.utils.text import one_line

NAMED_CLASSES = 10  # In the line that says what a data set holds.


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
        summary: One line: how many images of which splits, and the classes.
        fingerprints: Of the training and the validation split, `Split.fingerprint`.
        steps, validation_steps: Number of batches in a full pass, the same for every worker.
        epoch: A `tf.Variable` that counts the passes over `train`. The order of a pass follows from the seed
            and this number only, so that a run that goes on later sets it to where it was.
        first_batch: A `tf.Variable`: how many batches the next pass leaves out from its beginning, without
            decoding them. What follows is as it would have been. Back to 0 as soon as that pass has begun.
            Keras warns that such a pass "ran out of data", and goes on as it should.
        errors_named: Function without arguments to the context in which to take batches: an image that cannot
            be read, or a label that is none, is an InputError there and not TensorFlow's.
        plain: A `Validation` of all training images, and one of all validation images, in every process.
    """

    train: tf.data.Dataset
    validation: tf.data.Dataset
    class_names: list[str]
    train_size: int
    validation_size: int
    channels: int
    summary: str
    fingerprints: tuple[str, str]
    steps: int
    validation_steps: int
    epoch: tf.Variable
    first_batch: tf.Variable
    errors_named: Callable
    plain: tuple


def load(
    recipe: Any,
    data_dir: Path | None = None,
    *,
    worker: int = 0,
    workers: int = 1,
    full_batches: bool = False,
    **checks: int,
) -> Data:
    """Makes the training and the validation pipeline of a recipe's data set.

    Args:
        recipe: A `Recipe`; docs/data.md says what its data set and splits may be.
        data_dir: Where tensorflow-datasets keeps its files; None for its own default.
        worker: Which of the workers this is, from 0.
        workers: How many processes train together. Each takes its share of every batch: batch i of all of
            them together is batch i of a single worker.
        full_batches: Whether every validation batch is full, so that each replica has an image of it. Always
            so with several workers.
        checks: `max_bad_images` and `check_images`, as in `bad_images.leave_out`.

    Returns:
        A `Data`.

    Raises:
        InputError: If there is no such data set or split, it has no images with labels, more files than
            `max_bad_images` cannot be read, the batch cannot be shared by the workers, or the recipe's splits
            overlap (`splits.check_apart`).
    """
    workers = positive_int("workers", workers)
    if not 0 <= worker < workers:
        raise InputError(f"worker must be at least 0 and below workers={workers}, got {worker}")
    if recipe.batch_size % workers:
        raise InputError(
            f"{arg('batch_size')} must be a multiple of the {workers} workers, got {recipe.batch_size}"
        )
    shard = (workers, worker)
    source = open_source(recipe, data_dir)
    check_apart(source, recipe)
    names = [training_split(source, recipe), validation_split(source, recipe)]
    names += [recipe.test_split] if recipe.test_split else []
    splits = bad_images.leave_out(list(map(source.read, names)), **checks)
    train, errors_named = splits[0], partial(bad_images.named, splits)
    preprocessing = recipe.preprocessing(source.channels)
    plain = partial(_validation, source, recipe, preprocessing)
    validation = plain(names[1], splits[1], shard, full_batches or workers > 1)
    if recipe.batch_size > train.size:
        raise InputError(
            f"{arg('batch_size')} must be at most the {train.size} training images of {recipe.dataset}, "
            f"got {recipe.batch_size}"
        )
    if len(source.class_names) < 2:
        raise InputError(f"dataset {recipe.dataset} must have at least two classes, has {source.class_names}")
    epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
    first_batch = tf.Variable(0, dtype=tf.int64, trainable=False)
    classes, steps = len(source.class_names), train.size // recipe.batch_size
    return Data(
        train=training_batches(
            partial(train.shuffled, recipe.seed),
            recipe,
            classes,
            source.channels,
            steps=steps,
            epoch=epoch,
            first_batch=first_batch,
            shard=shard,
            are_files=train.files is not None,
            class_weights=class_weights(train, classes) if recipe.class_weight == "balanced" else None,
        ),
        validation=validation.images,
        class_names=source.class_names,
        train_size=train.size,
        validation_size=validation.size,
        channels=source.channels,
        summary=_summary(source.class_names, dict(zip(names, [split.size for split in splits], strict=True))),
        fingerprints=(train.fingerprint, splits[1].fingerprint),
        steps=steps,
        validation_steps=validation.steps,
        epoch=epoch,
        first_batch=first_batch,
        errors_named=errors_named,
        plain=(plain(names[0], splits[0]), plain(names[1], splits[1])),
    )


def _summary(class_names, sizes):
    """Says how many images of which splits there are, and which classes."""
    images = ", ".join(f"{size:,} images of {one_line(split)!r}" for split, size in sizes.items())
    shown = [one_line(name) for name in class_names[:NAMED_CLASSES]]
    shown += ["..."] if len(class_names) > NAMED_CLASSES else []
    return f"data: {images}; {len(class_names):,} classes: {', '.join(shown)}"


class Validation(NamedTuple):
    """What `load_validation` returns: fields as those of `Data`, and the `Split` that was read."""

    images: tf.data.Dataset
    class_names: list[str]
    size: int
    steps: int
    split: str
    examples: Split

    def errors_named(self) -> AbstractContextManager:
        return bad_images.named([self.examples])


def load_validation(
    recipe: Any, *, source: Source | None = None, preprocessing: Preprocessing | None = None, **checks: int
) -> Validation:
    """Makes only the validation pipeline.

    Args:
        recipe, checks: As in `load`.
        source: The recipe's data set, if it is open already.
        preprocessing: A `Preprocessing` that takes the place of the recipe's, such as a model file's own.

    Returns:
        A `Validation`.

    Raises:
        InputError: As `load`.
    """
    source = source or open_source(recipe)
    preprocessing = preprocessing or recipe.preprocessing(source.channels)
    name = validation_split(source, recipe)
    (split,) = bad_images.leave_out([source.read(name)], **checks)
    return _validation(source, recipe, preprocessing, name, split)


def _validation(source, recipe, preprocessing, name, split, shard=(1, 0), full_batches=False):
    steps, examples = -(-split.size // recipe.batch_size), split.examples
    if full_batches:
        examples = filled_up(examples, steps * recipe.batch_size).shard(*shard)
    images = prepared_batches(
        examples,
        preprocessing,
        len(source.class_names),
        recipe.batch_size // shard[0],
        steps=steps,
        are_files=split.files is not None,
        weighted=full_batches,
    )
    return Validation(images, source.class_names, split.size, steps, name, split)


def class_weights(split, classes):
    """Returns float32 weights (classes,) with which every class counts alike; 1 on average over images."""
    labels = np.fromiter(split.examples.map(lambda _, label: label).as_numpy_iterator(), int)
    counts = np.bincount(labels[(labels >= 0) & (labels < classes)], minlength=classes)
    return (counts.sum() / (classes * np.maximum(counts, 1))).astype(np.float32)
