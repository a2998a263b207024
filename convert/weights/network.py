"""ConvMixer in PyTorch, to check a conversion against. Used for nothing else."""

from collections import OrderedDict

import numpy as np
import torch
from torch import nn

from convmixer_keras.convert.weights.layouts import TIMM

_ACTIVATIONS = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "hard_silu": nn.Hardswish,
    "mish": nn.Mish,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "selu": nn.SELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


class _Residual(nn.Module):
    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def forward(self, x):
        return x + self.fn(x)


def torch_convmixer(hidden_dim, depth, kernel_size, patch_size, channels=3, classes=1000, activation="gelu"):
    """Builds the network as an `nn.Sequential` whose tensors are named as in timm.

    Args:
        hidden_dim, depth, kernel_size, patch_size, channels: The sizes.
        classes: Number of classes, or None for a network that ends in pooled features.
        activation: One of `activations.RANGES`.

    Returns:
        A module from float32 images (batch, channels, height, width) to logits (batch, classes).
    """
    act = _ACTIVATIONS[activation]

    def normalized(convolution):
        return convolution, act(), nn.BatchNorm2d(hidden_dim)

    def block():
        depthwise = nn.Conv2d(hidden_dim, hidden_dim, kernel_size, groups=hidden_dim, padding="same")
        pointwise = nn.Conv2d(hidden_dim, hidden_dim, 1)
        return nn.Sequential(_Residual(nn.Sequential(*normalized(depthwise))), *normalized(pointwise))

    stem = normalized(nn.Conv2d(channels, hidden_dim, patch_size, stride=patch_size))
    blocks = [block() for _ in range(depth)]
    parts = {"stem": nn.Sequential(*stem), "blocks": nn.Sequential(*blocks)}
    parts |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    head = nn.Identity() if classes is None else nn.Linear(hidden_dim, classes)
    return nn.Sequential(OrderedDict(parts | {"head": head}))


def outputs(sizes, activation, arrays, images):
    """Runs the network with given weights.

    Args:
        sizes: A `Sizes`.
        activation: One of `activations.RANGES`.
        arrays: Dict from (layer, tensor), as in `Recognised.tensors`, to a float32 array in PyTorch's
            memory layout. The weights are used where they are, not copied.
        images: Iterable of float32 arrays (batch, height, width, channels), normalised.

    Returns:
        A float32 array: logits (batch, classes), or pooled features (batch, hidden_dim) where
        `sizes.classes` is None.
    """
    modules = TIMM.module_names(sizes.depth)
    state = {f"{modules[layer]}.{tensor}": _shared(array) for (layer, tensor), array in arrays.items()}
    with torch.device("meta"):
        model = torch_convmixer(**sizes._asdict(), activation=activation)
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.zeros_like(tensor, device="cpu")
    model.load_state_dict(state, strict=True, assign=True)
    model.eval()
    with torch.inference_mode():
        results = [model(torch.from_numpy(batch.transpose(0, 3, 1, 2).copy())).numpy() for batch in images]
    return np.concatenate(results)


def _shared(array):
    array = np.ascontiguousarray(array)
    return torch.from_numpy(array if array.flags.writeable else array.copy())
