"""ConvMixer in PyTorch, to check a conversion against. Used for nothing else."""

from collections import OrderedDict

import numpy as np
import torch
from torch import nn

from convmixer_keras.convert.weights.layouts import module_names

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

    It takes float32 images (batch, channels, height, width), and gives logits (batch, classes), or pooled
    features where `classes` is None. The activation is one of `activations.RANGES`.
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


def outputs(checkpoint, images):
    """Returns what the network gives with the weights of a `Checkpoint` for batches of normalised images."""
    sizes = checkpoint.sizes
    with torch.device("meta"):
        model = torch_convmixer(**sizes._asdict(), activation=checkpoint.activation)
    modules = module_names("timm", sizes.depth)
    state = {f"{modules[layer]}.{name}": _read(t) for (layer, name), t in checkpoint.tensors.items()}
    counters = {name for name in model.state_dict() if name.endswith("num_batches_tracked")}
    model.load_state_dict(state | dict.fromkeys(counters, torch.tensor(0)), assign=True)
    model.eval()
    with torch.inference_mode():
        results = [model(torch.from_numpy(batch.transpose(0, 3, 1, 2).copy())).numpy() for batch in images]
    return np.concatenate(results)


def _read(stored):
    array = np.ascontiguousarray(stored.read())
    return torch.from_numpy(array if array.flags.writeable else array.copy())
