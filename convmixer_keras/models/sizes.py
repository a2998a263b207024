"""A ConvMixer's sizes: of a built model, and of a file of weights."""

import re
import zipfile
from typing import NamedTuple

from convmixer_keras.utils.errors import InputError


class Sizes(NamedTuple):
    """A ConvMixer's sizes. `classes` is None for a network without its classifier."""

    hidden_dim: int
    depth: int
    kernel_size: int
    patch_size: int
    channels: int
    classes: int | None

    def __str__(self):
        classes = "no classifier" if self.classes is None else f"{self.classes} classes"
        return (
            f"ConvMixer-{self.hidden_dim}/{self.depth}, kernel {self.kernel_size}, patch {self.patch_size}, "
            f"{self.channels} channels, {classes}"
        )


def of_model(model):
    """Returns the `Sizes` of a Keras model from this package's builders, or raises InputError."""
    layers = {layer.name: layer for layer in model.layers}
    for name in ("stem_conv", "block0_depthwise"):
        if name not in layers:
            raise InputError(f"{model.name} is not a ConvMixer of this package: it has no layer {name!r}")
    depth = sum(bool(re.fullmatch(r"block\d+_depthwise", name)) for name in layers)
    head = layers["head"].kernel.shape if "head" in layers else None
    return _of_kernels(layers["stem_conv"].kernel.shape, layers["block0_depthwise"].kernel.shape, depth, head)


def of_file(path):
    """Returns the `Sizes` of the ConvMixer in a `.keras` or `.weights.h5` file, or None if it holds none."""
    import h5py

    shapes = {}

    def note(name, item):
        match = re.search(r"layers/(conv2d|depthwise_conv2d|dense)(_\d+)?/vars/0$", f"/{name}")
        if match and isinstance(item, h5py.Dataset) and len(item.shape) == (2 if match[1] == "dense" else 4):
            shapes.setdefault(match[1], []).append(item.shape)

    if zipfile.is_zipfile(path):
        with (
            zipfile.ZipFile(path) as archive,
            archive.open("model.weights.h5") as file,
            h5py.File(file, "r") as weights,
        ):
            weights.visititems(note)
    else:
        with h5py.File(path, "r") as weights:
            weights.visititems(note)
    depthwise, dense = shapes.get("depthwise_conv2d", []), shapes.get("dense", [])
    # One dense convolution for the patches, then one for each block, whose inputs are as many as its outputs.
    stems = [shape for shape in shapes.get("conv2d", []) if shape[2] != shape[3]]
    if not stems or not depthwise:
        return None
    return _of_kernels(stems[0], depthwise[0], len(depthwise), dense[0] if dense else None)


def _of_kernels(stem, depthwise, depth, head):
    patch_size, _, channels, hidden_dim = stem
    return Sizes(hidden_dim, depth, depthwise[0], patch_size, channels, None if head is None else head[-1])
