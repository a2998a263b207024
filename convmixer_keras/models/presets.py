"""The sizes that make a ConvMixer, and the paper's variants as a table of facts.

Sources: sizes, accuracies and weights are from "Patches Are All You Need?" (Trockman and Kolter,
arXiv:2201.09792) and the authors' repository, the input transforms from timm's configurations of
the same weights. Parameter and multiply-add counts are our own, taken from the built models.
"""

from dataclasses import dataclass
from typing import NamedTuple

from convmixer_keras.images.class_names import published_classes

# Per channel, in units of 0..1, as PyTorch's ImageNet models use them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2471, 0.2435, 0.2616)


def for_channels(values, channels):
    """Returns a mean or deviation for each channel: as given, or of another number their average."""
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels


class Sizes(NamedTuple):
    """A ConvMixer's sizes. `classes` is None for a network without its classifier."""

    hidden_dim: int
    depth: int
    kernel_size: int
    patch_size: int
    channels: int
    classes: int | None

    def __str__(self):
        classes = "no classifier" if self.classes is None else f"{self.classes} classes"
        return (
            f"ConvMixer-{self.hidden_dim}/{self.depth}, kernel {self.kernel_size}, patch {self.patch_size}, "
            f"{self.channels} channels, {classes}"
        )

    def differences(self, preset: "Preset") -> list[str]:
        """Says in which of the sizes that make a variant the two differ; fine-tuning may change the rest."""
        return [
            f"{name} is {getattr(self, name)} in the checkpoint and {getattr(preset, name)} in {preset.name}"
            for name in ("hidden_dim", "depth", "kernel_size", "patch_size")
            if getattr(self, name) != getattr(preset, name)
        ]


@dataclass(frozen=True)
class Preset:
    """One published variant.

    Attributes:
        name: The builder's name in `convmixer_keras`.
        timm_name: The same network in timm, or None where timm does not have it.
        hidden_dim: Number of channels, h in the paper.
        depth: Number of blocks, d.
        patch_size: Side of a patch in pixels, p.
        kernel_size: Side of the depthwise kernels, k.
        activation: Name of a Keras activation; "gelu" is the exact (erf) one.
        classes: Number of classes of the published head.
        image_size: Side of the input in pixels at which accuracy is reported.
        crop_pct: Share of the resized image's side that the centre crop keeps at evaluation.
        interpolation: Resizing method at evaluation.
        orientation: Whether photographs are turned as their EXIF data says ("exif") or not ("stored").
        mean, std: Normalisation per channel, in units of 0..1.
        parameters: Number of trainable parameters.
        multiply_adds: Of all convolutions and the dense layer, for one image of `image_size`.
        top1, top5: Accuracy in percent that was published, or for our own weights measured; or None.
        weights: What a builder's `weights` calls the published ones: "imagenet", "cifar10", or None where
            there are none.
        recipe: Name of the recipe with its authors' settings.
        epochs: How long the authors trained it; None where their code does not say: as long as the recipe.
    """

    name: str
    hidden_dim: int
    depth: int
    patch_size: int
    kernel_size: int
    parameters: int
    multiply_adds: int
    activation: str = "gelu"
    timm_name: str | None = None
    top1: float | None = None
    top5: float | None = None
    weights: str | None = None
    recipe: str = "imagenet"
    epochs: int | None = None
    classes: int = 1000
    image_size: int = 224
    crop_pct: float = 0.96
    interpolation: str = "bicubic"
    orientation: str = "stored"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    @property
    def class_names(self) -> list[str]:
        """Those of the published classifier, a list of strings."""
        return published_classes(self.weights)


_CIFAR10 = {"classes": 10, "image_size": 32, "crop_pct": 1.0, "mean": CIFAR10_MEAN, "std": CIFAR10_STD}

CONVMIXER_1536_20 = Preset(
    name="ConvMixer1536_20",
    timm_name="convmixer_1536_20",
    hidden_dim=1536,
    depth=20,
    patch_size=7,
    kernel_size=9,
    parameters=51_625_960,
    multiply_adds=51_099_168_768,
    top1=81.37,
    top5=95.61,
    weights="imagenet",
)

CONVMIXER_768_32 = Preset(
    name="ConvMixer768_32",
    timm_name="convmixer_768_32",
    hidden_dim=768,
    depth=32,
    patch_size=7,
    kernel_size=7,
    activation="relu",
    parameters=21_110_248,
    multiply_adds=20_676_851_712,
    top1=80.16,
    top5=95.08,
    weights="imagenet",
    epochs=300,
)

CONVMIXER_1024_20 = Preset(
    name="ConvMixer1024_20",
    timm_name="convmixer_1024_20_ks9_p14",
    hidden_dim=1024,
    depth=20,
    patch_size=14,
    kernel_size=9,
    parameters=24_383_464,
    multiply_adds=5_948_547_072,
    top1=76.94,
    top5=93.36,
    weights="imagenet",
)

# In the paper's table, but its weights were never released.
CONVMIXER_1536_20_P14 = Preset(
    name="ConvMixer1536_20_P14",
    hidden_dim=1536,
    depth=20,
    patch_size=14,
    kernel_size=9,
    parameters=52_303_336,
    multiply_adds=12_949_352_448,
    top1=78.9,
)

# In the paper's table. keras-cv trained its own weights for it; the authors' were never released.
CONVMIXER_512_16 = Preset(
    name="ConvMixer512_16",
    hidden_dim=512,
    depth=16,
    patch_size=7,
    kernel_size=8,
    parameters=5_357_544,
    multiply_adds=4_909_420_544,
    top1=73.76,
)

# The paper's Table 4 has 96.03 % on CIFAR-10 for it.
CONVMIXER_256_8 = Preset(
    name="ConvMixer256_8",
    hidden_dim=256,
    depth=8,
    patch_size=1,
    kernel_size=9,
    parameters=706_570,
    multiply_adds=707_529_216,
    recipe="cifar10_paper",
    **_CIFAR10,
)

# The authors' CIFAR-10 script. Its weights come with this package: docs/results/cifar10_fast/.
CONVMIXER_256_8_P2 = Preset(
    name="ConvMixer256_8_P2",
    hidden_dim=256,
    depth=8,
    patch_size=2,
    kernel_size=5,
    parameters=594_186,
    multiply_adds=148_113_920,
    top1=89.49,
    top5=99.67,
    weights="cifar10",
    recipe="cifar10_fast",
    orientation="exif",
    **_CIFAR10,
)

PRESETS = (
    CONVMIXER_1536_20,
    CONVMIXER_768_32,
    CONVMIXER_1024_20,
    CONVMIXER_1536_20_P14,
    CONVMIXER_512_16,
    CONVMIXER_256_8,
    CONVMIXER_256_8_P2,
)
