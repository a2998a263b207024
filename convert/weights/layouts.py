"""How published ConvMixers in PyTorch name their tensors, and how PyTorch orders their axes.

Knows neither PyTorch nor Keras.
"""

from typing import NamedTuple

import numpy as np

EPSILON = 1e-5  # Of PyTorch's batch normalisation.
NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")

# From PyTorch's axes to Keras': (out, in, k, k) to (k, k, in, out), (channels, 1, k, k) to
# (k, k, channels, 1), (out, in) to (in, out).
_CONV_AXES, _DEPTHWISE_AXES, _DENSE_AXES = (2, 3, 1, 0), (2, 3, 0, 1), (1, 0)


class Layout(NamedTuple):
    """One way of naming the modules, and so the tensors.

    Attributes:
        name: What messages call it.
        stem: The patch embedding's convolution and normalisation.
        block: What a block's modules begin with, with `{}` in place of its number.
        first_block: The first block's number.
        head: The classifier, with `{}` in place of the number of blocks and `modules_before_head`.
    """

    name: str
    stem: tuple[str, str]
    block: str
    first_block: int
    head: str
    modules_before_head: int

    def module_names(self, depth):
        """Returns a dict from the name of each layer with weights to that of the PyTorch module."""
        names = {"stem_conv": self.stem[0], "stem_bn": self.stem[1]}
        modules = {"depthwise": "0.fn.0", "depthwise_bn": "0.fn.2", "pointwise": "1", "pointwise_bn": "3"}
        for i in range(depth):
            for layer, module in modules.items():
                names[f"block{i}_{layer}"] = f"{self.block.format(i + self.first_block)}.{module}"
        return names | {"head": self.head.format(depth + self.modules_before_head)}


TIMM = Layout("timm", ("stem.0", "stem.2"), "blocks.{}", 0, "head", 0)
# The authors' nn.Sequential: three modules make the stem; pooling and flattening stand before the head.
OFFICIAL = Layout("official", ("0", "2"), "{}", 3, "{}", 5)
LAYOUTS = (TIMM, OFFICIAL)


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
