"""The training transform, from keras-cv layers. Images are raw pixels, 0..255, throughout."""

import contextlib

import keras
import numpy as np
import tensorflow as tf

from convmixer_keras.preprocessing import evaluation_transform, resize

PIXEL_RANGE = (0, 255)


def random_resized_crop(image, recipe):
    """Crops a random rectangle of an image and resizes it to the recipe's image size.

    Drawn as torchvision and timm do: a uniform area and a log-uniform aspect ratio, up to ten times until the
    rectangle fits into the image, or else the largest centred one of an allowed ratio. (keras-cv's
    RandomCropAndResize clips what does not fit and samples without antialiasing; TensorFlow's
    `sample_distorted_bounding_box` draws uniform heights, and so smaller areas.)

    Args:
        image: (height, width, channels), 0..255.
        recipe: A `Recipe`; `crop_area`, `crop_ratio` and `image_size` count. Interpolation is bilinear or
            bicubic, each time by chance.

    Returns:
        A float32 tensor (image_size, image_size, channels), whole numbers 0..255.
    """
    if recipe.crop_area == (1.0, 1.0):  # Nothing to draw: as much of the image as evaluation sees.
        return evaluation_transform(image, recipe.image_size, recipe.crop_pct, recipe.interpolation)
    top, left, height, width = _random_rectangle(tf.shape(image)[:2], recipe.crop_area, recipe.crop_ratio)
    crop = image[top : top + height, left : left + width]
    target = (recipe.image_size, recipe.image_size)
    image = tf.cond(
        tf.random.uniform(()) < 0.5,
        lambda: resize(crop, target, "bilinear"),
        lambda: resize(crop, target, "bicubic"),
    )
    return tf.ensure_shape(image, (*target, None))


def _random_rectangle(image_size, area_range, ratio_range):
    """Draws (top, left, height, width) in pixels, as scalars, within an image of (height, width) pixels."""
    attempts = 10
    size = tf.cast(image_size, tf.float32)
    area = tf.random.uniform((attempts,), *area_range) * size[0] * size[1]
    ratio = tf.exp(tf.random.uniform((attempts,), *np.log(ratio_range)))
    drawn = tf.round(tf.sqrt(tf.stack([area / ratio, area * ratio], 1)))
    # The fallback stands last: the whole image, cut to the nearest allowed ratio.
    height = tf.minimum(size[0], tf.round(size[1] / ratio_range[0]))
    width = tf.minimum(size[1], tf.round(size[0] * ratio_range[1]))
    drawn = tf.concat([drawn, [[height, width]]], 0)
    fits = tf.reduce_all((drawn >= 1) & (drawn <= size), 1)
    first = tf.argmax(fits)
    chosen = drawn[first]
    room = size - chosen
    corner = tf.floor(tf.random.uniform((2,)) * (room + 1))
    corner = tf.where(first == attempts, tf.floor(room / 2), corner)
    return tf.unstack(tf.cast(tf.concat([corner, chosen], 0), tf.int32))


def batch_transform(recipe, channels, classes):
    """Builds what happens to a batch: flip, colour jitter, RandAugment, erasing, smoothing, mixing.

    Args:
        recipe: A `Recipe`.
        channels: Number of channels of the images.
        classes: Number of classes.

    Returns:
        A function from images (batch, size, size, channels), 0..255, and integer labels (batch,) to float32
        images of the same shape and float32 labels (batch, classes), each row of which sums to 1.
    """
    with _in_float32():
        image_layers = list(_image_layers(recipe, channels))
        mixing_layers = list(_mixing_layers(recipe))

    def transform(images, labels):
        images = tf.cast(images, tf.float32)
        for layer in image_layers:
            images = layer(images)
        labels = one_hot(labels, classes, recipe.label_smoothing)
        batch = {"images": images, "labels": labels}
        if len(mixing_layers) == 2:
            mixup, cutmix = mixing_layers
            batch = tf.cond(tf.random.uniform(()) < 0.5, lambda: mixup(batch), lambda: cutmix(batch))
        elif mixing_layers:
            batch = mixing_layers[0](batch)
        return batch["images"], batch["labels"]

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


# keras-cv takes seconds to import, and only training needs it: hence the imports inside the functions. Each
# layer has a generator of its own; a seed of 0 would stand for none.


def _image_layers(recipe, channels):
    from keras_cv import layers

    seed = 1000 * recipe.seed
    if recipe.flip:
        yield layers.RandomFlip("horizontal", seed=seed + 1)
    if recipe.randaugment_ops:
        yield layers.RandomAugmentationPipeline(
            _randaugment_operations(recipe, channels, seed + 2),
            augmentations_per_image=recipe.randaugment_ops,
            seed=seed + 2,
        )
    if recipe.color_jitter:
        yield from _color_jitter(recipe.color_jitter, channels, seed + 3)
    if recipe.erasing_probability:
        yield _random_erasing(recipe, seed + 4)


def _mixing_layers(recipe):
    from keras_cv import layers

    seed = 1000 * recipe.seed
    if recipe.mixup_alpha:
        yield layers.MixUp(recipe.mixup_alpha, seed=seed + 5)
    if recipe.cutmix_alpha:
        yield _cutmix(recipe.cutmix_alpha, seed + 6)


def one_hot(labels, classes, smoothing=0.0):
    """Integer labels (batch,) to float32 (batch, classes), a share `smoothing` spread over all classes."""
    return tf.one_hot(labels, classes) * (1 - smoothing) + smoothing / classes


def _randaugment_operations(recipe, channels, seed):
    """The operations of RandAugment at the recipe's magnitude.

    At full magnitude each reaches as far as timm's: shear 0.3, translation 0.45 of a side, rotation 30
    degrees, enhancement by 0.9, "increasing" posterisation and solarisation, addition of 110.
    """
    from keras_cv import core, layers

    level = recipe.randaugment_magnitude / 10
    std = recipe.randaugment_std / 10

    def around(greatest):
        """Normal around the magnitude, as keras-cv's factors that also draw a sign by themselves."""
        return core.NormalFactorSampler(level * greatest, std * greatest, 0.0, greatest, seed=seed)

    fill = {"fill_mode": "constant", "fill_value": 128.0, "seed": seed}
    threshold = 255 * (1 - level)
    operations = [
        layers.AutoContrast(value_range=PIXEL_RANGE),
        layers.Equalization(value_range=PIXEL_RANGE),
        layers.Solarization(PIXEL_RANGE, threshold_factor=(0.0, 0.0), seed=seed),  # inverts
        layers.Solarization(PIXEL_RANGE, threshold_factor=(threshold, threshold), seed=seed),
        layers.Solarization(
            PIXEL_RANGE, addition_factor=around(110.0), threshold_factor=(128.0, 128.0), seed=seed
        ),
        layers.Posterization(value_range=PIXEL_RANGE, bits=max(1, 4 - int(4 * level))),
        layers.RandomContrast(PIXEL_RANGE, 0.9 * level, seed=seed),
        layers.RandomBrightness(0.9 * level / 2, PIXEL_RANGE, seed=seed),
        layers.RandomSharpness(around(0.9), PIXEL_RANGE, seed=seed),
        layers.RandomRotation(level * 30 / 360, **fill),
        layers.RandomShear(x_factor=around(0.3), y_factor=None, **fill),
        layers.RandomShear(x_factor=None, y_factor=around(0.3), **fill),
        layers.RandomTranslation(0.0, 0.45 * level, **fill),
        layers.RandomTranslation(0.45 * level, 0.0, **fill),
    ]
    if channels == 3:
        operations.append(layers.RandomColorDegeneration(around(0.9), seed=seed))
    return operations


def _color_jitter(strength, channels, seed):
    from keras_cv import layers

    yield layers.RandomBrightness(strength / 2, PIXEL_RANGE, seed=seed)
    yield layers.RandomContrast(PIXEL_RANGE, strength, seed=seed)
    if channels == 3:
        yield layers.RandomSaturation((0.5 - strength / 2, 0.5 + strength / 2), seed=seed)


def _random_erasing(recipe, seed):
    """keras-cv's RandomCutout with the rectangles and the noise of timm's random erasing."""
    from keras_cv import layers

    class RandomErasing(layers.RandomCutout):
        """Rectangles of 2 to 33 % of an image's area, aspect 0.3..1/0.3, for a share of the images."""

        def _compute_rectangle_size(self, images):
            count = tf.shape(images)[0]
            area = self._random_generator.uniform((count,), 0.02, 1 / 3)
            aspect = tf.exp(self._random_generator.uniform((count,), np.log(0.3), -np.log(0.3)))
            erased = self._random_generator.uniform((count,)) < recipe.erasing_probability
            shares = tf.sqrt(area * aspect), tf.sqrt(area / aspect)
            pixels = (
                tf.cast(tf.round(tf.minimum(share, 1.0) * tf.cast(side, tf.float32)), tf.int32)
                for share, side in zip(shares, self._get_image_shape(images), strict=True)
            )
            return [tf.where(erased, side, 0) for side in pixels]

        def _compute_rectangle_fill(self, images):
            # keras-cv stretches its noise to the batch's range; timm's is standard normal once normalised.
            noise = self._random_generator.normal(tf.shape(images))
            return 255 * (noise * recipe.std + recipe.mean)

    return RandomErasing(0.0, 0.0, seed=seed)


def _cutmix(alpha, seed):
    """keras-cv's CutMix with labels that say what is seen.

    keras-cv mixes labels by the area that it drew, also where much of that lies outside the image.
    """
    from keras_cv import layers

    class CutMix(layers.CutMix):
        def _cutmix(self, images):
            mixed, _, order, y, x, width, height = super()._cutmix(images)
            rows = _pixels_inside(y, height, tf.shape(images)[1])
            columns = _pixels_inside(x, width, tf.shape(images)[2])
            share = rows * columns / tf.cast(tf.reduce_prod(tf.shape(images)[1:3]), tf.float32)
            return mixed, 1 - share, order, y, x, width, height

    return CutMix(alpha, seed=seed)


def _pixels_inside(center, length, side):
    """How many of the pixels 0..side-1 lie in [center - length / 2, center + length / 2)."""
    center, half, side = (
        tf.cast(center, tf.float32),
        tf.cast(length, tf.float32) / 2,
        tf.cast(side, tf.float32),
    )
    begin, end = (tf.clip_by_value(tf.math.ceil(edge), 0.0, side) for edge in (center - half, center + half))
    return end - begin
