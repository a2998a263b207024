"""RandAugment as the authors' scripts used it, for the most part on keras-cv's image operations.

Every operation takes and gives whole grey levels 0..255, as Pillow's do. docs/recipe.md has the table of the
operations, and what differs from timm's and torchvision's.

Pillow's formulas stand where keras-cv's layer of that name does something else. Its RandomColorDegeneration
and Equalization do the same (except Equalization's step between grey levels), more slowly.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from convmixer_keras.utils import checks, extras

PIXEL_RANGE = (0, 255)
DRAWS = 4  # Of an operation: which, whether, how strong, which sign.


class Policy(NamedTuple):
    """Which operations are drawn, and how strong they are.

    Attributes:
        arguments: Dictionary from the name of an operation to a function from levels 0..1 and signs -1 or 1,
            float32 (n,), to its argument, or to None.
        probability: With which an operation that was drawn is applied.
        interpolation: Of rotations, shears and translations: "bilinear" or "nearest".
        filled: Whether these fill with the recipe's mean, or else with black.
    """

    arguments: dict[str, Callable]
    probability: float
    interpolation: str
    filled: bool


def _nothing(level, sign):
    return None


def _factor(level, sign):
    return tf.maximum(0.1, 1 + sign * 0.9 * level)


def _signed(greatest):
    return lambda level, sign: sign * greatest * level


_ENHANCED = dict.fromkeys(("Color", "Contrast", "Brightness", "Sharpness"), _factor)
_SHEARED = dict.fromkeys(("ShearX", "ShearY"), _signed(0.3))

TIMM = Policy(
    {
        **dict.fromkeys(("AutoContrast", "Equalize", "Invert"), _nothing),
        "Rotate": _signed(30.0),
        "Posterize": lambda level, sign: 4 - tf.floor(4 * level),
        "Solarize": lambda level, sign: 256 - tf.floor(256 * level),
        "SolarizeAdd": lambda level, sign: tf.floor(110 * level),
        **_ENHANCED,
        **_SHEARED,
        **dict.fromkeys(("TranslateX", "TranslateY"), _signed(0.45)),
    },
    probability=0.5,
    interpolation="bilinear",
    filled=True,
)
TORCHVISION = Policy(
    {
        **dict.fromkeys(("Identity", "AutoContrast", "Equalize"), _nothing),
        "Rotate": _signed(30.0),
        "Posterize": lambda level, sign: 8 - tf.round(4 * level),
        "Solarize": lambda level, sign: 255 * (1 - level),
        **_ENHANCED,
        **_SHEARED,
        **dict.fromkeys(("TranslateX", "TranslateY"), _signed(150 / 331)),
    },
    probability=1.0,
    interpolation="nearest",
    filled=False,
)
POLICIES = {"timm": TIMM, "torchvision": TORCHVISION}


def rand_augment(recipe, channels):
    """Builds RandAugment: a function of uint8 images and uniform draws (n, randaugment_ops, DRAWS)."""
    policy = POLICIES[recipe.randaugment_policy]
    mean = recipe.for_channels(channels).mean
    fill = [round(255 * m) for m in mean] if policy.filled else [0.0] * channels
    apply = operations(channels, fill, policy.interpolation)
    names = [name for name in policy.arguments if name in apply]

    def one_of_them(images, draws):
        which, whether, how_strong, sign = tf.unstack(draws, axis=-1)
        # (tf.math.ndtri: the quantiles of the normal distribution.)
        magnitude = recipe.randaugment_magnitude + recipe.randaugment_std * tf.math.ndtri(how_strong)
        level = tf.clip_by_value(magnitude / 10, 0.0, 1.0)
        sign = tf.where(sign < 0.5, -1.0, 1.0)
        drawn = tf.cast(which * len(names), tf.int32)
        drawn = tf.where(whether < policy.probability, drawn, len(names))
        # The images of each operation together, and at the end those that stay as they are.
        groups = tf.dynamic_partition(images, drawn, len(names) + 1)
        rows = tf.dynamic_partition(tf.range(tf.shape(images)[0]), drawn, len(names) + 1)
        for i, name in enumerate(names):
            argument = policy.arguments[name](tf.gather(level, rows[i]), tf.gather(sign, rows[i]))
            # One after the other: all at once they would push each other out of the processor's caches.
            with tf.control_dependencies(groups[max(i - 1, 0) : i]):
                groups[i] = _applied(apply[name], groups[i], argument)
        return tf.ensure_shape(tf.dynamic_stitch(rows, groups), images.shape)

    def transform(images, draws):
        for i in range(recipe.randaugment_ops):
            images = one_of_them(images, draws[:, i])
        return images

    return transform


def _applied(operation, images, argument):
    """An operation on uint8 images, which may be none."""

    def apply():
        changed = operation(tf.cast(images, tf.float32), argument)
        return tf.cast(tf.round(tf.clip_by_value(changed, 0.0, 255.0)), tf.uint8)

    return tf.cond(tf.shape(images)[0] > 0, apply, lambda: images)


def operations(channels, fill, interpolation="bilinear"):
    """Returns the operations by name, of which "Color" only for 3 channels.

    Each is a function of float32 images (n, height, width, channels) and an argument (n,), in the units of
    docs/recipe.md; the images that it gives may be outside of 0..255. `fill` is the colour that moves in from
    outside, 0..255 for each channel.
    """
    extras.require("keras_cv")
    checks.tensorflow_backend("augmentation with keras-cv")
    from keras_cv import layers

    fill = tf.constant(fill, tf.float32)
    in_float32 = {"dtype": "float32"}  # Whatever the model's policy: half precision rounds pixels.
    geometry = {"fill_mode": "constant", "fill_value": 0.0, "interpolation": interpolation, **in_float32}
    auto_contrast = layers.AutoContrast(PIXEL_RANGE, **in_float32)
    sharpness = layers.RandomSharpness(1.0, PIXEL_RANGE, **in_float32)
    rotation = layers.RandomRotation(1.0, **geometry)
    shear = layers.RandomShear(1.0, 1.0, **geometry)
    translation = layers.RandomTranslation(1.0, 1.0, **geometry)

    def moved(layer, images, **transformations):
        # keras-cv fills with one number for all channels. (Whole rows are added faster than pixels.)
        colour = tf.tile(fill, tf.shape(images)[2:3])
        rows = tf.reshape(images, (-1, tf.shape(colour)[0])) - colour
        moved = layer.augment_images(tf.reshape(rows, tf.shape(images)), transformations)
        rows = tf.reshape(moved, tf.shape(rows)) + colour
        return tf.reshape(rows, tf.shape(images))

    def translated(images, share, axis):
        side = tf.cast(tf.shape(images)[axis], tf.float32)
        pixels = share * side
        if interpolation == "nearest":  # Whole pixels, as torchvision's int().
            pixels = tf.cast(tf.cast(pixels, tf.int32), tf.float32)
        shifts = -pixels[:, None] / side, tf.zeros_like(share)[:, None]
        width, height = shifts if axis == 2 else shifts[::-1]
        return moved(translation, images, width_translations=width, height_translations=height)

    def solarize(images, threshold):
        return tf.where(images < _of_image(threshold), images, 255 - images)

    def posterize(images, bits):
        step = _of_image(2.0 ** (8 - bits))
        return tf.floor(images / step) * step

    def solarize_add(images, addition):
        return images + _of_image(addition) * tf.cast(images < 128, tf.float32)

    found = {
        "Identity": lambda images, _: images,
        "AutoContrast": lambda images, _: auto_contrast.augment_images(images),
        "Equalize": lambda images, _: equalize(images),
        "Invert": lambda images, _: 255 - images,
        "Rotate": lambda images, degrees: moved(rotation, images, angles=degrees * (3.14159265 / 180)),
        "Posterize": posterize,
        "Solarize": solarize,
        "SolarizeAdd": solarize_add,
        "Contrast": contrast,
        "Brightness": brightness,
        # keras-cv counts from the image to the blurred one, Pillow the other way.
        "Sharpness": lambda images, factor: sharpness.augment_images(images, _of_image(1 - factor)),
        "ShearX": lambda images, slope: moved(shear, images, shear_x=slope[:, None], shear_y=None),
        "ShearY": lambda images, slope: moved(shear, images, shear_x=None, shear_y=slope[:, None]),
        "TranslateX": lambda images, share: translated(images, share, axis=2),
        "TranslateY": lambda images, share: translated(images, share, axis=1),
    }
    if channels == 3:
        found["Color"] = color
    return found


def _of_image(argument):
    """Arguments (n,) for images (n, height, width, channels)."""
    return argument[:, None, None, None]


# Pillow's ImageEnhance: a factor of 0 gives the black image, the mean of the grey one, or the grey one, 1 the
# image itself, and more than 1 what lies beyond.


def brightness(images, factor):
    return images * _of_image(factor)


def contrast(images, factor):
    mean = tf.floor(tf.reduce_mean(_grey(images), (1, 2, 3), keepdims=True) + 0.5)
    return mean + _of_image(factor) * (images - mean)


def color(images, factor):
    grey = _grey(images)
    return grey + _of_image(factor) * (images - grey)


def _grey(images):
    """Grey levels (n, height, width, 1), of the weights that Pillow gives to red, green and blue."""
    if images.shape[-1] != 3:
        return images
    # (tf.image.rgb_to_grayscale transposes, which makes TensorFlow complain about 8-bit integers.)
    grey = tf.matmul(tf.reshape(images, (-1, 3)), [[0.299], [0.587], [0.114]])
    return tf.round(tf.reshape(grey, (*tf.unstack(tf.shape(images)[:3]), 1)))


def equalize(images):
    """Pillow's `ImageOps.equalize` of float32 images (n, height, width, channels) of whole grey levels."""
    levels = tf.cast(images, tf.int32)
    count, channels = tf.shape(images)[0], images.shape[-1]
    return tf.cast(tf.stack([_equalized(levels[..., i], count) for i in range(channels)], -1), tf.float32)


def _equalized(levels, count):
    """One channel, int32 (n, height, width)."""
    histogram = tf.math.bincount(tf.reshape(levels, (count, -1)), minlength=256, maxlength=256, axis=-1)
    brightest = tf.gather(histogram, tf.reduce_max(levels, (1, 2)), batch_dims=1)
    step = (tf.size(levels[0]) - brightest) // 255
    darker = tf.cumsum(histogram, axis=-1, exclusive=True)
    table = tf.minimum((darker + step[:, None] // 2) // tf.maximum(step, 1)[:, None], 255)
    # Too few grey levels, or pixels, to be spread any further.
    table = tf.where(step[:, None] > 0, table, tf.range(256))
    return tf.gather(table, levels, batch_dims=1)
