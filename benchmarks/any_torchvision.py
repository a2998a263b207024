"""timm beside any torchvision: one made for another PyTorch cannot be imported, and timm imports it."""


def import_timm():
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:  # Its own operations are missing; timm's networks and transforms use none of them.
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor")
    import timm

    return timm
