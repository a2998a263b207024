"""Which ConvMixer a set of named tensors is: from their structure, whatever their names."""

import dataclasses
import re
from statistics import mode
from typing import NamedTuple

import numpy as np

from convmixer_keras.convert.weights import timm_config
from convmixer_keras.convert.weights.checkpoint_file import StoredTensor
from convmixer_keras.convert.weights.layouts import LAYOUTS, module_names, tensor_shape
from convmixer_keras.convert.weights.structure import by_structure
from convmixer_keras.images import preprocessing
from convmixer_keras.models.presets import Preset, Sizes
from convmixer_keras.utils.errors import InputError, arg

OWN_NAMES = "own"
# Wrappers put these into names, anywhere and repeatedly: DataParallel, torch.compile, DeepSpeed, FSDP and
# activation checkpointing.
_WRAPPERS = re.compile(
    r"(?<![^.])(module|_orig_mod|_forward_module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
# Not weights: BatchNorm's, AveragedModel's and thop's counters.
_COUNTERS = ("num_batches_tracked", "n_averaged", "total_ops", "total_params")
_NAMED_FAULTS = 4  # How many of a broken checkpoint's tensors an error names.


class Checkpoint(NamedTuple):
    """A ConvMixer in another program's file, its weights still in there.

    Attributes:
        path: The file.
        layout: Whose names its tensors have: one of `LAYOUTS`, `OWN_NAMES`, or "Keras graph".
        sizes: Its `Sizes`.
        tensors: Dict from (layer, tensor), such as ("block0_depthwise", "weight"), to a `StoredTensor`.
        keys: Dict from (layer, tensor) to the tensor's name in the file.
        activation: Name of the Keras activation, or None where the file does not say.
        input_statistics: (mean, std) per channel in units of 0..255 where the network normalises its input
            by itself, or None.
        preset: The published variant that it is, or None.
        original: The file's own `keras.Model`, where it holds its graph.
        left_out: What of that the conversion leaves out.
    """

    path: str
    layout: str
    sizes: Sizes
    tensors: dict
    keys: dict
    activation: str | None = None
    input_statistics: tuple | None = None
    preset: Preset | None = None
    original: object = None
    left_out: tuple = ()

    def __str__(self):
        known = f", as {self.preset.name}" if self.preset else ""
        return f"{self.layout} layout, {self.sizes}, {self.activation}{known}"

    def preprocessing(self, image_size=None):
        """Returns the `Preprocessing` that the file or its published variant states, or None.

        `image_size` is the side of the images in pixels, in place of the stated one.
        """
        record = timm_config.from_file(self.path)
        if record is None and self.preset and self.sizes.channels == len(self.preset.mean):
            record = preprocessing.published(self.preset, takes_pixels=self.input_statistics is not None)
        return record and dataclasses.replace(record, size=image_size or record.size)

    def modules(self):
        """Returns lines that name the module of each layer, a line for each block."""
        lines = {}
        for (layer, tensor), key in self.keys.items():
            if tensor == "weight":
                block, _, part = layer.partition("_")
                kind = "normalisation" if part.endswith("bn") else part.replace("conv", "convolution")
                lines.setdefault(block, []).append(f"{kind} {key.rpartition('.')[0] or key}".strip())
        return [f"{block.replace('block', 'block ')}: {', '.join(parts)}" for block, parts in lines.items()]


def recognise(tensors, path, include_top=True):
    """Returns the `Checkpoint` that the names and shapes of a file's tensors show, without its activation.

    Takes a dict from a tensor's name in the file to an object with a `shape`. Without `include_top` the
    classifier is not needed. Tensors that are missing, left over or of the wrong shape are an InputError that
    names them.
    """
    weights = [key for key in tensors if key.rpartition(".")[2] not in _COUNTERS]
    original = {_WRAPPERS.sub("", key): key for key in weights}
    if len(original) < len(weights):
        raise InputError(f"{path} holds names with and without a prefix: {arg('prefix')} takes one")
    names = by_structure({short: tensors[key] for short, key in original.items()}, path, include_top)
    keys = {name: original[short] for name, short in names.items()}
    complete = _complete({name: tensors[key] for name, key in keys.items()})
    sizes = _sizes(complete, path)
    wrong = [
        f"{key} has shape {tuple(complete[name].shape)}, expected {expected}"
        for name, key in keys.items()
        if tuple(complete[name].shape) != (expected := tensor_shape(*name, sizes))
    ]
    if wrong:
        raise InputError(f"{path} is not a ConvMixer: {'; '.join(wrong[:_NAMED_FAULTS])}")
    return Checkpoint(path, _layout(names, sizes.depth), sizes, complete, keys)


def _complete(tensors):
    """Adds zeros for biases that a network does without, and makes a matrix of a convolution for classes."""
    complete = {}
    for (layer, tensor), stored in tensors.items():
        shape = tuple(stored.shape)
        if layer == "head" and len(shape) == 4:
            stored = StoredTensor(shape[:2], lambda full=stored: full.read()[:, :, 0, 0])
        complete[layer, tensor] = stored
        if tensor == "weight" and (layer, "bias") not in tensors:
            complete[layer, "bias"] = StoredTensor(shape[:1], lambda n=shape[0]: np.zeros(n, np.float32))
    return complete


def _sizes(tensors, path):
    """Returns the sizes that most tensors agree on, so that one of the wrong shape does not decide."""
    depth = sum(layer.endswith("_pointwise") for layer, tensor in tensors if tensor == "weight")
    kernel_size = mode(tensors[f"block{i}_depthwise", "weight"].shape[3] for i in range(depth))
    width = mode(stored.shape[0] for (layer, _), stored in tensors.items() if layer != "head")
    stem, head = tensors["stem_conv", "weight"].shape, tensors.get(("head", "weight"))
    sizes = Sizes(width, depth, kernel_size, stem[3], stem[1], None if head is None else head.shape[0])
    for name, size in sizes._asdict().items():
        if size is not None and size < 1:
            raise InputError(f"{path} is not a ConvMixer: {name} is {size}")
    return sizes


def _layout(names, depth):
    """Returns whose names the tensors have, behind any prefix that all share."""
    for layout in LAYOUTS:
        modules = module_names(layout, depth)
        prefixes = {
            f".{key}".removesuffix(f".{modules[layer]}.{tensor}") for (layer, tensor), key in names.items()
        }
        if len(prefixes) == 1:
            return layout
    return OWN_NAMES
