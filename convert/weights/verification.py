"""Whether a converted network gives what the original gives for the same images."""

import dataclasses
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from convmixer_keras.convert import agreement
from convmixer_keras.images import listing, preprocessing
from convmixer_keras.models import inputs, presets
from convmixer_keras.models import outputs as endings
from convmixer_keras.utils import extras, limits, progress
from convmixer_keras.utils.errors import InputError, arg, first_line
from convmixer_keras.utils.text import one_line

_BATCH = 4
_RANDOM_IMAGES = 2
# With this many patches a side, edges and inner places both count; less where the patches are large.
_PATCHES, _LARGEST_SIDE = 16, 1024
_MOST_MEMORY = 2 * 2**30
# What of a network its tensors do not show.
_NOT_COVERED = (
    "; not covered, as tensors do not show it: activation, order of layers, residuals, padding, pooling "
    "(--reference covers it)"
)


class Images(NamedTuple):
    """What messages call them, and a function that gives float32 batches of them, of normalised channels."""

    name: str
    batches: Callable


class Expected(NamedTuple):
    """What a converted network has to give for `Images`: logits (batch, classes), or pooled features.

    `whose` and `not_covered` are for messages: what gave them, and what a comparison with them leaves open.
    """

    images: Images
    outputs: np.ndarray
    whose: str
    not_covered: str = ""


def expected(checkpoint, *, folder=None, reference_file=None, in_torch=False, required=False):
    """Returns what a checkpoint's own network gives, as a list of `Expected`.

    That is the graph in a Keras file, and for tensors alone, or `in_torch`, the published network in PyTorch.
    Where there is nothing to compare with, it prints why.

    Args:
        checkpoint: A `Checkpoint`.
        folder: A folder of images to compare on besides random ones, or None.
        reference_file: As in `reference`, in place of random images; or None.
        required: Whether it is an error if PyTorch is needed and not installed, or the images are too large.
    """
    known = []
    if reference_file is not None:
        known.append(reference(reference_file, checkpoint.sizes, checkpoint.input_statistics))
        if folder is None:
            return known
    in_torch = in_torch or checkpoint.original is None
    if in_torch and required:
        extras.require("torch")
    size = _size(checkpoint)
    if in_torch and not extras.is_installed("torch"):
        print("not verified: PyTorch is not installed")
    elif _memory(checkpoint.sizes, size) > _MOST_MEMORY:
        why = f"images of {size[0]} x {size[1]} would take over 2 GiB"
        if required:
            raise InputError(f"cannot verify {checkpoint.path}: {why}")
        print(f"not verified: {why}")
    else:
        sets = [] if known else [_random_images(size, checkpoint.sizes.channels)]
        sets += [_photographs(folder, size, checkpoint)] if folder is not None else []
        for images in sets:
            if in_torch:
                from convmixer_keras.convert.weights import network

                whose, outputs = "PyTorch", network.outputs(checkpoint, images.batches())
            else:
                whose = "the file's own graph"
                outputs = _keras_outputs(checkpoint.original, images, checkpoint.input_statistics)
            not_covered = _NOT_COVERED if checkpoint.original is None else ""
            known.append(Expected(images, outputs, whose, not_covered))
    return known


def _size(checkpoint):
    """Returns (height, width) of the images to compare on: the graph's own, where it states them."""
    patch_size, original = checkpoint.sizes.patch_size, checkpoint.original
    patches = max(1, min(_PATCHES, _LARGEST_SIDE // patch_size))
    stated = (None, None) if original is None else original.inputs[0].shape[1:3]
    return tuple(side or patches * patch_size for side in stated)


def _memory(sizes, size):
    """How many bytes a network takes for the random images and four maps of their features, roughly."""
    patches = (size[0] // sizes.patch_size) * (size[1] // sizes.patch_size)
    numbers = size[0] * size[1] * sizes.channels + patches * sizes.hidden_dim
    return np.float32().nbytes * 4 * _RANDOM_IMAGES * numbers


def compare(model, expected, statistics=None, features=False):
    """Runs a Keras model on what a list of `Expected` says, and prints how well it agrees.

    `statistics` are (mean, std) with which the model itself normalises its input, or None; `features` says
    that it gives features and not logits. Raises Failure if it does not agree with one of them.
    """
    for images, theirs, whose, not_covered in expected:
        ours = _keras_outputs(model, images, statistics)
        found = agreement.check(ours, theirs, f"Keras and {whose}", features=features)
        word = "verified" if found.varies else "not verified"
        print(f"{word} on {images.name}, against {whose}: {found}{not_covered}")


def _keras_outputs(model, images, statistics):
    """Returns a model's scores before their activation, or the means over places of its features."""
    model = inputs.in_float32(model)
    if endings.ending(model).kind is not None:
        model = endings.logits_model(model)
    mean, std = (np.float32(values) for values in statistics or (0, 1))
    results = [agreement.outputs_of(model, batch * std + mean) for batch in images.batches()]
    results = np.concatenate(results)
    return results.mean(axis=(1, 2)) if results.ndim == 4 else results


def _random_images(size, channels):
    def batches():
        random = np.random.default_rng(0)
        yield random.uniform(-2, 2, (_RANDOM_IMAGES, *size, channels)).astype(np.float32)

    return Images(f"{_RANDOM_IMAGES} random images, {size[0]} x {size[1]}", batches)


def _photographs(folder, size, checkpoint):
    """Images under a folder, prepared as a checkpoint's published variant evaluates them, or ImageNet's."""
    paths, channels = image_paths(folder), checkpoint.sizes.channels
    if channels != 3:
        raise InputError(f"{arg('images')} have 3 channels, and the network takes {channels}")
    preset = checkpoint.preset or presets.CONVMIXER_1536_20
    own = checkpoint.input_statistics
    record = dataclasses.replace(preprocessing.published(preset, takes_pixels=own is not None), size=size)
    mean, std = (np.float32(values) for values in own or (0, 1))

    def batches():
        for start in progress.shown(range(0, len(paths), _BATCH), f"comparing on {folder}", unit="batches"):
            yield (np.stack([record(path) for path in paths[start : start + _BATCH]]) - mean) / std

    return Images(f"{len(paths)} images of {one_line(folder)}, {size[0]} x {size[1]}", batches)


def image_paths(folder):
    """Returns the paths of the images under a folder, sorted, or raises InputError if there are none."""
    if not os.path.isdir(folder):
        raise InputError(f"there is no folder {folder}")
    paths = listing.image_paths(folder)
    if not paths:
        raise InputError(f"there are no images ({', '.join(listing.IMAGE_ENDINGS)}) under {folder}")
    return paths


def reference(path, sizes, statistics=None):
    """Returns what the user's own program took and gave, as an `Expected`.

    A `.npz` file holds `inputs`, with channels last or, as in PyTorch, second, and `logits` (batch, classes).
    `statistics` are (mean, std) with which the program's network itself normalises its input, or None.
    """
    limits.check_zip(path)
    try:
        with np.load(path) as arrays:
            inputs, logits = (np.asarray(arrays[name], np.float32) for name in ("inputs", "logits"))
    except Exception as error:  # A damaged file can raise anything.
        raise InputError(f"{path} is no .npz file of inputs and logits: {first_line(error)}") from None
    if inputs.ndim == 4 and inputs.shape[3] != sizes.channels == inputs.shape[1]:
        inputs = inputs.transpose(0, 2, 3, 1)
    if inputs.ndim != 4 or inputs.shape[3] != sizes.channels or min(inputs.shape[1:3]) < sizes.patch_size:
        raise InputError(
            f"inputs in {path} must be images of {sizes.channels} channels and at least {sizes.patch_size} x "
            f"{sizes.patch_size}, got shape {inputs.shape}"
        )
    if logits.shape != (len(inputs), sizes.classes) or not len(inputs):
        raise InputError(f"logits in {path} must be ({len(inputs)}, {sizes.classes}), got {logits.shape}")
    if statistics:
        inputs = (inputs - np.float32(statistics[0])) / np.float32(statistics[1])

    def batches():
        return (inputs[start : start + _BATCH] for start in range(0, len(inputs), _BATCH))

    images = Images(f"{len(inputs)} inputs of {one_line(path)}", batches)
    one_patch = max(inputs.shape[1:3]) < 2 * sizes.patch_size
    not_covered = "; not covered, as inputs have one patch: padding, pooling" if one_patch else ""
    return Expected(images, logits, "your program", not_covered)
