"""The images that a `.tflite` file is calibrated and checked with."""

import os

import numpy as np

from convmixer_keras.convert import runtime
from convmixer_keras.utils import command_line
from convmixer_keras.utils.errors import InputError
from convmixer_keras.utils.image_files import image_paths

CALIBRATION_IMAGES = 128
RANDOM_IMAGES = 8


def calibration_images(source, shape, takes_pixels, counted):
    """Returns float32 images (n, height, width, channels) of what the file takes."""
    if source is None:
        random = np.random.default_rng(0)
        images = random.normal(size=(RANDOM_IMAGES, *shape))
        if takes_pixels:
            images = random.integers(0, 256, images.shape)
        return images.astype(np.float32)
    if not isinstance(source, (str, os.PathLike)):
        images = np.asarray(source)
        if images.shape[1:] != shape or not len(images) or images.dtype.kind not in "uif":
            raise InputError(
                f"calibration must be at least one image of the shape {shape}, "
                f"got {images.dtype} {images.shape}"
            )
        return images.astype(np.float32)
    if not takes_pixels:
        raise InputError(
            "images are pixels 0..255, and the model takes normalised channels: give input_mean and input_std"
        )
    if os.path.isdir(source):
        return _folder_images(source, shape, counted)
    return _dataset_images(os.fspath(source), shape)


def _folder_images(folder, shape, counted):
    paths = image_paths(folder)
    if not paths:
        raise InputError(f"there are no images in {folder}")
    # Spread over the folder, as its classes may stand one after the other.
    chosen = np.unique(np.linspace(0, len(paths) - 1, CALIBRATION_IMAGES).round().astype(int))
    images = (runtime.read_image(paths[i], shape) for i in chosen)
    return np.stack(list(counted(images, "reading", len(chosen))))


def _dataset_images(name, shape):
    from convmixer_keras.data import pipeline as data
    from convmixer_keras.data import sources
    from convmixer_keras.recipes import Recipe

    try:
        sources.check_dataset(name)
    except InputError as error:
        raise InputError(
            "calibration must be a folder of images, digits, or a name that tensorflow-datasets knows, "
            f"got {name!r}: there is no such folder, and as a data set: {error}"
        ) from None
    height, width, channels = shape
    if height != width:
        raise InputError(f"images of {name} are square, and the model takes {height}x{width}: give a folder")
    # Not the split that the file will be measured on.
    recipe = Recipe(dataset=name, image_size=height, validation_split="train", batch_size=CALIBRATION_IMAGES)
    found = data.load_validation(recipe)
    if found.channels != channels:
        raise InputError(f"images of {name} have {found.channels} channels, and the model takes {channels}")
    with command_line.silence():  # TensorFlow warns that the rest of the images is not read.
        images, _ = next(iter(found.images))
    return np.asarray(images, np.float32)
