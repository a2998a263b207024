"""From an image file to what the model takes at evaluation."""

import os

import numpy as np
from PIL import Image

from convmixer_keras.data.transforms import NOT_AN_IMAGE, evaluation_transform
from convmixer_keras.utils.errors import InputError


def load_image(path, size=224, crop_pct=0.96, interpolation="bicubic"):
    """Reads an image file and gives it the evaluation transform.

    The order is: decode, convert to RGB, resize, crop; the scaling to normalised channels is the model's or
    the caller's. Pixels stay as they are stored, as with Pillow's `convert("RGB")` and in the pipelines with
    which the published weights were trained and evaluated: a turn that the file's EXIF orientation asks for
    is not made, and transparency is left out, not blended.

    Args:
        path: An image file of any format that Pillow reads.
        size: Side of the result, in pixels.
        crop_pct: Share of the resized image's side that the centre crop keeps, over 0 to 1.
        interpolation: "bicubic", "bilinear", "lanczos" or "nearest".

    Returns:
        A float32 array (size, size, 3), RGB, whole numbers 0..255: raw pixels, not normalised.

    Raises:
        InputError: If the file is missing or not a readable image, or an argument is out of its range.
    """
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except NOT_AN_IMAGE as error:
        raise InputError(f"cannot read {os.fspath(path)} as an image: {error}") from None
    return evaluation_transform(pixels, size, crop_pct, interpolation).numpy()
