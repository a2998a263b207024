"""Validation batches: examples in their order, each prepared as at evaluation."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from convmixer_keras.data import transforms
from convmixer_keras.data.tfdata import as_written, check_examples, checked_labels, map_batch, prefetched
from convmixer_keras.utils import checks

FILLING = -(2**31)  # The label of an image that only fills up a batch.


def validation_batches(
    recipe: Any, classes: int, channels: int = 3
) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """Returns a function that turns a data set of images into batches to validate on: those of a run.

    Pass it to `Dataset.apply`. Images are decoded, turned, resized and cropped as the recipe says of
    evaluation, and nothing is drawn: every pass gives the same batches, in the order of the examples.

    Args:
        recipe: A `Recipe`, such as `ck.recipes.RECIPES["cifar10"]`.
        classes: Number of classes.
        channels: Number of channels of the images, 3 or 1.

    Returns:
        A function from a `tf.data.Dataset` of (image, label) as in `augment` to one of batches: float32
        images (batch_size, image_size, image_size, channels), 0..255, and float32 one-hot labels
        (batch_size, classes). The last batch may be smaller.

    Raises:
        InputError: As `augment`.
    """
    classes, channels = checks.positive_int("classes", classes), checks.positive_int("channels", channels)

    def apply(examples):
        check_examples(examples.element_spec, channels)
        count = int(examples.cardinality())
        return prepared_batches(
            examples,
            recipe.preprocessing(channels),
            classes,
            recipe.batch_size,
            steps=None if count < 0 else -(-count // recipe.batch_size),
        )

    return apply


def prepared_batches(examples, preprocessing, classes, batch_size, *, steps, are_files=False, weighted=False):
    """Makes the batches of validation, `Data.validation`.

    Args:
        examples: A `tf.data.Dataset` of (image, label). An image is an array, the bytes of a file, or with
            `are_files` a path.
        steps: Number of batches; None if that is not known.
        weighted: Whether the batches have float32 weights (batch_size,): 0 for what fills up a batch.
    """

    def to_image(image, label):
        contents = tf.io.read_file(image) if are_files else image
        pixels = transforms.decode(contents, preprocessing.channels, preprocessing.orientation)
        return transforms.evaluation_transform(pixels, preprocessing), tf.cast(label, tf.int64)

    @as_written
    def to_batch(*batch):
        images, labels = map_batch(to_image, batch)
        weights = tf.cast(labels != FILLING, tf.float32)
        labels = tf.where(labels == FILLING, tf.zeros_like(labels), labels)
        labels = tf.one_hot(checked_labels(labels, classes), classes)
        return (images, labels, weights) if weighted else (images, labels)

    batches = examples.batch(batch_size).map(to_batch, num_parallel_calls=tf.data.AUTOTUNE)
    return prefetched(batches, steps)


def filled_up(examples, size):
    """Adds the first image, without its label, as often as it takes to have `size` examples."""
    filling = examples.take(1).map(lambda image, label: (image, tf.constant(FILLING, label.dtype)))
    return examples.concatenate(filling.cache().repeat()).take(size)
