"""Decoding and the evaluation transform inside a TensorFlow graph."""

import io
import math

import numpy as np
import tensorflow as tf
from PIL import Image, UnidentifiedImageError

from convmixer_keras.utils import checks
from convmixer_keras.utils.errors import InputError

# TensorFlow's names of Pillow's filters.
KERNELS = {"bicubic": "keyscubic", "bilinear": "triangle", "lanczos": "lanczos3"}
INTERPOLATIONS = (*KERNELS, "nearest")
# What Pillow raises for files that it cannot read.
NOT_AN_IMAGE = (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError)


def decode(contents, channels):
    """Decodes an image file inside a TensorFlow graph to the pixels that Pillow's `convert("RGB")` gives.

    TensorFlow decodes JPEG and PNG files to the same pixels, bit for bit, if its JPEG decoder is told to be
    accurate. What it decodes otherwise or not at all goes through Pillow itself, one image at a time: CMYK
    JPEG, 16-bit grey PNG, and any other format, whatever the file's name.

    Args:
        contents: The file's bytes, a scalar string tensor.
        channels: 3 for RGB or 1 for grey.

    Returns:
        A uint8 tensor (height, width, channels).

    Raises:
        tf.errors.OpError: If it is not a readable image.
    """
    head = tf.io.decode_raw(contents, tf.uint8, fixed_length=26)
    is_jpeg = tf.reduce_all(head[:3] == list(b"\xff\xd8\xff"))
    is_png = tf.reduce_all(head[:4] == list(b"\x89PNG"))
    is_16_bit_grey = tf.reduce_all(head[24:] == [16, 0])  # the header's bit depth and colour type

    def with_pillow():
        image = tf.numpy_function(_decode_with_pillow, [contents, channels], tf.uint8, stateful=False)
        with tf.control_dependencies([tf.debugging.assert_positive(tf.size(image), "not an image")]):
            return tf.identity(image)

    def jpeg():
        return tf.cond(
            tf.io.extract_jpeg_shape(contents)[2] <= 3,
            lambda: tf.io.decode_jpeg(contents, channels, dct_method="INTEGER_ACCURATE"),
            with_pillow,
        )

    image = tf.case(
        [(is_jpeg, jpeg), (is_png & ~is_16_bit_grey, lambda: tf.io.decode_png(contents, channels))],
        default=with_pillow,
    )
    return tf.ensure_shape(image, (None, None, channels))


def _decode_with_pillow(contents, channels):
    """Returns no pixels for what is no image: TensorFlow would log an exception at length."""
    try:
        with Image.open(io.BytesIO(contents)) as image:
            pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    except NOT_AN_IMAGE:
        pixels = np.empty((0, 0), np.uint8)
    return pixels.reshape(*pixels.shape[:2], channels)


def evaluation_transform(image, size, crop_pct=1.0, interpolation="bicubic"):
    """Resizes the shorter side to floor(size / crop_pct) with antialiasing and crops the centre.

    Sides and corner are rounded as torchvision and timm round them, and each pixel is Pillow's to within two
    grey levels.

    Args:
        image: (height, width, channels), 0..255, any numeric dtype.
        size: Side of the result, in pixels.
        crop_pct: Share of the resized image's side that the crop keeps, over 0 to 1.
        interpolation: "bicubic", "bilinear", "lanczos" or "nearest"; the last is without antialiasing.

    Returns:
        A float32 tensor (size, size, channels), whole numbers 0..255.

    Raises:
        InputError: If an argument is out of its range.
    """
    size = checks.positive_int("size", size)
    checks.one_of("interpolation", interpolation, INTERPOLATIONS)
    if not 0 < crop_pct <= 1:
        raise InputError(f"crop_pct must be over 0 and at most 1, got {crop_pct}")
    resized_side = math.floor(size / crop_pct)
    image = tf.cast(image, tf.float32)
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    shorter = tf.minimum(height, width)
    # Pillow resizes along the rows first, and rounds to whole grey levels between and after.
    for axis, side in ((1, width), (0, height)):
        resized = resized_side * side // shorter  # The longer side is truncated.
        # round(), as torchvision's CenterCrop: a half goes to the even number.
        begin = tf.cast(tf.round((resized - size) / 2), tf.int32)
        image = _resize_and_crop(image, axis, resized, begin, size, interpolation)
    return tf.ensure_shape(image, (size, size, None))


def _resize_and_crop(image, axis, resized, begin, size, interpolation):
    """Resizes one axis to `resized` pixels, of which only begin..begin + size - 1 are computed."""
    shape = tf.shape(image)
    if interpolation == "nearest":
        step = tf.cast(shape[axis], tf.float64) / tf.cast(resized, tf.float64)
        # A sum, as in Pillow: its rounding decides where a centre falls on the edge of two pixels.
        centers = tf.cumsum(tf.concat([[step / 2], tf.fill([begin + size - 1], step)], 0))[begin:]
        return tf.gather(image, tf.cast(centers, tf.int32), axis=axis)
    # What is not resized stands where it costs nothing: the columns among the batch or the channels.
    flat = (1, shape[0], 1, shape[1] * shape[2]) if axis == 0 else (shape[0], 1, shape[1], shape[2])
    scale = tf.cast(resized, tf.float32) / tf.cast(shape[axis], tf.float32)
    shift = -tf.cast(begin, tf.float32)
    image = tf.raw_ops.ScaleAndTranslate(
        images=tf.reshape(image, flat),
        size=[size, 1] if axis == 0 else [1, size],
        scale=[scale, 1.0] if axis == 0 else [1.0, scale],
        translation=[shift, 0.0] if axis == 0 else [0.0, shift],
        kernel_type=KERNELS[interpolation],
        antialias=True,
    )
    image = tf.reshape(image, (size, shape[1], shape[2]) if axis == 0 else (shape[0], size, shape[2]))
    return tf.floor(tf.clip_by_value(image, 0, 255) + 0.5)


def resize(image, size, interpolation):
    """Resizes with antialiasing to whole grey levels in 0..255, both axes at once: for random crops."""
    image = tf.image.resize(image, size, interpolation, antialias=interpolation != "nearest")
    # Bicubic overshoots, and keras-cv's Equalization crashes on values over 255.
    return tf.round(tf.clip_by_value(tf.cast(image, tf.float32), 0, 255))
