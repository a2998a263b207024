"""timm beside the torchvision and the Pillow that are installed, whatever their versions."""

from PIL import Image, ImageOps


def import_timm():
    import torch

    try:
        import torchvision  # noqa: F401
    except (
        RuntimeError
    ):  # Made for another PyTorch: its own operations are missing, and timm uses none of them.
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor")
    import timm
    from timm.data import auto_augment

    # timm keeps no bit at a magnitude of 10, which Pillow 12 refuses; earlier ones made such an image black.
    auto_augment.NAME_TO_OP["PosterizeIncreasing"] = posterize
    return timm


def posterize(image, bits, **_):
    return ImageOps.posterize(image, bits) if bits else Image.new("RGB", image.size)
