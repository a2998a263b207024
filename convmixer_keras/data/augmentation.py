"""The training transform. Images are raw pixels, 0..255, throughout.

Every draw is a function of the recipe's seed, the epoch and the position of the image in that epoch's order,
and of nothing else: the same images come out at any parallelism, in any process, and when a run goes on in
the middle of an epoch. keras-cv's layers draw from generators that keep a state; so only their image
operations are used, with draws of our own.
"""

import contextlib

import keras
import numpy as np
import tensorflow as tf

from convmixer_keras.data import preprocessing
from convmixer_keras.data import randaugment
from convmixer_keras.data.preprocessing import evaluation_transform, resize

ATTEMPTS = 10  # To draw a rectangle that fits, as torchvision and timm do.
RECTANGLE = 2 * ATTEMPTS + 2  # Draws for a rectangle: areas and ratios, and where it lies.
# Each use of a position has random numbers of its own.
USES = 5
OF_IMAGE, OF_NOISE, OF_CHOICE, OF_SHARE, OF_CENTER = range(USES)


def draw(recipe, epoch, position):
    """Draws all that happens to one image, apart from its mixing with others.

    Args:
        recipe: A `Recipe`.
        epoch, position: The epoch, and the image's place in its order: scalar int64 tensors.

    Returns:
        A dictionary of tensors: uniform random numbers in 0..1, and epoch and position themselves.
    """
    sizes = {
        "crop": RECTANGLE,
        "interpolation": 1,
        "flip": 1,
        "randaugment": recipe.randaugment_ops * randaugment.DRAWS,
        "jitter": 3,
        "erasing": 1 + RECTANGLE,
    }
    seed = _seed(recipe, epoch, position, OF_IMAGE)
    # Not 0, whose normal quantile is infinite.
    numbers = tf.random.stateless_uniform((sum(sizes.values()),), seed, minval=1e-7)
    draws = dict(zip(sizes, tf.split(numbers, list(sizes.values())), strict=True))
    return {**draws, "epoch": epoch, "position": position}


def _seed(recipe, epoch, position, use):
    """A seed (2,) for TensorFlow's stateless random numbers."""
    return tf.stack([(recipe.seed % 2**31) * 2**32 + epoch, position * USES + use])


def decode_crop(image, channels, recipe, draws):
    """Decodes an image, or as much of it as its random crop shows.

    The crop is drawn as torchvision and timm do: a uniform area and a log-uniform aspect ratio, up to ten
    times until the rectangle fits into the image, or else the largest centred one of an allowed ratio.
    (keras-cv's RandomCropAndResize clips what does not fit and samples without antialiasing; TensorFlow's
    `sample_distorted_bounding_box` draws uniform heights, and so smaller areas.)

    Args:
        image: The bytes of a JPEG or PNG file, or an image (height, width, channels), uint8.
        channels: Number of channels.
        recipe: A `Recipe`; `crop_area` and `crop_ratio` count.
        draws: What `draw` returns.

    Returns:
        A uint8 tensor (height, width, channels) of any size.
    """

    def wholly():
        pixels = decode(image, channels)
        if not _crops(recipe):
            return pixels
        top, left, height, width = tf.unstack(crop_rectangle(tf.shape(pixels)[:2], recipe, draws))
        return pixels[top : top + height, left : left + width]

    def partly():
        rectangle = crop_rectangle(tf.image.extract_jpeg_shape(image)[:2], recipe, draws)
        return tf.image.decode_and_crop_jpeg(image, rectangle, channels, dct_method="INTEGER_ACCURATE")

    if image.dtype != tf.string or not _crops(recipe):
        return wholly()
    # Whether a file has been cut off shows at its end, and all of it is decoded where it may have been.
    begin, end = tf.strings.substr(image, 0, 3), tf.strings.substr(image, -2, 2)
    pixels = tf.cond(
        (begin == b"\xff\xd8\xff") & (end == b"\xff\xd9"),
        lambda: tf.cond(tf.image.extract_jpeg_shape(image)[2] <= 3, partly, wholly),  # more is CMYK
        wholly,
    )
    return tf.ensure_shape(pixels, (None, None, channels))


def decode(image, channels=3):
    """Decodes the bytes of an image file to uint8 (height, width, channels); an image stays as it is."""
    if image.dtype == tf.string:
        return preprocessing.decode(image, channels)
    return tf.ensure_shape(image, (None, None, channels))


def _crops(recipe):
    return recipe.crop_area != (1.0, 1.0)


def crop_rectangle(image_size, recipe, draws):
    """Draws (top, left, height, width) in pixels, int32 (4,), within an image of (height, width) pixels."""
    size = tf.cast(image_size, tf.float32)
    drawn = _rectangles(size, recipe.crop_area, recipe.crop_ratio, draws["crop"])
    # The last resort: the whole image, cut to the nearest allowed ratio.
    least, greatest = recipe.crop_ratio
    height = tf.minimum(size[0], tf.round(size[1] / least))
    width = tf.minimum(size[1], tf.round(size[0] * greatest))
    drawn = tf.concat([drawn, [[height, width]]], 0)
    fits = tf.reduce_all((drawn >= 1) & (drawn <= size), 1)
    first = tf.argmax(fits)
    chosen = drawn[first]
    corner = _corner(size - chosen, draws["crop"][-2:])
    corner = tf.where(first == ATTEMPTS, tf.floor((size - chosen) / 2), corner)
    return tf.cast(tf.concat([corner, chosen], 0), tf.int32)


def _rectangles(size, area_range, ratio_range, draws):
    """Heights and widths (..., ATTEMPTS, 2), whole pixels, of a share of the area and a width / height."""
    area, ratio = draws[..., :ATTEMPTS], draws[..., ATTEMPTS : 2 * ATTEMPTS]
    area = (area_range[0] + area * (area_range[1] - area_range[0])) * size[0] * size[1]
    log_ratio = np.log(ratio_range)
    ratio = tf.exp(log_ratio[0] + ratio * (log_ratio[1] - log_ratio[0]))
    return tf.round(tf.sqrt(tf.stack([area / ratio, area * ratio], -1)))


def _corner(room, draws):
    """A whole number of pixels from 0 to `room`."""
    return tf.minimum(tf.floor(draws * (room + 1)), room)


def resize_crop(crop, recipe, draws):
    """Resizes a crop to the recipe's image size and mirrors it, or not.

    Args:
        crop: What `decode_crop` returns.
        recipe: A `Recipe`; `image_size`, `flip` and `crop_pct` count. Interpolation is bilinear or bicubic,
            each time by chance, or as at evaluation where the recipe crops nothing.
        draws: What `draw` returns.

    Returns:
        A uint8 tensor (image_size, image_size, channels).
    """
    size = (recipe.image_size, recipe.image_size)
    if _crops(recipe):
        image = _resized(crop, size, draws["interpolation"][0] < 0.5)
    else:  # As much of the image as evaluation sees.
        image = tf.cond(
            tf.reduce_all(tf.shape(crop)[:2] == size) & (recipe.crop_pct == 1),
            lambda: crop,
            lambda: tf.cast(
                evaluation_transform(crop, recipe.image_size, recipe.crop_pct, recipe.interpolation), tf.uint8
            ),
        )
    if recipe.flip:
        image = tf.cond(draws["flip"][0] < 0.5, lambda: tf.reverse(image, [1]), lambda: image)
    return tf.ensure_shape(image, (*size, crop.shape[-1]))


def _resized(crop, size, bilinear):
    def by(interpolation):
        # Antialiasing changes nothing where an image grows, and takes its time.
        shrinks = tf.reduce_any(tf.shape(crop)[:2] > size)
        return tf.cond(
            shrinks,
            lambda: resize(crop, size, interpolation),
            lambda: tf.round(tf.clip_by_value(tf.image.resize(crop, size, interpolation), 0, 255)),
        )

    return tf.cast(tf.cond(bilinear, lambda: by("bilinear"), lambda: by("bicubic")), tf.uint8)


def batch_transform(recipe, channels, classes):
    """Builds what happens to a batch: RandAugment, colour jitter, smoothing, mixing, erasing.

    Args:
        recipe: A `Recipe`.
        channels: Number of channels of the images.
        classes: Number of classes.

    Returns:
        A function from uint8 images (batch, size, size, channels), integer labels (batch,) and the draws of
        each image, tensors (batch, ...), to float32 images of the same shape, 0..255 but for erasing noise,
        and float32 labels (batch, classes), each row of which sums to 1.
    """
    with _in_float32():
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
        labels = one_hot(labels, classes, recipe.label_smoothing)
        if mix:
            images, labels = mix(images, labels, draws["epoch"], draws["position"])
        images = tf.cast(images, tf.float32)
        if erase:  # Last, as timm's loader does, whose batches are mixed before they are normalised.
            images = erase(images, draws["erasing"], draws["epoch"], draws["position"])
        return images, labels

    return transform


@contextlib.contextmanager
def _in_float32():
    """Layers made inside compute in float32, whatever the model's policy: half precision rounds pixels."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)


def one_hot(labels, classes, smoothing=0.0):
    """Integer labels (batch,) to float32 (batch, classes), a share `smoothing` spread over all classes."""
    return tf.one_hot(labels, classes) * (1 - smoothing) + smoothing / classes


def color_jitter(recipe, channels):
    """Builds torchvision's ColorJitter: brightness, contrast and saturation by factors around 1, in this
    order.

    Returns:
        A function from float32 images (batch, height, width, channels), 0..255, and uniform draws (batch, 3)
        to images of the same kind.
    """
    apply = randaugment.operations(channels, [0.0] * channels)
    names = [name for name in ("Brightness", "Contrast", "Color") if name in apply]

    def jitter(images, draws):
        factors = tf.maximum(0.0, 1 + recipe.color_jitter * (2 * draws - 1))
        for i, name in enumerate(names):
            images = tf.clip_by_value(apply[name](images, factors[:, i]), 0.0, 255.0)
        return images

    return jitter


# keras-cv takes seconds to import, and only training needs it: hence the imports inside the functions.


def mixing(recipe):
    """Builds MixUp or CutMix, by turns at random where the recipe has both, with timm's draws.

    One of the two, one share and one rectangle hold for the whole batch, which is mixed with itself in
    reverse order. (keras-cv's layers draw a share for each image, and a partner that may be the image
    itself.)

    Returns:
        A function from images of any dtype, labels (batch, classes), epochs and positions (batch,) to mixed
        float32 images and labels. Labels are mixed in the proportion of the pixels that are seen.
    """
    from keras_cv import layers

    mixup, cutmix = layers.MixUp(recipe.mixup_alpha), layers.CutMix(recipe.cutmix_alpha)

    def with_mixup(images, labels, seed):
        kept, order = _beta(recipe.mixup_alpha, seed(OF_SHARE)), _reversed(images)
        images = tf.cast(images, tf.float32)
        images = tf.round(kept * images + (1 - kept) * tf.gather(images, order))
        return images, mixup._update_labels(labels, kept, order)

    def with_cutmix(images, labels, seed):
        height, width = images.shape[1:3]
        cut = tf.sqrt(1 - _beta(recipe.cutmix_alpha, seed(OF_SHARE)))
        center, order = tf.random.stateless_uniform((2,), seed(OF_CENTER)), _reversed(images)
        top, bottom = _interval(center[0], cut, height)
        left, right = _interval(center[1], cut, width)
        others = tf.gather(images[:, top:bottom, left:right], order)
        images = tf.cast(_pasted(images, others, top, left, axis=1), tf.float32)
        kept = 1 - (bottom - top) * (right - left) / (height * width)
        return images, cutmix._update_labels(labels, tf.cast(kept, tf.float32), order)

    def mix(images, labels, epoch, position):
        batch = position[0] // recipe.batch_size  # The same for every worker that has a share of it.

        def seed(use):
            return _seed(recipe, epoch[0], batch, use)

        if not recipe.cutmix_alpha:
            return with_mixup(images, labels, seed)
        if not recipe.mixup_alpha:
            return with_cutmix(images, labels, seed)
        return tf.cond(
            tf.random.stateless_uniform((), seed(OF_CHOICE)) < 0.5,
            lambda: with_mixup(images, labels, seed),
            lambda: with_cutmix(images, labels, seed),
        )

    return mix


def _beta(alpha, seed):
    """A draw from Beta(alpha, alpha)."""
    one, other = tf.unstack(tf.random.stateless_gamma((2,), seed, alpha))
    return one / (one + other)


def _interval(center, share, side):
    """Begin and end of a share of 0..side around a random centre, in whole pixels, cut off at the ends."""
    center, length = (tf.cast(tf.floor(value * side), tf.int32) for value in (center, share))
    return tf.maximum(center - length // 2, 0), tf.minimum(center + (length + 1) // 2, side)


def _pasted(images, patch, top, left, axis):
    """Images with a patch in the place of what is there; `axis` is that of their rows."""
    bottom, right = top + tf.shape(patch)[axis], left + tf.shape(patch)[axis + 1]
    # Slices of rows and columns, of which tf.concat copies long pieces; tf.where goes by single numbers.
    rows, columns = ((slice(None),) * i for i in (axis, axis + 1))
    beside = images[(*rows, slice(top, bottom))]
    middle = tf.concat(
        [beside[(*columns, slice(left))], patch, beside[(*columns, slice(right, None))]], axis + 1
    )
    above, below = images[(*rows, slice(top))], images[(*rows, slice(bottom, None))]
    return tf.ensure_shape(tf.concat([above, middle, below], axis), images.shape)


def _reversed(images):
    return tf.range(tf.shape(images)[0])[::-1]


def random_erasing(recipe):
    """Builds timm's random erasing, "pixel" mode: a rectangle of noise in a share of the images.

    2 to 33 % of an image's area, aspect 0.3..1/0.3, inside the image; standard normal noise in the units in
    which the model normalises. (keras-cv's RandomCutout draws rectangles that lie half outside, and noise for
    every pixel of every image, which it stretches to the range of the batch.)

    Returns:
        A function from float32 images (batch, height, width, channels), uniform draws (batch, 1 + RECTANGLE),
        epochs and positions (batch,) to images.
    """

    def erase(images, draws, epoch, position):
        size = tf.cast(tf.shape(images)[1:3], tf.float32)
        rectangles = _rectangles(size, (0.02, 1 / 3), (0.3, 1 / 0.3), draws[:, 1:])
        fits = tf.reduce_all(rectangles < size, -1)
        erased = (draws[:, 0] < recipe.erasing_probability) & tf.reduce_any(fits, -1)
        extent = tf.gather(rectangles, tf.argmax(fits, -1), batch_dims=1)
        corner = tf.cast(_corner(size - extent, draws[:, -2:]), tf.int32)
        extent = tf.cast(extent, tf.int32)

        def one(of):
            image, epoch, position, corner, extent = of
            seed = _seed(recipe, epoch, position, OF_NOISE)
            noise = tf.random.stateless_normal((extent[0], extent[1], images.shape[-1]), seed)
            return _pasted(image, 255 * (noise * recipe.std + recipe.mean), corner[0], corner[1], axis=0)

        rows = tf.where(erased)
        chosen = [tf.gather_nd(values, rows) for values in (images, epoch, position, corner, extent)]
        changed = tf.map_fn(one, chosen, fn_output_signature=tf.TensorSpec(images.shape[1:], tf.float32))
        return tf.tensor_scatter_nd_update(images, rows, changed)

    return erase
