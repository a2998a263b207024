"""The images that a `.tflite` file is calibrated and checked with."""

import math
import os
import warnings

import numpy as np

from convmixer_keras.images.folder import Folder
from convmixer_keras.images.listing import image_paths
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.utils.errors import InputError, arg

CALIBRATION_IMAGES = 128
RANDOM_IMAGES = 8
HELD_OUT_SHARE = 0.2  # The largest share that a program of this package holds out by itself.


def calibration_images(source, shape, takes_pixels, preprocessing, counted):
    """Returns float32 images (n, *shape) of what the file takes, from the `calibration` of `tflite.export`.

    `preprocessing` makes them of photographs, or is None for the default one; `counted` goes through images
    and shows how far it is.
    """
    if source is None:
        random = np.random.default_rng(0)
        count = max(1, min(RANDOM_IMAGES, 2**27 // math.prod(shape)))  # At most half a gigabyte.
        if takes_pixels:
            return random.integers(0, 256, (count, *shape), np.uint8).astype(np.float32)
        return random.standard_normal((count, *shape), np.float32)
    if not isinstance(source, (str, os.PathLike)):
        images = np.asarray(source)
        if images.shape[1:] != shape or not len(images) or images.dtype.kind not in "uif":
            raise InputError(
                f"{arg('calibration')} must be at least one image of the shape {shape}, "
                f"got {images.dtype} {images.shape}"
            )
        if not np.isfinite(images).all():  # The quantiser would crash.
            raise InputError("calibration must be finite numbers, and holds NaN or infinite ones")
        return images.astype(np.float32)
    if not takes_pixels:
        raise InputError(
            "images are pixels 0..255, and the model takes normalised channels: give its "
            f"{arg('mean')} and {arg('std')}"
        )
    preprocessing = preprocessing or Preprocessing(shape[:2], shape[2])
    if os.path.isdir(source):
        return _folder_images(source, preprocessing, counted)
    return _dataset_images(os.fspath(source), preprocessing)


def _folder_images(folder, preprocessing, counted):
    paths = _training_images(folder)
    if not paths:
        raise InputError(f"there are no images in {folder}")
    # Spread over the folder, as its classes may stand one after the other.
    chosen = np.unique(np.linspace(0, len(paths) - 1, CALIBRATION_IMAGES).round().astype(int))
    images = []
    for i in counted(chosen, "reading", len(chosen)):
        try:
            images.append(preprocessing(paths[i]))
        except InputError as error:
            warnings.warn(f"{error}; it is left out", stacklevel=2)
    if not images:
        raise InputError(f"no image in {folder} can be read")
    return np.stack(images)


def _training_images(folder):
    """Returns a folder's images without those to validate on, which are for measuring.

    A folder without splits is divided, and more is held out than by `train_keras.py`. To calibrate on a
    validation split, name its folder.
    """
    try:
        photos = Folder(folder, validation_share=HELD_OUT_SHARE)
    except InputError as error:
        every = image_paths(folder)
        if all(os.path.dirname(path) == os.path.dirname(every[0]) for path in every):
            return every  # There are no classes.
        raise InputError(f"{error}. To calibrate on a part of {folder}, name its folder") from None
    if "train" not in photos.split_names:
        return image_paths(folder)
    try:
        return sorted(path for paths in photos.split("train").paths.values() for path in paths)
    except InputError:  # Too few images to hold some out.
        return image_paths(folder)


def _dataset_images(name, preprocessing):
    from convmixer_keras.data.datasets import open_named

    try:
        source = open_named(name)
    except InputError as error:
        raise InputError(
            f"{arg('calibration')} must be a folder of images, digits, or a name that tensorflow-datasets "
            f"knows, got {name!r}: there is no such folder, and as a data set: {error}"
        ) from None
    if source.channels != preprocessing.channels:
        raise InputError(
            f"images of {name} have {source.channels} channels, and the model takes {preprocessing.channels}"
        )
    # Not the split that the file will be measured on.
    examples = source.read("train").examples.take(CALIBRATION_IMAGES)
    return np.stack([preprocessing(image) for image, _ in examples.as_numpy_iterator()])
