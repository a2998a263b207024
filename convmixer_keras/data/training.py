"""Training batches: the examples of an epoch in their order, each augmented as a recipe says."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from convmixer_keras.data import augmentation
from convmixer_keras.data.draws import draw
from convmixer_keras.data.tfdata import as_written, check_examples, checked_labels, map_batch, prefetched
from convmixer_keras.utils import checks
from convmixer_keras.utils.errors import InputError, arg


def augment(recipe: Any, classes: int, channels: int = 3) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """Returns a function that turns a data set of images into augmented batches to train on.

    Pass it to `Dataset.apply`. Crop, flip, RandAugment, colour jitter, mixup, cutmix, erasing and label
    smoothing are the recipe's. Every pass over the result is another epoch with other draws, a function of
    the recipe's seed only. Shuffle before: the order of the images stays.

    Args:
        recipe: A `Recipe`, such as `ck.recipes.RECIPES["cifar10"]`.
        classes: Number of classes.
        channels: Number of channels of the images, 3 or 1.

    Returns:
        A function from a `tf.data.Dataset` of (image, label), unbatched, to one of batches. An image is uint8
        (height, width, channels) of any size, or the bytes of a JPEG or PNG file; a label is an integer from
        0 to classes - 1, and any other fails in the pass. The batches are float32 images
        (batch_size, image_size, image_size, channels), 0..255, and float32 labels (batch_size, classes), each
        row of which sums to 1. A last, smaller batch is left out.

    Raises:
        InputError: If `classes` or `channels` is not a positive integer; when it is applied, if the examples
            are not such images and labels, or fewer than a batch.
    """
    classes, channels = checks.positive_int("classes", classes), checks.positive_int("channels", channels)

    def apply(examples):
        check_examples(examples.element_spec, channels)
        count = int(examples.cardinality())
        if 0 <= count < recipe.batch_size:
            raise InputError(
                f"{arg('batch_size')} must be at most {count}, the number of images, got {recipe.batch_size}"
            )
        return training_batches(
            lambda epoch: examples,
            recipe,
            classes,
            channels,
            steps=None if count < 0 else count // recipe.batch_size,
            epoch=tf.Variable(0, dtype=tf.int64, trainable=False),
            first_batch=tf.Variable(0, dtype=tf.int64, trainable=False),
        )

    return apply


def training_batches(
    examples_of,
    recipe,
    classes,
    channels,
    *,
    steps,
    epoch,
    first_batch,
    shard=(1, 0),
    are_files=False,
    class_weights=None,
):
    """Makes the batches of training, `Data.train`; every pass is one epoch.

    Args:
        examples_of: Function from the number of an epoch, an int64 tensor, to its examples (image, label), a
            `tf.data.Dataset` in the order of that epoch. An image is an array, the bytes of a file, or with
            `are_files` a path.
        steps: Number of batches in a full pass; None if that is not known.
        epoch, first_batch: As in `Data`.
        shard: How many workers share every batch, and which this one is.
        class_weights: Float32 array (classes,), or None.
    """
    recipe = recipe.for_channels(channels)
    batch_size = recipe.batch_size // shard[0]
    transform = augmentation.batch_transform(recipe, channels, classes)

    def begin(_):
        skipped = tf.identity(first_batch)
        first_batch.assign(0)
        return epoch.assign_add(1) - 1, skipped

    @as_written
    def examples_of_pass(epoch, skipped):
        examples = examples_of(epoch).enumerate()
        if steps is not None:
            examples = examples.take(steps * recipe.batch_size)
        rest = examples.skip(skipped * recipe.batch_size).shard(*shard)
        return rest.map(lambda position, example: (epoch, position, *example))

    def to_image(epoch, position, image, label):
        draws = draw(recipe, epoch, position)
        contents = tf.io.read_file(image) if are_files else image
        pixels = augmentation.decode_crop(contents, channels, recipe, draws)
        return augmentation.resize_crop(pixels, recipe, draws), label, draws

    @as_written
    def to_batch(*batch):
        images, labels, draws = map_batch(to_image, batch)
        images = tf.ensure_shape(images, (batch_size, *images.shape[1:]))
        labels = tf.ensure_shape(checked_labels(labels, classes), (batch_size,))
        images, labels = transform(images, labels, draws)
        smoothed = labels * (1 - recipe.label_smoothing) + recipe.label_smoothing / classes
        if class_weights is None:
            return images, smoothed
        return images, smoothed, tf.linalg.matvec(labels, class_weights)

    examples = tf.data.Dataset.from_tensors(0).map(begin).flat_map(examples_of_pass)
    batches = examples.batch(batch_size, drop_remainder=True)
    # One core works on one batch from its files to the end: nothing is handed over in between.
    return prefetched(batches.map(to_batch, num_parallel_calls=tf.data.AUTOTUNE), steps)
