"""How public PyTorch ConvMixers name their tensors, and how PyTorch orders their axes.

Every layout is the same network of five kinds of modules, so that layouts differ only in a
table from this package's layer names to their module names. Knows neither PyTorch nor Keras.
"""

import re
from typing import NamedTuple

import numpy as np

EPSILON = 1e-5  # Of PyTorch's batch normalisation.
NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")

# From PyTorch's axes to Keras': (out, in, k, k) to (k, k, in, out), (channels, 1, k, k) to
# (k, k, channels, 1), (out, in) to (in, out).
_CONV_AXES, _DEPTHWISE_AXES, _DENSE_AXES = (2, 3, 1, 0), (2, 3, 0, 1), (1, 0)


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
        # More blocks than tensors cannot be; a tensor with such a number is reported as unexpected.
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
    return NORM_TENSORS if is_norm(layer) else ("weight", "bias")


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


def to_keras_axes(layer, array):
    """Returns a layer's PyTorch tensor with its axes in Keras' order."""
    return array.transpose(_axes(layer, array))


def to_torch_axes(layer, array):
    """Returns a layer's Keras weight as float32 with its axes in PyTorch's order."""
    axes = _axes(layer, array)
    array = array.transpose(None if axes is None else np.argsort(axes))
    return np.ascontiguousarray(array, np.float32)


def _axes(layer, array):
    if array.ndim < 2:
        return None
    if layer == "head":
        return _DENSE_AXES
    return _DEPTHWISE_AXES if layer.endswith("_depthwise") else _CONV_AXES
