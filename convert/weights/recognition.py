"""Which ConvMixer a set of named tensors is: by a known naming, or else by its structure."""

import math
import re
from collections import Counter
from typing import NamedTuple

import numpy as np

from convmixer_keras.convert.weights.checkpoint_file import StoredTensor
from convmixer_keras.convert.weights.layouts import LAYOUTS, NORM_TENSORS, tensor_names, tensor_shape
from convmixer_keras.convert.weights.recognition_by_shape import by_structure, refuse_separable
from convmixer_keras.models.presets import Sizes
from convmixer_keras.utils.errors import InputError

BY_STRUCTURE = "its own"
# Wrappers put these into names, anywhere and repeatedly: DataParallel, torch.compile, DeepSpeed, FSDP and
# activation checkpointing. Any other prefix that all names share is left out as well.
_WRAPPERS = re.compile(
    r"(?<![^.])(module|_orig_mod|_forward_module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
# Not weights: BatchNorm's, AveragedModel's and thop's counters.
_COUNTERS = ("num_batches_tracked", "n_averaged", "total_ops", "total_params")
# How many of a broken checkpoint's tensors an error names.
_NAMED_FAULTS = 4


class Recognised(NamedTuple):
    """A checkpoint whose naming and sizes are known and whose tensors all fit.

    Attributes:
        layout: Name of one of `LAYOUTS`, or `BY_STRUCTURE`.
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
        include_top: Whether the classifier is wanted; without, it is neither needed nor looked at.
        in_order: Whether the tensors come in the order in which the network's modules were defined.

    Returns:
        A `Recognised`.

    Raises:
        InputError: If the tensors are not a ConvMixer's, or some are missing, unexpected or of the wrong
            shape; the message names them, with the shape expected and the one found.
    """
    found, original = _unwrapped(tensors, source)
    refuse_separable(found, source)
    layout = _best_layout(found)
    if layout is None:
        return _from_structure(found, original, source, include_top, in_order)
    names, sizes, missing, unexpected, misshapen = _compare(layout, found, include_top)
    if not (missing or unexpected or misshapen):
        return _recognised(
            layout.name,
            sizes,
            {name: found[key] for name, key in names.items()},
            {name: original[key] for name, key in names.items()},
            source,
        )
    try:  # Layers without weights shift the numbers; modules have other names.
        return _from_structure(found, original, source, include_top, in_order)
    except InputError:
        if 2 * len(missing) > len(names):  # Hardly anything is called as in that layout.
            raise
    faults = [
        f"missing {key}: expected shape {_shape_text(shape)}, found none" for key, shape in missing.items()
    ]
    faults += [f"{original[key]} has the wrong shape: {text}" for key, text in misshapen.items()]
    faults += [
        f"unexpected {original[key]}: expected none, found shape {_shape_text(shape)} (--ignore omits it)"
        for key, shape in unexpected.items()
    ]
    more = f"; and {len(faults) - _NAMED_FAULTS} more" if len(faults) > _NAMED_FAULTS else ""
    raise InputError(
        f"{source} does not fit a ConvMixer in the {layout.name} layout: "
        + "; ".join(faults[:_NAMED_FAULTS])
        + more
    )


def _recognised(layout, sizes, tensors, keys, source):
    for size, value in sizes._asdict().items():
        if value is not None and value < 1:
            raise InputError(f"{source} is not a ConvMixer: {size} is {value}")
    return Recognised(layout, sizes, tensors, keys)


def _unwrapped(tensors, source):
    """Returns the weights by names without wrappers' prefixes, and a dict from those to the file's names."""
    original = {}
    for key in tensors:
        if key.rpartition(".")[2] in _COUNTERS:
            continue
        short = _WRAPPERS.sub("", key)
        if short in original:
            raise InputError(f"{source} holds the same tensors twice, with and without a prefix")
        original[short] = key
    modules = [key.split(".")[:-1] for key in original]
    shared = 0
    while (
        all(len(parts) > shared + 1 for parts in modules) and len({parts[shared] for parts in modules}) == 1
    ):
        shared += 1
    original = {".".join(short.split(".")[shared:]): key for short, key in original.items()}
    return {short: tensors[key] for short, key in original.items()}, original


def _from_structure(found, original, source, include_top, in_order):
    names = by_structure(found, source, in_order)
    if include_top and ("head", "weight") not in names:
        raise InputError(
            f"{source} has no classifier: no matrix of (classes, channels) is among its tensors; --no-top "
            "or --classes N does without"
        )
    names = {name: key for name, key in names.items() if include_top or name[0] != "head"}
    tensors = _with_biases({name: found[key] for name, key in names.items()})
    if len(getattr(tensors.get(("head", "weight")), "shape", ())) == 4:  # A 1x1 convolution.
        tensors["head", "weight"] = _as_matrix(tensors["head", "weight"])
    sizes = _infer_sizes({name: stored.shape for name, stored in tensors.items()}, tensors)
    if not include_top:
        sizes = sizes._replace(classes=None)
    wrong = [
        f"{original[key]} has shape {_shape_text(tensors[name].shape)}, expected {_shape_text(expected)}"
        for name, key in names.items()
        if tuple(tensors[name].shape) != (expected := tensor_shape(*name, sizes))
    ]
    if wrong:
        raise InputError(f"{source} is not a ConvMixer: {'; '.join(wrong[:_NAMED_FAULTS])}")
    keys = {name: original[key] for name, key in names.items()}
    return _recognised(BY_STRUCTURE, sizes, tensors, keys, source)


def _with_biases(tensors):
    """Adds zeros for the biases that a network does without."""
    complete = {}
    for (layer, tensor), stored in tensors.items():
        complete[layer, tensor] = stored
        if tensor == "weight" and (layer, "bias") not in tensors:
            count = stored.shape[0]
            complete[layer, "bias"] = StoredTensor((count,), lambda n=count: np.zeros(n, np.float32))
    return complete


def _as_matrix(stored):
    return StoredTensor(stored.shape[:2], lambda: stored.read().reshape(stored.shape[:2]))


def _compare(layout, found, include_top):
    """Compares tensors with a layout's names and shapes.

    Returns:
        The keys by (layer, tensor), the sizes, and what is missing, unexpected or of the wrong shape, each a
        dict from key to the shape, or to what is wrong with it.
    """
    modules = layout.module_names(layout.depth(found))
    head = modules["head"]
    if not include_top:
        del modules["head"]
    names = {
        (layer, tensor): f"{module}.{tensor}"
        for layer, module in modules.items()
        for tensor in tensor_names(layer)
    }
    ignored = set() if include_top else {f"{head}.weight", f"{head}.bias"}
    sizes = _infer_sizes({name: found[key].shape for name, key in names.items() if key in found}, names)
    if not include_top:
        sizes = sizes._replace(classes=None)
    missing, misshapen = {}, {}
    for name, key in names.items():
        expected = tensor_shape(*name, sizes)
        if key not in found:
            missing[key] = expected
        elif tuple(found[key].shape) != expected:
            misshapen[key] = (
                f"expected {_shape_text(expected)}{_taken_from(name, names, found)}, "
                f"found {_shape_text(found[key].shape)}"
            )
    unexpected = {key: found[key].shape for key in found.keys() - names.values() - ignored}
    return names, sizes, missing, unexpected, misshapen


def _taken_from(name, names, found):
    """Names the tensor whose shape another has to match, where two disagree and either may be wrong."""
    layer, tensor = name
    if layer == "head" and tensor == "bias":
        measures = [names["head", "weight"]]
    elif layer.endswith("_depthwise") and tensor == "weight":
        measures = [names[other, "weight"] for other, _ in names if other.endswith("_depthwise")]
    else:
        measures = []
    for key in measures:
        if key in found and key != names[name]:
            return f" to go with {key} of shape {_shape_text(found[key].shape)}"
    return ""


def _best_layout(keys):
    """Returns the layout that names most blocks of the tensors, or None if no layout names any."""

    def blocks_matched(layout):
        return sum(layout.block_number(key) is not None for key in keys)

    best = max(LAYOUTS, key=blocks_matched)
    return best if blocks_matched(best) else None


def _infer_sizes(shapes, names):
    """Returns the sizes that most tensors agree on, so that one of the wrong shape does not decide.

    Where nothing is left to tell a size, it is "?" for the message about the missing tensor.
    """

    def most_common(values):
        return max(Counter(values).items(), key=lambda item: item[1], default=("?", 0))[0]

    def side(shape):
        return shape[-1] if len(shape) == 4 else "?"

    layers = {layer for layer, _ in names}
    depth = sum(layer.endswith("_depthwise") for layer in layers)
    stem = shapes.get(("stem_conv", "weight"), ())
    head = [shapes[name] for name in (("head", "weight"), ("head", "bias")) if name in shapes]
    return Sizes(
        hidden_dim=most_common(
            math.prod(shape)
            for (layer, tensor), shape in shapes.items()
            if layer != "head" and tensor != "weight"
        ),
        depth=depth,
        kernel_size=most_common(
            side(shape)
            for (layer, tensor), shape in shapes.items()
            if layer.endswith("_depthwise") and tensor == "weight"
        ),
        patch_size=side(stem),
        channels=stem[1] if len(stem) == 4 else "?",
        classes=most_common(shape[0] for shape in head if shape),
    )


def _shape_text(shape):
    """Returns a shape as text: (16, 3, 2, 2), or (16, ?, ?, ?) where a size is not known."""
    return "(" + ", ".join(str(side) for side in shape) + ("," if len(shape) == 1 else "") + ")"
