"""How public PyTorch ConvMixers name their tensors, and which network a set of names and shapes is.

Every layout is the same network of five kinds of modules, so that a table from this package's layer names
to each layout's module names is all the difference there is. Knows neither PyTorch nor Keras.
"""

import math
import re
from collections import Counter
from typing import NamedTuple

from convmixer_keras.models.sizes import Sizes
from convmixer_keras.utils.errors import InputError

_NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")
# Wrappers put these before every name: DataParallel and torch.compile, in any order and number.
_WRAPPER = re.compile(r"^(module\.|_orig_mod\.)+")
# How many of a broken checkpoint's tensors an error names.
_NAMED_FAULTS = 4


class Layout(NamedTuple):
    """One way of naming the modules.

    Attributes:
        name: What messages call it.
        stem: The patch embedding's convolution and normalisation.
        block: A block's depthwise convolution, its normalisation, the pointwise convolution and its
            normalisation, with `{}` in place of the block's number.
        head: The classifier, with `{}` in place of its number where it is numbered.
        first_block: The first block's number.
        modules_before_head: In a Sequential, the classifier's number less the number of blocks.
    """

    name: str
    stem: tuple[str, str]
    block: tuple[str, str, str, str]
    head: str
    first_block: int = 0
    modules_before_head: int | None = None

    def module_names(self, depth):
        """Returns a dict from the name of each layer with weights to that of the PyTorch module."""
        names = {"stem_conv": self.stem[0], "stem_bn": self.stem[1]}
        layers = ("depthwise", "depthwise_bn", "pointwise", "pointwise_bn")
        for i in range(depth):
            for layer, module in zip(layers, self.block, strict=True):
                names[f"block{i}_{layer}"] = module.format(i + self.first_block)
        number = None if self.modules_before_head is None else depth + self.modules_before_head
        return names | {"head": self.head.format(number)}

    def block_number(self, key):
        """Returns which block the tensor named `key` belongs to, counted from 0, or None."""
        for module in self.block:
            match = re.match(re.escape(module).replace(r"\{\}", r"(\d{1,9})") + r"\.[a-z_]+$", key)
            if match and int(match[1]) >= self.first_block:
                return int(match[1]) - self.first_block
        return None

    def depth(self, keys):
        """Returns the number of blocks, counting those that a gap in the numbers shows to be missing."""
        depth = 1 + max(self.block_number(key) for key in keys if self.block_number(key) is not None)
        if self.modules_before_head is not None:
            # The classifier's number also counts the blocks: without it, a lost last block would go unseen.
            heads = [int(key.split(".")[0]) for key in keys if re.match(r"\d{1,9}\.(weight|bias)$", key)]
            depth = max([depth, *(head - self.modules_before_head for head in heads)])
        # A number beyond this cannot be right; whatever bears it will be reported as unexpected.
        return min(depth, len(keys))


TIMM = Layout(
    "timm",
    stem=("stem.0", "stem.2"),
    block=("blocks.{}.0.fn.0", "blocks.{}.0.fn.2", "blocks.{}.1", "blocks.{}.3"),
    head="head",
)
OFFICIAL = Layout(
    "official",
    stem=("0", "2"),
    block=("{}.0.fn.0", "{}.0.fn.2", "{}.1", "{}.3"),
    head="{}",
    first_block=3,
    modules_before_head=5,  # Stem 3, pooling, flattening.
)
MMPRETRAIN = Layout(
    "mmpretrain",
    stem=("backbone.stem.0", "backbone.stem.2"),
    block=tuple(f"backbone.stages.{{}}.{module}" for module in ("0.fn.0", "0.fn.2", "1", "3")),
    head="head.fc",
)
LABML = Layout(
    "labml",
    stem=("patch_emb.conv", "patch_emb.norm"),
    block=tuple(
        f"conv_mixer_layers.{{}}.{module}"
        for module in ("depth_wise_conv", "norm1", "point_wise_conv", "norm2")
    ),
    head="classification.linear",
)
# The 280-character version.
TWEET = Layout(
    "tweet",
    stem=("0.0", "0.2"),
    block=("{}.0.0.0", "{}.0.0.2", "{}.1.0", "{}.1.2"),
    head="{}",
    first_block=1,
    modules_before_head=3,  # Stem 1, pooling, flattening.
)
LAYOUTS = (OFFICIAL, TIMM, MMPRETRAIN, LABML, TWEET)


def is_norm(layer):
    return layer.endswith("_bn")


def tensor_names(layer):
    """Returns what PyTorch calls the tensors of a layer of this package's name, without counters."""
    return _NORM_TENSORS if is_norm(layer) else ("weight", "bias")


def tensor_shape(layer, tensor, sizes):
    """Returns the shape that PyTorch gives a layer's tensor."""
    hidden_dim = sizes.hidden_dim
    if layer == "head":
        return (sizes.classes, hidden_dim) if tensor == "weight" else (sizes.classes,)
    if is_norm(layer) or tensor == "bias":
        return (hidden_dim,)
    if layer == "stem_conv":
        return (hidden_dim, sizes.channels, sizes.patch_size, sizes.patch_size)
    if layer.endswith("_depthwise"):
        return (hidden_dim, 1, sizes.kernel_size, sizes.kernel_size)
    return (hidden_dim, hidden_dim, 1, 1)


class Recognised(NamedTuple):
    """A checkpoint whose layout and sizes are known and whose tensors all fit.

    Attributes:
        layout: One of `LAYOUTS`.
        sizes: Its `Sizes`.
        tensors: Dict from (layer, tensor), such as ("block0_depthwise", "weight"), to the stored tensor.
        keys: Dict from (layer, tensor) to the tensor's name in the file.
    """

    layout: Layout
    sizes: Sizes
    tensors: dict
    keys: dict


def recognise(tensors, source, include_top=True):
    """Finds out which ConvMixer a checkpoint holds, from the names and shapes of its tensors.

    Args:
        tensors: Dict from a tensor's name in the file to an object with a `shape`.
        source: The file's name, for messages.
        include_top: Whether the classifier is wanted; without, it is neither needed nor looked at.

    Returns:
        A `Recognised`.

    Raises:
        InputError: If the layout is none of `LAYOUTS`, or tensors are missing, unexpected or of the wrong
            shape; the message names them, with the shape expected and the one found.
    """
    original = {_WRAPPER.sub("", key): key for key in tensors}
    if len(original) < len(tensors):
        raise InputError(f"{source} holds the same tensors twice, with and without a prefix")
    found = {key: tensors[original[key]] for key in original}
    layout = _best_layout(found, source)
    modules = layout.module_names(layout.depth(found))
    head = modules["head"]
    if not include_top:
        del modules["head"]
    names = {
        (layer, tensor): f"{module}.{tensor}"
        for layer, module in modules.items()
        for tensor in tensor_names(layer)
    }
    ignored = {f"{module}.num_batches_tracked" for layer, module in modules.items() if is_norm(layer)}
    if not include_top:
        ignored |= {f"{head}.weight", f"{head}.bias"}

    sizes = _infer_sizes({name: found[key].shape for name, key in names.items() if key in found}, names)
    if not include_top:
        sizes = sizes._replace(classes=None)
    faults = []
    for name, key in names.items():
        expected = tensor_shape(*name, sizes)
        if key not in found:
            faults.append(f"missing {key}: expected shape {_written(expected)}, found none")
        elif tuple(found[key].shape) != expected:
            faults.append(
                f"{original[key]} has the wrong shape: expected {_written(expected)}"
                f"{_taken_from(name, names, found)}, found {_written(found[key].shape)}"
            )
    for key in found.keys() - names.values() - ignored:
        faults.append(f"unexpected {original[key]}: expected none, found shape {_written(found[key].shape)}")
    if faults:
        more = f"; and {len(faults) - _NAMED_FAULTS} more" if len(faults) > _NAMED_FAULTS else ""
        raise InputError(
            f"{source} does not fit a ConvMixer in the {layout.name} layout: "
            + "; ".join(faults[:_NAMED_FAULTS])
            + more
        )
    return Recognised(
        layout,
        sizes,
        {name: found[key] for name, key in names.items()},
        {name: original[key] for name, key in names.items()},
    )


def _taken_from(name, names, found):
    """Names the tensor that another's shape is measured by, where two may disagree and neither is right."""
    layer, tensor = name
    if layer == "head" and tensor == "bias":
        measures = [names["head", "weight"]]
    elif layer.endswith("_depthwise") and tensor == "weight":
        measures = [names[other, "weight"] for other, _ in names if other.endswith("_depthwise")]
    else:
        measures = []
    for key in measures:
        if key in found and key != names[name]:
            return f" to go with {key} of shape {_written(found[key].shape)}"
    return ""


def _best_layout(keys, source):
    def blocks_matched(layout):
        return sum(layout.block_number(key) is not None for key in keys)

    best = max(LAYOUTS, key=blocks_matched)
    if blocks_matched(best) == 0:
        known = ", ".join(layout.name for layout in LAYOUTS)
        first = ", ".join(list(keys)[:3]) or "none"
        raise InputError(
            f"{source} is not a ConvMixer checkpoint in a known layout ({known}); its first tensors: {first}"
        )
    return best


def _infer_sizes(shapes, names):
    """Sizes by the majority of tensors, so that one of the wrong shape is not taken for the measure.

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


def _written(shape):
    """(16, 3, 2, 2), or (16, ?, ?, ?) where a size is not known."""
    return "(" + ", ".join(str(side) for side in shape) + ("," if len(shape) == 1 else "") + ")"
