"""From an image file to what the model takes at evaluation, and from its output to names."""

import importlib.resources
import math
import os

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps, UnidentifiedImageError

from convmixer_keras import checks
from convmixer_keras.errors import InputError


def load_image(path, size=224, crop_pct=0.96, interpolation="bicubic"):
    """Reads an image file and gives it the evaluation transform.

    The order is: decode, turn as its EXIF orientation says, convert to RGB, resize, crop.

    Args:
        path: An image file of any format that Pillow reads.
        size: Side of the result, in pixels.
        crop_pct: Share of the resized image's side that the centre crop keeps, over 0 to 1.
        interpolation: "bicubic", "bilinear" or "nearest".

    Returns:
        A float32 array (size, size, 3), RGB, 0..255: raw pixels, not normalised.

    Raises:
        InputError: If the file is missing or not a readable image, or an argument is out of its range.
    """
    try:
        with Image.open(path) as image:
            pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot read {os.fspath(path)} as an image: {error}") from None
    return evaluation_transform(pixels, size, crop_pct, interpolation).numpy()


def evaluation_transform(image, size, crop_pct=1.0, interpolation="bicubic"):
    """Resizes the shorter side to floor(size / crop_pct) with antialiasing and crops the centre.

    Args:
        image: (height, width, channels), 0..255, any numeric dtype.
        size: Side of the result, in pixels.
        crop_pct: Share of the resized image's side that the crop keeps, over 0 to 1.
        interpolation: "bicubic", "bilinear" or "nearest".

    Returns:
        A float32 tensor (size, size, channels), 0..255.

    Raises:
        InputError: If an argument is out of its range.
    """
    size = checks.positive_int("size", size)
    checks.one_of("interpolation", interpolation, ("bicubic", "bilinear", "nearest"))
    if not 0 < crop_pct <= 1:
        raise InputError(f"crop_pct must be over 0 and at most 1, got {crop_pct}")
    resized_side = math.floor(size / crop_pct)
    image = tf.convert_to_tensor(image)
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    shorter = tf.minimum(height, width)
    # torchvision and Pillow truncate the longer side.
    resized = tf.stack([resized_side * height // shorter, resized_side * width // shorter])
    image = resize(image, resized, interpolation)
    # round(), as torchvision's CenterCrop: a half goes to the even number.
    top, left = tf.unstack(tf.cast(tf.round((resized - size) / 2), tf.int32))
    image = image[top : top + size, left : left + size]
    return tf.ensure_shape(image, (size, size, None))


def resize(image, size, interpolation):
    """Resizes with antialiasing to whole grey levels in 0..255, as Pillow does to 8-bit images."""
    image = tf.image.resize(image, size, interpolation, antialias=interpolation != "nearest")
    # Bicubic overshoots, and keras-cv's Equalization crashes on values over 255.
    return tf.round(tf.clip_by_value(tf.cast(image, tf.float32), 0, 255))


def decode_predictions(predictions, top=5, class_names=None):
    """Names the highest scores of each row.

    Args:
        predictions: Scores (batch, classes), logits or probabilities: an array or tensor.
        top: How many to name.
        class_names: Sequence of `classes` strings; for a saved model, `load_class_names(path)` gives it.
            None means ImageNet's 1,000 classes.

    Returns:
        For each row a list of (id, name, score), the highest score first. The id is the class's WordNet id,
        such as "n02099601", for ImageNet, and its index as a string for `class_names`.

    Raises:
        InputError: If the shapes and the number of names do not fit together.
    """
    predictions = np.asarray(predictions)
    top = checks.positive_int("top", top)
    if predictions.ndim != 2:
        raise InputError(f"predictions must have the shape (batch, classes), got {predictions.shape}")
    if class_names is None:
        classes = imagenet_classes()
    else:
        classes = [(str(i), name) for i, name in enumerate(class_names)]
    if predictions.shape[1] != len(classes):
        raise InputError(
            f"predictions must have one column for each of the {len(classes)} class names, "
            f"got the shape {predictions.shape}"
        )
    return [
        [(*classes[i], float(row[i])) for i in np.argsort(-row, kind="stable")[:top]] for row in predictions
    ]


def imagenet_classes():
    """Returns ImageNet's 1,000 classes as pairs of WordNet id and name, in the usual order."""
    text = importlib.resources.files("convmixer_keras").joinpath("imagenet_classes.txt").read_text("ascii")
    return [tuple(line.split(" ", 1)) for line in text.splitlines()]
