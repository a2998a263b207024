"""A recipe's training transform for any tf.data set."""

import tensorflow as tf

from convmixer_keras.data import augmentation
from convmixer_keras.data.draws import draw
from convmixer_keras.data.tfdata import not_sharded, with_cardinality
from convmixer_keras.utils import checks


def augment(recipe, classes, channels=3):
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
        (height, width, channels) of any size, or the bytes of a JPEG or PNG file; a label is an integer. The
        batches are float32 images (batch_size, image_size, image_size, channels), 0..255, and float32 labels
        (batch_size, classes), each row of which sums to 1. A last, smaller batch is left out.

    Raises:
        InputError: If `classes` or `channels` is not a positive integer.
    """
    classes, channels = checks.positive_int("classes", classes), checks.positive_int("channels", channels)
    transform = augmentation.batch_transform(recipe, channels, classes)

    def to_image(epoch, position, image, label):
        draws = draw(recipe, epoch, position)
        crop = augmentation.decode_crop(image, channels, recipe, draws)
        return augmentation.resize_crop(crop, recipe, draws), label, draws

    def apply(examples):
        epoch = tf.Variable(0, dtype=tf.int64, trainable=False)

        def examples_of_pass(_):
            number = epoch.assign_add(1) - 1
            return examples.enumerate().map(lambda position, example: (number, position, *example))

        batches = (
            tf.data.Dataset.from_tensors(0)
            .flat_map(examples_of_pass)
            .map(to_image, num_parallel_calls=tf.data.AUTOTUNE)
            .batch(recipe.batch_size, drop_remainder=True)
            .map(transform, num_parallel_calls=tf.data.AUTOTUNE)
            .with_options(not_sharded())
            .prefetch(tf.data.AUTOTUNE)
        )
        count = int(examples.cardinality())
        return batches if count < 0 else with_cardinality(batches, count // recipe.batch_size)

    return apply
