"""Whether a converted network gives what the original gives for the same images."""

import dataclasses
import os
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np

from convmixer_keras.convert import agreement
from convmixer_keras.images import listing, preprocessing
from convmixer_keras.models import outputs as endings
from convmixer_keras.models import presets
from convmixer_keras.utils import extras, limits, progress
from convmixer_keras.utils.errors import InputError, first_line
from convmixer_keras.utils.text import one_line

_BATCH = 4
# With this many patches a side, edges and inner places both count; less where the patches are large.
_PATCHES, _LARGEST_SIDE = 16, 1024
_MOST_MEMORY = 2 * 2**30
# What of a network its tensors do not show.
_NOT_COVERED = (
    "; not covered, as tensors do not show it: activation, order of layers, residuals, padding, pooling "
    "(--reference covers it)"
)


class Images(NamedTuple):
    """Images to compare on, which are not kept in memory.

    Attributes:
        name: What messages call them.
        batches: Function without arguments that gives batches (batch, height, width, channels), float32, of
            normalised channels.
    """

    name: str
    batches: Callable


class Expected(NamedTuple):
    """What a converted network has to give.

    Attributes:
        images: `Images`.
        outputs: Logits (batch, classes) for these; pooled features of a network without classifier.
        whose: What gave them, for messages.
        not_covered: What a comparison with them leaves open, for messages.
    """

    images: Images
    outputs: np.ndarray
    whose: str
    not_covered: str = ""


def expected(checkpoint, *, folder=None, reference_file=None, in_torch=False, required=False):
    """Returns what a checkpoint's own network gives.

    That is the graph in a Keras file, and for tensors alone the published network in PyTorch.

    Args:
        checkpoint: A `to_keras.Checkpoint`.
        folder: A folder of images to compare on besides random ones, or None.
        reference_file: As in `reference`, in place of random images; or None.
        in_torch: Whether to run PyTorch's network although there is a graph.
        required: Whether it is an error if PyTorch is needed and not installed.

    Returns:
        A list of `Expected`; empty, after a line that says why, where there is nothing to compare with.
    """
    sizes, original = checkpoint.recognised.sizes, checkpoint.original
    in_torch = in_torch or original is None
    known = [reference(reference_file, sizes, checkpoint.input_statistics)] if reference_file else []
    if known and folder is None:
        return known
    if in_torch and not extras.is_installed("torch"):
        if required:
            extras.require("torch")
        return _not_verified("PyTorch is not installed", known)
    if original is not None and (dtype := _compute_dtype(original)) != "float32":
        return _not_verified(f"the file's network computes in {dtype}", known)
    size = _size(sizes, original)
    if _memory(sizes, size) > _MOST_MEMORY:
        return _not_verified(f"images of {size[0]} x {size[1]} would take over 2 GiB", known)
    sets = [] if known else [random_images(size, sizes.channels)]
    if folder is not None:
        sets.append(photographs(folder, size, checkpoint))
    tensors = {name: stored.read() for name, stored in checkpoint.recognised.tensors.items() if in_torch}
    for images in sets:
        if in_torch:
            outputs = torch_outputs(sizes, checkpoint.activation, tensors, images)
            known.append(Expected(images, outputs, "PyTorch", _NOT_COVERED if original is None else ""))
        else:
            outputs = keras_outputs(original, images, checkpoint.input_statistics)
            known.append(Expected(images, outputs, "the file's own graph"))
    return known


def _not_verified(why, known):
    print(f"not verified: {why}")
    return known


def _compute_dtype(model):
    return next((layer.compute_dtype for layer in model.layers if layer.weights), "float32")


def _size(sizes, model=None):
    """Returns (height, width) of the images to compare on: the model's own, where it states them."""
    patches = max(1, min(_PATCHES, _LARGEST_SIDE // sizes.patch_size))
    stated = (None, None) if model is None else model.inputs[0].shape[1:3]
    return tuple(side or patches * sizes.patch_size for side in stated)


def _memory(sizes, size, images=2, maps=4):
    """How many bytes a network takes for images and maps of features, roughly."""
    patches = (size[0] // sizes.patch_size) * (size[1] // sizes.patch_size)
    return 4 * images * maps * (size[0] * size[1] * sizes.channels + patches * sizes.hidden_dim)


def compare(model, expected, statistics=None, features=False):
    """Runs a Keras model, and prints how well it agrees.

    Args:
        model: A `keras.Model`.
        expected: A list of `Expected`.
        statistics: (mean, std) with which the model itself normalises its input, or None.
        features: Whether the model gives features and not logits.

    Raises:
        Failure: If it does not agree with one of them.
    """
    for images, theirs, whose, not_covered in expected:
        ours = keras_outputs(model, images, statistics)
        found = agreement.check(ours, theirs, f"Keras and {whose}", features=features)
        print(f"verified on {images.name}, against {whose}: {found}{not_covered}")


def random_images(size, channels, count=2):
    """Returns noise within +-2 as `Images`; `size` is (height, width)."""

    def batches():
        yield np.random.default_rng(0).uniform(-2, 2, (count, *size, channels)).astype(np.float32)

    return Images(f"{count} random images, {size[0]} x {size[1]}", batches)


def photographs(folder, size, checkpoint):
    """Returns the images under a folder as `Images`, prepared as a checkpoint's variant evaluates them.

    Args:
        folder: The folder.
        size: (height, width).
        checkpoint: A `to_keras.Checkpoint`. Without a published variant, ImageNet's preparation is taken.

    Raises:
        InputError: If there are none, or the network takes no RGB; while they are read, if one is damaged.
    """
    paths, channels = image_paths(folder), checkpoint.recognised.sizes.channels
    if channels != 3:
        raise InputError(f"--images have 3 channels, and the network takes {channels}")
    preset = checkpoint.preset or presets.CONVMIXER_1536_20
    record = dataclasses.replace(preprocessing.published(preset, takes_pixels=False), size=size)
    if checkpoint.input_statistics:
        mean, std = (tuple(v / 255 for v in values) for values in checkpoint.input_statistics)
        record = dataclasses.replace(record, mean=mean, std=std)

    def batches():
        for start in progress.shown(range(0, len(paths), _BATCH), f"comparing on {folder}", unit="batches"):
            yield np.stack([record(path) for path in paths[start : start + _BATCH]])

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
    """Reads what the user's own program took and gave.

    Args:
        path: A `.npz` file of two arrays: `inputs`, with channels last or, as in PyTorch, second, and
            `logits` (batch, classes).
        sizes: The network's `Sizes`.
        statistics: (mean, std) with which the program's network itself normalises its input, or None.

    Returns:
        An `Expected`.

    Raises:
        InputError: If the file does not hold these arrays, or they do not fit the network.
    """
    limits.check_zip(path)
    try:
        with np.load(path) as arrays:
            inputs, logits = (np.asarray(arrays[name], np.float32) for name in ("inputs", "logits"))
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError) as error:
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
    return Expected(
        Images(f"{len(inputs)} inputs of {one_line(path)}", lambda: [inputs]), logits, "your program"
    )


def keras_outputs(model, images, statistics=None):
    """Returns a Keras model's logits of `Images`, or the means over places of its features.

    Args:
        model: A `keras.Model`; an activation of its scores is left out.
        images: `Images`.
        statistics: (mean, std) with which the model itself normalises its input, or None.
    """
    if endings.ending(model).kind is not None:
        model = endings.logits_model(model)
    mean, std = statistics or (0, 1)
    results = []
    for batch in images.batches():
        fixed = model.inputs[0].shape[0] or len(batch)
        for start in range(0, len(batch), fixed):
            part = batch[start : start + fixed]
            part = part * np.float32(std) + np.float32(mean)
            filled = np.concatenate([part, np.repeat(part[-1:], fixed - len(part), axis=0)])
            # The CPU, as PyTorch's model: a GPU may compute convolutions with fewer bits.
            with keras.device("cpu:0"):
                results.append(model.predict_on_batch(filled)[: len(part)])
    results = np.concatenate(results)
    return results.mean(axis=(1, 2)) if results.ndim == 4 else results


def torch_outputs(sizes, activation, tensors, images):
    """Returns what a PyTorch ConvMixer gives for `Images`; other arguments as in `network.outputs`."""
    from convmixer_keras.convert.weights import network

    return network.outputs(sizes, activation, tensors, images.batches())
