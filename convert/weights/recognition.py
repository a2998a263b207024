"""Which ConvMixer a set of named tensors is: from their structure, whatever their names."""

import re
from collections import Counter
from typing import NamedTuple

import numpy as np

from convmixer_keras.convert.weights.checkpoint_file import StoredTensor
from convmixer_keras.convert.weights.layouts import LAYOUTS, NORM_TENSORS, tensor_shape
from convmixer_keras.convert.weights.structure import by_structure
from convmixer_keras.models.presets import Sizes
from convmixer_keras.utils.errors import InputError, arg

OWN_NAMES = "own"
# Wrappers put these into names, anywhere and repeatedly: DataParallel, torch.compile, DeepSpeed, FSDP and
# activation checkpointing. Any other prefix that all names share is left out as well.
_WRAPPERS = re.compile(
    r"(?<![^.])(module|_orig_mod|_forward_module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
# Not weights: BatchNorm's, AveragedModel's and thop's counters.
_COUNTERS = ("num_batches_tracked", "n_averaged", "total_ops", "total_params")
_NAMED_FAULTS = 4  # How many of a broken checkpoint's tensors an error names.


class Recognised(NamedTuple):
    """A checkpoint whose sizes are known and whose tensors all fit.

    Attributes:
        layout: Whose names its tensors have: a name of `LAYOUTS`, or `OWN_NAMES`.
        sizes: Its `Sizes`.
        tensors: Dict from (layer, tensor), such as ("block0_depthwise", "weight"), to the stored tensor.
        keys: Dict from (layer, tensor) to the tensor's name in the file.
    """

    layout: str
    sizes: Sizes
    tensors: dict
    keys: dict

    def modules(self):
        """Returns lines that name the module of each layer, a line for each block."""
        keys = {}
        for (layer, _), key in self.keys.items():
            keys.setdefault(layer, []).append(key)
        names = {layer: _module_name(found) for layer, found in keys.items()}
        lines = [f"stem: convolution {names['stem_conv']}, normalisation {names['stem_bn']}"]
        for i in range(self.sizes.depth):
            block = f"block{i}_"
            lines.append(
                f"block {i}: depthwise {names[block + 'depthwise']}, normalisation "
                f"{names[block + 'depthwise_bn']}, pointwise {names[block + 'pointwise']}, normalisation "
                f"{names[block + 'pointwise_bn']}"
            )
        return [*lines, f"head: {names['head']}"] if "head" in names else lines


def _module_name(keys):
    """What the names of a module's tensors begin with; all of them where their ends are not PyTorch's."""
    ends = [key.rpartition(".")[2] for key in keys]
    if ends in (list(NORM_TENSORS), ["weight", "bias"], ["weight"]) and all("." in key for key in keys):
        return keys[0].rpartition(".")[0]
    return f"({', '.join(keys)})"


def recognise(tensors, source, include_top=True, in_order=False):
    """Finds out which ConvMixer a checkpoint holds, from the names and shapes of its tensors.

    Args:
        tensors: Dict from a tensor's name in the file to an object with a `shape`.
        source: The file's name, for messages.
        include_top: Whether the classifier is wanted; without, it is not needed.
        in_order: Whether the tensors come in the order in which the network's modules were defined.

    Returns:
        A `Recognised`.

    Raises:
        InputError: If the tensors are not a ConvMixer's, or some are missing, left over or of the wrong
            shape; the message names them.
    """
    found, original = _unwrapped(tensors, source)
    names = by_structure(found, source, include_top, in_order)
    complete = _complete({name: found[key] for name, key in names.items()})
    sizes = _sizes(complete, source)
    wrong = [
        f"{original[key]} has shape {tuple(complete[name].shape)}, expected {expected}"
        for name, key in names.items()
        if tuple(complete[name].shape) != (expected := tensor_shape(*name, sizes))
    ]
    if wrong:
        raise InputError(f"{source} is not a ConvMixer: {'; '.join(wrong[:_NAMED_FAULTS])}")
    keys = {name: original[key] for name, key in names.items()}
    return Recognised(_layout(names, sizes.depth), sizes, complete, keys)


def _unwrapped(tensors, source):
    """Returns the weights by names without wrappers' prefixes, and a dict from those to the file's names."""
    original = {}
    for key in tensors:
        if key.rpartition(".")[2] in _COUNTERS:
            continue
        short = _WRAPPERS.sub("", key)
        if short in original:
            raise InputError(
                f"{source} holds {short} twice, with and without a prefix: {arg('prefix')} takes one"
            )
        original[short] = key
    modules = [key.split(".")[:-1] for key in original]
    shared = 0
    while (
        all(len(parts) > shared + 1 for parts in modules) and len({parts[shared] for parts in modules}) == 1
    ):
        shared += 1
    original = {".".join(short.split(".")[shared:]): key for short, key in original.items()}
    return {short: tensors[key] for short, key in original.items()}, original


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


def _sizes(tensors, source):
    """Returns the sizes that most tensors agree on, so that one of the wrong shape does not decide."""
    kernels = [stored.shape for (layer, _), stored in tensors.items() if layer.endswith("_depthwise")]
    kernels = [shape for shape in kernels if len(shape) == 4]
    kernel_size = Counter(shape[3] for shape in kernels).most_common(1)[0][0]
    widths = Counter(stored.shape[0] for (layer, _), stored in tensors.items() if layer != "head")
    stem, head = tensors["stem_conv", "weight"].shape, tensors.get(("head", "weight"))
    sizes = Sizes(
        widths.most_common(1)[0][0],
        len(kernels),
        kernel_size,
        stem[3],
        stem[1],
        None if head is None else head.shape[0],
    )
    for name, size in sizes._asdict().items():
        if size is not None and size < 1:
            raise InputError(f"{source} is not a ConvMixer: {name} is {size}")
    return sizes


def _layout(names, depth):
    """Returns whose names the tensors have."""
    for layout in LAYOUTS:
        modules = layout.module_names(depth)
        if all(key == f"{modules[layer]}.{tensor}" for (layer, tensor), key in names.items()):
            return layout.name
    return OWN_NAMES
