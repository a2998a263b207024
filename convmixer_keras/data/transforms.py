"""Decoding and the evaluation transform inside tf.data, to the same pixels as `preprocessing`."""

import functools

import numpy as np
import tensorflow as tf
from PIL import Image

from convmixer_keras.images import reading
from convmixer_keras.utils.errors import InputError


def decode(contents, channels, orientation="stored"):
    """Decodes a file's bytes to uint8 (height, width, channels), the pixels that `reading.read` gives.

    What is decoded already stays as it is. TensorFlow decodes JPEG and PNG files to the same pixels, bit for
    bit, if its JPEG decoder is told to be accurate. CMYK JPEG, colour that becomes grey, JPEG that has been
    cut off, and any other format, whatever the file's name, go through Pillow itself: of a damaged file
    TensorFlow's decoder prints lines that do not name it.

    Raises:
        tf.errors.OpError: If it is not a readable image, or has over `reading.MOST_PIXELS` pixels.
    """
    contents = tf.convert_to_tensor(contents)
    if contents.dtype != tf.string:
        return tf.ensure_shape(contents, (None, None, channels))
    head = tf.io.decode_raw(contents, tf.uint8, fixed_length=4)
    is_jpeg = is_whole_jpeg(contents)
    is_png = tf.reduce_all(head == list(b"\x89PNG"))

    def with_pillow():
        read = functools.partial(_decode_with_pillow, channels=channels, orientation=orientation)
        image = tf.numpy_function(read, [contents], tf.uint8, stateful=False)
        with tf.control_dependencies([tf.debugging.assert_positive(tf.size(image), "not an image")]):
            return tf.identity(image)

    def jpeg():
        height, width, _ = tf.unstack(tf.io.extract_jpeg_shape(contents))

        def decoded():
            with checked_size(height, width):
                pixels = tf.io.decode_jpeg(contents, channels, dct_method="INTEGER_ACCURATE")
            return turned(pixels, exif_orientation(contents, orientation))

        return tf.cond(jpeg_decodes_to(contents, channels), decoded, with_pillow)

    def png():
        header = tf.io.decode_raw(contents, tf.int32, little_endian=False, fixed_length=24)
        kind = tf.io.decode_raw(contents, tf.uint8, fixed_length=26)[25]

        def decoded():
            with checked_size(header[5], header[4]):
                pixels = tf.io.decode_png(contents, channels)
            return turned(pixels, exif_orientation(contents, orientation))

        is_grey = tf.bitwise.bitwise_and(kind, tf.constant(2, tf.uint8)) == 0
        return tf.cond(is_grey | (channels == 3), decoded, with_pillow)

    image = tf.case([(is_jpeg, jpeg), (is_png, png)], default=with_pillow)
    return tf.ensure_shape(image, (None, None, channels))


def is_whole_jpeg(contents):
    """Whether bytes, a scalar string tensor, begin and end as a JPEG file does."""
    begin, end = tf.strings.substr(contents, 0, 3), tf.strings.substr(contents, -2, 2)
    return (begin == b"\xff\xd8\xff") & (end == b"\xff\xd9")


def jpeg_decodes_to(contents, channels):
    """Whether TensorFlow decodes a JPEG file as Pillow does: CMYK it does not, nor colour to grey."""
    stored = tf.io.extract_jpeg_shape(contents)[2]
    return (stored == channels) | (stored == 1)


def checked_size(height, width):
    """Within this block, what is decoded has at most `reading.MOST_PIXELS` pixels, or fails."""
    pixels = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
    fits = tf.debugging.assert_less_equal(
        pixels, tf.constant(reading.MOST_PIXELS, tf.int64), "too many pixels"
    )
    return tf.control_dependencies([fits] if fits is not None else [])


def _decode_with_pillow(contents, channels, orientation):
    """Returns an empty array for what is not an image: TensorFlow would log an exception at length."""
    try:
        pixels = np.asarray(reading.read(_as_bytes(contents), channels, orientation))
    except InputError:
        pixels = np.empty((0, 0), np.uint8)
    return pixels.reshape(*pixels.shape[:2], channels)


def _as_bytes(contents):
    """`tf.numpy_function` passes a string as bytes in a graph, and as an array of them outside of one."""
    return contents if isinstance(contents, bytes) else contents.item()


def exif_orientation(contents, orientation="exif"):
    """Returns the EXIF orientation, 1 to 8, of a file's bytes; for "stored", 1 whatever the file says."""
    if orientation == "stored":
        return tf.constant(1)

    def parse(contents):
        return np.int32(reading.exif_orientation(_as_bytes(contents)))

    def parsed():
        return tf.ensure_shape(tf.numpy_function(parse, [contents], tf.int32, stateful=False), ())

    # Python is called for files that may have an orientation, and not for all.
    marks = b"|".join(reading.EXIF_MARKS)
    without = tf.strings.regex_replace(contents, marks, b"", replace_global=False)
    return tf.cond(tf.strings.length(without) < tf.strings.length(contents), parsed, lambda: 1)


def _turn(orientation):
    """Says what an EXIF orientation is made of: mirrored rows, mirrored columns, and then transposed."""

    def is_one_of(*values):
        return tf.reduce_any(orientation == list(values))

    return is_one_of(3, 4, 6, 7), is_one_of(2, 3, 7, 8), orientation >= 5


def turned(image, orientation):
    """Turns stored pixels (height, width, channels) to how an EXIF orientation wants them shown."""

    def turn():
        rows, columns, transposed = _turn(orientation)
        mirrored = tf.reverse(image, tf.boolean_mask([0, 1], [rows, columns]))
        return tf.cond(transposed, lambda: swapped(mirrored), lambda: mirrored)

    def swapped(image):
        # By NumPy: TensorFlow's oneDNN logs a false error when it transposes uint8.
        return tf.numpy_function(
            lambda pixels: pixels.swapaxes(0, 1).copy(), [image], tf.uint8, stateful=False
        )

    shown = tf.cond(orientation > 1, turn, lambda: image)
    return tf.ensure_shape(shown, (None, None, image.shape[-1]))


def stored_rectangle(rectangle, orientation, size):
    """Returns where a rectangle (top, left, height, width) of the shown image lies in the stored one."""
    rows, columns, transposed = _turn(orientation)
    top, left, height, width = tf.unstack(tf.where(transposed, tf.gather(rectangle, [1, 0, 3, 2]), rectangle))
    top = tf.where(rows, size[0] - top - height, top)
    left = tf.where(columns, size[1] - left - width, left)
    return tf.stack([top, left, height, width])


def evaluation_transform(image, preprocessing):
    """Resizes, crops and normalises decoded uint8 pixels to float32 ones, by the code of `preprocessing`."""

    def resized(pixels):
        pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
        return preprocessing.resized(Image.fromarray(pixels))

    def resize():
        pixels = tf.numpy_function(resized, [image], tf.uint8, stateful=False)
        return tf.ensure_shape(pixels, preprocessing.shape)

    if preprocessing.crop_pct == 1:
        fits = tf.reduce_all(tf.shape(image) == preprocessing.shape)
        pixels = tf.cond(fits, lambda: image, resize)
    else:
        pixels = resize()
    pixels = tf.cast(tf.ensure_shape(pixels, preprocessing.shape), tf.float32)
    if preprocessing.mean is None:
        return pixels
    return (pixels / 255 - preprocessing.mean) / preprocessing.std
