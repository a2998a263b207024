"""The training transform. Images are raw pixels, 0..255, throughout.

Every draw follows from the recipe's seed, the epoch and the position of the image in that epoch's order: the
same images come out at any parallelism, in any process, and when a run goes on in the middle of an epoch.
keras-cv's layers draw from generators that keep a state; so only their image operations are used.
"""

import tensorflow as tf

from convmixer_keras.data import randaugment, transforms
from convmixer_keras.data.draws import ATTEMPTS, corner_within, rectangles
from convmixer_keras.data.mixing import mixing, random_erasing
from convmixer_keras.data.transforms import evaluation_transform


def decode_crop(image, channels, recipe, draws):
    """Decodes the bytes of a file to uint8 (height, width, channels), or as much as its random crop shows.

    The crop is drawn as torchvision and timm do: a uniform area and a log-uniform aspect ratio, up to ten
    times until the rectangle fits into the image, or else the largest centred one of an allowed ratio.
    (keras-cv's RandomCropAndResize clips what does not fit and samples without antialiasing; TensorFlow's
    `sample_distorted_bounding_box` draws uniform heights, and so smaller areas.)
    """
    if not _crops(recipe):
        return transforms.decode(image, channels, recipe.orientation)

    def wholly():
        pixels = transforms.decode(image, channels, recipe.orientation)
        top, left, height, width = tf.unstack(crop_rectangle(tf.shape(pixels)[:2], recipe, draws))
        return pixels[top : top + height, left : left + width]

    def partly():
        size = tf.image.extract_jpeg_shape(image)[:2]
        turn = transforms.exif_orientation(image, recipe.orientation)
        shown = tf.where(turn >= 5, size[::-1], size)
        rectangle = transforms.stored_rectangle(crop_rectangle(shown, recipe, draws), turn, size)
        with transforms.checked_size(size[0], size[1]):
            pixels = tf.image.decode_and_crop_jpeg(image, rectangle, channels, dct_method="INTEGER_ACCURATE")
        return transforms.turned(pixels, turn)

    if image.dtype != tf.string:
        return wholly()
    # A file that has been cut off is not decoded in part: the missing end may lie outside of the crop.
    pixels = tf.cond(
        transforms.is_whole_jpeg(image),
        lambda: tf.cond(transforms.jpeg_decodes_to(image, channels), partly, wholly),
        wholly,
    )
    return tf.ensure_shape(pixels, (None, None, channels))


def _crops(recipe):
    return recipe.crop_area != (1.0, 1.0)


def crop_rectangle(image_size, recipe, draws):
    """Draws (top, left, height, width) in pixels, int32 (4,), within an image of (height, width) pixels."""
    size = tf.cast(image_size, tf.float32)
    drawn = rectangles(size, recipe.crop_area, recipe.crop_ratio, draws["crop"])
    # The last resort: the whole image, cut to the nearest allowed ratio.
    least, greatest = recipe.crop_ratio
    height = tf.minimum(size[0], tf.round(size[1] / least))
    width = tf.minimum(size[1], tf.round(size[0] * greatest))
    drawn = tf.concat([drawn, [[height, width]]], 0)
    fits = tf.reduce_all((drawn >= 1) & (drawn <= size), 1)
    first = tf.argmax(fits)
    chosen = drawn[first]
    corner = corner_within(size - chosen, draws["crop"][-2:])
    corner = tf.where(first == ATTEMPTS, tf.floor((size - chosen) / 2), corner)
    return tf.cast(tf.concat([corner, chosen], 0), tf.int32)


def resize_crop(crop, recipe, draws):
    """Resizes a crop to the recipe's image size, bilinear or bicubic by chance, and mirrors it, or not."""
    size = (recipe.image_size, recipe.image_size)
    if _crops(recipe):
        image = _resized(crop, size, draws["interpolation"][0] < 0.5)
    else:  # As much of the image as evaluation sees.
        image = tf.cast(evaluation_transform(crop, recipe.preprocessing(crop.shape[-1])), tf.uint8)
    if recipe.flip:
        image = tf.cond(draws["flip"][0] < 0.5, lambda: tf.reverse(image, [1]), lambda: image)
    return tf.ensure_shape(image, (*size, crop.shape[-1]))


def _resized(crop, size, bilinear):
    """Resizes both axes at once to whole grey levels."""

    def by(method):
        # Antialiasing changes nothing where an image grows, and is slow.
        return tf.cond(
            tf.reduce_any(tf.shape(crop)[:2] > size),
            lambda: tf.image.resize(crop, size, method, antialias=True),
            lambda: tf.image.resize(crop, size, method),
        )

    image = tf.cond(bilinear, lambda: by("bilinear"), lambda: by("bicubic"))
    # Bicubic overshoots, and keras-cv's Equalization crashes on values over 255.
    return tf.cast(tf.round(tf.clip_by_value(image, 0, 255)), tf.uint8)


def batch_transform(recipe, channels, classes):
    """Builds what happens to a batch: RandAugment, colour jitter, mixing, erasing.

    Returns:
        A function from uint8 images (batch, size, size, channels), integer labels (batch,) and the draws of
        each image, tensors (batch, ...), to float32 images of the same shape, 0..255 except where
        noise erases, and float32 labels (batch, classes), each row of which sums to 1.
    """
    rand_augment = randaugment.rand_augment(recipe, channels) if recipe.randaugment_ops else None
    jitter = color_jitter(recipe, channels) if recipe.color_jitter else None
    mix = mixing(recipe) if recipe.mixup_alpha or recipe.cutmix_alpha else None
    erase = random_erasing(recipe) if recipe.erasing_probability else None

    def transform(images, labels, draws):
        if rand_augment:
            shape = (-1, recipe.randaugment_ops, randaugment.DRAWS)
            images = rand_augment(images, tf.reshape(draws["randaugment"], shape))
        if jitter:
            images = jitter(tf.cast(images, tf.float32), draws["jitter"])
        labels = tf.one_hot(labels, classes)
        if mix:
            images, labels = mix(images, labels, draws["epoch"], draws["position"])
        images = tf.cast(images, tf.float32)
        if erase:  # Last, as timm's loader does, whose batches are mixed before they are normalised.
            images = erase(images, draws["erasing"], draws["epoch"], draws["position"])
        return images, labels

    return transform


def color_jitter(recipe, channels):
    """Builds torchvision's ColorJitter in a fixed order: a function of float32 images and draws (n, 3)."""
    changes = [randaugment.brightness, randaugment.contrast]
    changes += [randaugment.color] if channels == 3 else []

    def jitter(images, draws):
        factors = tf.maximum(0.0, 1 + recipe.color_jitter * (2 * draws - 1))
        for i, change in enumerate(changes):
            images = tf.clip_by_value(change(images, factors[:, i]), 0.0, 255.0)
        return images

    return jitter
