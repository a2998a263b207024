"""The five public PyTorch ConvMixers, written down independently of the package, to convert from.

Each is built as its source builds it, so that PyTorch itself names the tensors.
"""

import torch
from torch import nn


class _Plus(nn.Module):
    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def forward(self, x):
        return self.fn(x) + x


def _mixer_block(h, k, act):
    spatial = nn.Sequential(nn.Conv2d(h, h, k, groups=h, padding=k // 2), act(), nn.BatchNorm2d(h))
    return nn.Sequential(_Plus(spatial), nn.Conv2d(h, h, kernel_size=1), act(), nn.BatchNorm2d(h))


def official(h, d, k, p, n, c, act):
    layers = [nn.Conv2d(c, h, kernel_size=p, stride=p), act(), nn.BatchNorm2d(h)]
    layers += [_mixer_block(h, k, act) for _ in range(d)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(h, n))


class Timm(nn.Module):
    def __init__(self, h, d, k, p, n, c, act):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(c, h, p, stride=p), act(), nn.BatchNorm2d(h))
        self.blocks = nn.Sequential(*[_mixer_block(h, k, act) for _ in range(d)])
        self.head = nn.Linear(h, n)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean(dim=(2, 3)))


class _Backbone(nn.Module):
    def __init__(self, h, d, k, p, c, act):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(c, h, p, stride=p), act(), nn.BatchNorm2d(h))
        self.stages = nn.Sequential(*[_mixer_block(h, k, act) for _ in range(d)])


class _LinearHead(nn.Module):
    def __init__(self, h, n):
        super().__init__()
        self.fc = nn.Linear(h, n)


class Mmpretrain(nn.Module):
    def __init__(self, h, d, k, p, n, c, act):
        super().__init__()
        self.backbone = _Backbone(h, d, k, p, c, act)
        self.head = _LinearHead(h, n)

    def forward(self, x):
        features = self.backbone.stages(self.backbone.stem(x))
        return self.head.fc(features.mean(dim=(2, 3)))


class _LabmlPatches(nn.Module):
    def __init__(self, h, p, c, act):
        super().__init__()
        self.conv = nn.Conv2d(c, h, p, stride=p)
        self.act = act()
        self.norm = nn.BatchNorm2d(h)

    def forward(self, x):
        return self.norm(self.act(self.conv(x)))


class _LabmlLayer(nn.Module):
    def __init__(self, h, k, act):
        super().__init__()
        self.depth_wise_conv = nn.Conv2d(h, h, k, groups=h, padding=(k - 1) // 2)
        self.norm1 = nn.BatchNorm2d(h)
        self.point_wise_conv = nn.Conv2d(h, h, 1)
        self.norm2 = nn.BatchNorm2d(h)
        self.act = act()

    def forward(self, x):
        x = x + self.norm1(self.act(self.depth_wise_conv(x)))
        return self.norm2(self.act(self.point_wise_conv(x)))


class _LabmlHead(nn.Module):
    def __init__(self, h, n):
        super().__init__()
        self.linear = nn.Linear(h, n)

    def forward(self, x):
        return self.linear(x.mean(dim=(2, 3)))


class Labml(nn.Module):
    def __init__(self, h, d, k, p, n, c, act):
        super().__init__()
        self.patch_emb = _LabmlPatches(h, p, c, act)
        self.conv_mixer_layers = nn.ModuleList([_LabmlLayer(h, k, act) for _ in range(d)])
        self.classification = _LabmlHead(h, n)

    def forward(self, x):
        x = self.patch_emb(x)
        for layer in self.conv_mixer_layers:
            x = layer(x)
        return self.classification(x)


class _FirstPlusInput(nn.Sequential):
    def forward(self, x):
        return self[0](x) + x


def tweet(h, d, k, p, n, c, act):
    def normed(convolution):
        return nn.Sequential(convolution, act(), nn.BatchNorm2d(h))

    blocks = [
        nn.Sequential(
            _FirstPlusInput(normed(nn.Conv2d(h, h, k, groups=h, padding=k // 2))),
            normed(nn.Conv2d(h, h, 1)),
        )
        for _ in range(d)
    ]
    ends = (nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(h, n))
    return nn.Sequential(normed(nn.Conv2d(c, h, p, p)), *blocks, *ends)


LAYOUTS = {"official": official, "timm": Timm, "mmpretrain": Mmpretrain, "labml": Labml, "tweet": tweet}


def random_model(layout, h, d, k, p, n=10, c=3, act=nn.GELU, seed=0):
    """A model in evaluation mode, every tensor of it random, also BatchNorm's statistics and scales."""
    torch.manual_seed(seed)
    model = LAYOUTS[layout](h, d, k, p, n, c, act)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
                module.running_mean.uniform_(0, 0.6)  # As behind any activation.
                module.running_var.uniform_(0.5, 2)
                module.num_batches_tracked.fill_(7)
    return model.eval()


def logits(model, images):
    """Logits (batch, n) of images (batch, height, width, c), both NumPy arrays."""
    with torch.no_grad():
        return model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
