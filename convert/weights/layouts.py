"""How published ConvMixers in PyTorch name their tensors, and how PyTorch orders their axes.

Knows neither PyTorch nor Keras.
"""

import numpy as np

EPSILON = 1e-5  # Of PyTorch's batch normalisation.
NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")
LAYOUTS = ("timm", "official")  # The latter is the authors' nn.Sequential.


def module_names(layout, depth):
    """Returns a dict from the name of each layer with weights to that of the PyTorch module."""
    # In the nn.Sequential three modules make the stem; pooling and flattening stand before the head.
    stem, block, first, head = {
        "timm": ("stem.", "blocks.", 0, "head"),
        "official": ("", "", 3, f"{depth + 5}"),
    }[layout]
    names = {"stem_conv": f"{stem}0", "stem_bn": f"{stem}2"}
    modules = {"depthwise": "0.fn.0", "depthwise_bn": "0.fn.2", "pointwise": "1", "pointwise_bn": "3"}
    for i in range(depth):
        for layer, module in modules.items():
            names[f"block{i}_{layer}"] = f"{block}{i + first}.{module}"
    return names | {"head": head}


def tensor_names(layer):
    """Returns what PyTorch calls the tensors of a layer of this package's name, without counters."""
    return NORM_TENSORS if layer.endswith("_bn") else ("weight", "bias")


def tensor_shape(layer, tensor, sizes):
    """Returns the shape that PyTorch gives a layer's tensor."""
    hidden_dim = sizes.hidden_dim
    if layer == "head":
        return (sizes.classes, hidden_dim) if tensor == "weight" else (sizes.classes,)
    if layer.endswith("_bn") or tensor == "bias":
        return (hidden_dim,)
    if layer == "stem_conv":
        return (hidden_dim, sizes.channels, sizes.patch_size, sizes.patch_size)
    if layer.endswith("_depthwise"):
        return (hidden_dim, 1, sizes.kernel_size, sizes.kernel_size)
    return (hidden_dim, hidden_dim, 1, 1)


def to_keras_axes(layer, array):
    """Returns a layer's PyTorch tensor with its axes in Keras' order."""
    return array.transpose(_axes(layer, array.ndim))


def to_torch_axes(layer, array):
    """Returns a layer's Keras weight as float32 with its axes in PyTorch's order."""
    return np.ascontiguousarray(array.transpose(np.argsort(_axes(layer, array.ndim))), np.float32)


def _axes(layer, rank):
    """Where each of Keras' axes is among PyTorch's."""
    if rank == 4:  # (channels, 1, k, k) to (k, k, channels, 1); (out, in, k, k) to (k, k, in, out).
        return (2, 3, 0, 1) if layer.endswith("_depthwise") else (2, 3, 1, 0)
    return tuple(reversed(range(rank)))  # (out, in) to (in, out).
