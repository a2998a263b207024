"""How far a Keras model's outputs are from those of the same weights in PyTorch, on the same images."""

import os
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np

from convmixer_keras.images import listing
from convmixer_keras.models import outputs
from convmixer_keras.models import parts as anatomy
from convmixer_keras.utils.errors import InputError

_BATCH = 4


class Images(NamedTuple):
    """Images to compare on, which can be read twice and are not kept in memory.

    Attributes:
        name: What messages call them.
        size: Their side in pixels.
        raw: Function without arguments that gives batches (batch, size, size, channels) of raw pixels.
        mean, std: Per channel, in units of 0..255: what makes normalised channels of raw pixels.
    """

    name: str
    size: int
    raw: Callable
    mean: np.ndarray
    std: np.ndarray

    def normalized(self):
        for pixels in self.raw():
            yield ((pixels - self.mean) / self.std).astype(np.float32)


def random_images(size, channels, mean=128, std=64, count=2):
    """Returns noise as `Images`; given no other mean and standard deviation, normalised to about +-2."""

    def raw():
        shape = (count, size, size, channels)
        yield np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)

    return Images(f"{count} random images", size, raw, np.array(mean), np.array(std))


def real_images(folder, size, preset, mean=None, std=None):
    """Returns the images under a folder as `Images`, after the evaluation transform of a variant.

    Raises:
        InputError: If there are none; while they are read, if one is damaged.
    """
    from convmixer_keras.images import preprocessing

    paths = image_paths(folder)

    def raw():
        for start in range(0, len(paths), _BATCH):
            yield np.stack(
                [
                    preprocessing.load_image(path, size, preset.crop_pct, preset.interpolation)
                    for path in paths[start : start + _BATCH]
                ]
            )

    if mean is None:
        mean, std = 255 * np.array(preset.mean), 255 * np.array(preset.std)
    return Images(f"{len(paths)} images of {folder}", size, raw, np.array(mean), np.array(std))


def image_paths(folder):
    """Returns the paths of the images under a folder, sorted, or raises InputError if there are none."""
    if not os.path.isdir(folder):
        raise InputError(f"there is no folder {folder}")
    paths = listing.image_paths(folder)
    if not paths:
        raise InputError(f"there are no images ({', '.join(listing.IMAGE_ENDINGS)}) under {folder}")
    return paths


def keras_outputs(model, images, features=False):
    """Returns a Keras ConvMixer's logits (batch, classes) of `Images`, or its pooled features."""
    parts = anatomy.of(model)
    batches = images.normalized() if parts.mean is None else images.raw()
    ours = keras.Model(model.input, parts.maps(parts.image)[-1]) if features else outputs.logits_model(model)
    found = np.concatenate([_run(ours, batch) for batch in batches])
    return found.mean(axis=(1, 2)) if found.ndim == 4 else found


def _run(model, batch):
    # The CPU, as PyTorch's model: a GPU may compute convolutions with fewer bits.
    with keras.device("cpu:0"):
        return model.predict_on_batch(batch)


def torch_outputs(sizes, activation, arrays, images):
    """Returns PyTorch's logits of `Images`, or pooled features where `sizes.classes` is None.

    Args:
        sizes, activation, arrays: As in `network.torch_outputs`.
        images: `Images`.
    """
    from convmixer_keras.convert.weights import network

    return np.concatenate(network.torch_outputs(sizes, activation, arrays, images.normalized()))
