"""ConvMixer as its authors wrote it for PyTorch, to measure against."""

import torch
from torch import nn


class Residual(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) + x


def convmixer(hidden_dim, depth, kernel_size, patch_size, classes):
    def normed(convolution):
        return nn.Sequential(convolution, nn.GELU(), nn.BatchNorm2d(hidden_dim))

    def depthwise():
        return nn.Conv2d(hidden_dim, hidden_dim, kernel_size, groups=hidden_dim, padding="same")

    blocks = [
        nn.Sequential(Residual(normed(depthwise())), normed(nn.Conv2d(hidden_dim, hidden_dim, 1)))
        for _ in range(depth)
    ]
    model = nn.Sequential(
        normed(nn.Conv2d(3, hidden_dim, patch_size, stride=patch_size)),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(hidden_dim, classes),
    )
    return model.to(memory_format=torch.channels_last)


def random_images(batch, side):
    return torch.rand(batch, 3, side, side).contiguous(memory_format=torch.channels_last)
