"""How far a Keras model's outputs are from those of the same weights in PyTorch, on the same images."""

import glob
import os
from typing import NamedTuple

import keras
import numpy as np

from convmixer_keras.errors import InputError

_IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_BATCH = 4


class Agreement(NamedTuple):
    """What a comparison found.

    Attributes:
        images: Number of images compared.
        compared: "logit", or "feature" where the Keras model has no classifier in common with PyTorch's.
        largest_difference: Largest absolute difference of any output; NaN if an output is not a number.
        same_top1: Number of images whose largest output is the same one.
    """

    images: int
    compared: str
    largest_difference: float
    same_top1: int

    def __str__(self):
        text = f"largest {self.compared} difference {self.largest_difference:.2e}"
        if self.compared == "logit":
            text += f", top-1 agreement {self.same_top1} of {self.images}"
        return text


def compare(model, sizes, activation, arrays, images):
    """Runs both models.

    Args:
        model: A Keras ConvMixer of this package, with or without `input_normalization`.
        sizes: The `Sizes` of the PyTorch model; with `classes=None` pooled features are compared.
        activation: Name of the PyTorch model's activation.
        arrays: Dict from (layer, tensor) to the PyTorch model's weights.
        images: Iterable of float32 batches (batch, height, width, channels), as the Keras model takes them.

    Returns:
        An `Agreement`.
    """
    from convmixer_keras.convert.torch_model import torch_outputs

    images = list(images)
    outputs_of = _logits if sizes.classes is not None else _features
    ours = [outputs_of(model, batch) for batch in images]
    theirs = torch_outputs(sizes, activation, arrays, [_normalized(model, batch) for batch in images])
    ours, theirs = np.concatenate(ours), np.concatenate(theirs)
    return Agreement(
        images=len(ours),
        compared="feature" if sizes.classes is None else "logit",
        largest_difference=float(np.abs(ours - theirs).max()),
        same_top1=int((ours.argmax(axis=1) == theirs.argmax(axis=1)).sum()),
    )


def random_images(model, size, count=2):
    """Yields one batch of noise, in the range that the model takes: raw pixels or normalised channels."""
    random = np.random.default_rng(0)
    shape = (count, size, size, model.input_shape[-1])
    if normalization(model) is None:
        yield random.standard_normal(shape, np.float32)
    else:
        yield random.uniform(0, 255, shape).astype(np.float32)


def real_images(model, folder, size, preset):
    """Yields the images under a folder in batches, with ImageNet's or the variant's evaluation transform.

    Raises:
        InputError: If there are none, or one is damaged, or the model does not take three channels.
    """
    from convmixer_keras import preprocessing, presets

    preset = preset or presets.CONVMIXER_768_32
    for path_batch in _batches(image_paths(folder)):
        pixels = np.stack(
            [
                preprocessing.load_image(path, size, preset.crop_pct, preset.interpolation)
                for path in path_batch
            ]
        )
        if normalization(model) is None:
            pixels = (pixels / 255 - np.array(preset.mean)) / np.array(preset.std)
        yield pixels.astype(np.float32)


def image_paths(folder):
    """Returns the paths of the images under a folder, sorted, or raises InputError if there are none."""
    if not os.path.isdir(folder):
        raise InputError(f"there is no folder {folder}")
    paths = [
        path
        for path in sorted(glob.glob(os.path.join(glob.escape(folder), "**", "*"), recursive=True))
        if path.lower().endswith(_IMAGE_ENDINGS)
    ]
    if not paths:
        raise InputError(f"there are no images ({', '.join(_IMAGE_ENDINGS)}) under {folder}")
    return paths


def _batches(items):
    return [items[i : i + _BATCH] for i in range(0, len(items), _BATCH)]


def normalization(model):
    return next((layer for layer in model.layers if layer.name == "input_normalization"), None)


def _normalized(model, batch):
    layer = normalization(model)
    if layer is None:
        return batch
    mean, variance = (keras.ops.convert_to_numpy(value) for value in (layer.mean, layer.variance))
    return ((batch - mean) / np.sqrt(variance)).astype(np.float32)


def _logits(model, batch):
    head = model.get_layer("head")
    if head.activation is keras.activations.linear:
        return _run(model, batch)
    kernel, bias = head.get_weights()
    return _run(keras.Model(model.inputs, head.input), batch) @ kernel + bias


def _features(model, batch):
    if any(layer.name == "pool" for layer in model.layers):
        return _run(keras.Model(model.inputs, model.get_layer("pool").output), batch)
    return _run(model, batch).mean(axis=(1, 2))


def _run(model, batch):
    # The CPU, as PyTorch's model: a GPU may compute convolutions with fewer bits.
    with keras.device("cpu:0"):
        return keras.ops.convert_to_numpy(model(keras.ops.convert_to_tensor(batch), training=False))
