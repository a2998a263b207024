"""Random draws of the training transform, each a function of only seed, epoch and position."""

import numpy as np
import tensorflow as tf

from convmixer_keras.data import randaugment

ATTEMPTS = 10  # To draw a rectangle that fits, as torchvision and timm do.
RECTANGLE = 2 * ATTEMPTS + 2  # Draws for a rectangle: areas and ratios, and where it lies.
# Each use of a position has its own random numbers.
USES = 5
OF_IMAGE, OF_NOISE, OF_CHOICE, OF_SHARE, OF_CENTER = range(USES)


def draw(recipe, epoch, position):
    """Draws all that happens to one image, apart from its mixing with others.

    Returns:
        A dictionary of tensors: uniform random numbers in 0..1, and epoch and position themselves, int64.
    """
    sizes = {
        "crop": RECTANGLE,
        "interpolation": 1,
        "flip": 1,
        "randaugment": recipe.randaugment_ops * randaugment.DRAWS,
        "jitter": 3,
        "erasing": 1 + RECTANGLE,
    }
    seed = seed_of(recipe, epoch, position, OF_IMAGE)
    # Not 0, whose normal quantile is infinite.
    numbers = tf.random.stateless_uniform((sum(sizes.values()),), seed, minval=1e-7)
    draws = dict(zip(sizes, tf.split(numbers, list(sizes.values())), strict=True))
    return {**draws, "epoch": epoch, "position": position}


def seed_of(recipe, epoch, position, use):
    """A seed (2,) for TensorFlow's stateless random numbers."""
    return tf.stack([(recipe.seed % 2**31) * 2**32 + epoch, position * USES + use])


def rectangles(size, area_range, ratio_range, draws):
    """Heights and widths (..., ATTEMPTS, 2), whole pixels, of a share of the area and a width / height."""
    area, ratio = draws[..., :ATTEMPTS], draws[..., ATTEMPTS : 2 * ATTEMPTS]
    area = (area_range[0] + area * (area_range[1] - area_range[0])) * size[0] * size[1]
    log_ratio = np.log(ratio_range)
    ratio = tf.exp(log_ratio[0] + ratio * (log_ratio[1] - log_ratio[0]))
    return tf.round(tf.sqrt(tf.stack([area / ratio, area * ratio], -1)))


def corner_within(room, draws):
    """A whole number of pixels from 0 to `room`."""
    return tf.minimum(tf.floor(draws * (room + 1)), room)
