"""Training runs as frozen records: every number that a run depends on, and where it comes from."""

import dataclasses
import math
from dataclasses import dataclass

from convmixer_keras.images.preprocessing import INTERPOLATIONS, ORIENTATIONS, Preprocessing, stated_by
from convmixer_keras.models import presets
from convmixer_keras.utils import fields
from convmixer_keras.utils.errors import InputError, arg
from convmixer_keras.utils.fields import setting

DATA, MODEL, OPTIMISATION, AUGMENTATION = (
    f"{part}, overriding the recipe" for part in ("data", "model", "optimisation", "augmentation")
)
# Ranges, both ends included.
COUNT, AMOUNT, SHARE = (1, 2**31 - 1), (0, math.inf), (0, 1)
# Sides and seeds: more cannot be allocated, or is refused by NumPy.
SIDE, WIDTH, SEED = (1, 4096), (1, 65_536), (0, 2**32 - 1)
POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
NORMALIZATIONS = ("batch", "layer")
CLASS_WEIGHTS = ("none", "balanced")
DECAYED = ("kernels", "all")
STATISTICS = ("global", "replica", "kept")
COUNT_OR_NONE = (0, 2**31 - 1)


@dataclass(frozen=True)
class Recipe:
    """One training run. Each field is also a flag of `train_keras.py`, whose `--help` explains it."""

    dataset: str = setting("digits", DATA, "digits, a tensorflow-datasets name, or a folder of images")
    image_size: int = setting(224, DATA, "side of the square images to train on, in pixels", SIDE)
    mean: tuple[float, ...] = setting(presets.IMAGENET_MEAN, DATA, "mean of each channel, 0..1", SHARE)
    std: tuple[float, ...] = setting(presets.IMAGENET_STD, DATA, "deviation of each channel, 0..1", (1e-6, 1))
    crop_pct: float = setting(
        1.0, DATA, "share of the resized side kept by the centre crop at evaluation", (0.01, 1)
    )
    interpolation: str = setting(
        "bicubic", DATA, "filter of the resize at evaluation", choices=INTERPOLATIONS
    )
    orientation: str = setting(
        "exif", DATA, "turn photographs as their EXIF data says, or not", choices=ORIENTATIONS
    )
    train_split: str | None = setting(None, DATA, "name of the training split (default train)")
    validation_split: str | None = setting(
        None, DATA, "name of the validation split (default: the first of validation, val, valid, test)"
    )
    test_split: str | None = setting(None, DATA, "name of a split to evaluate once, after training")
    validation_share: float = setting(
        0.1, DATA, "share of a folder's images to validate on where it has no split for it", (0, 0.9)
    )
    class_weight: str = setting(
        "none", DATA, "balanced: weigh images so that every class counts alike", choices=CLASS_WEIGHTS
    )

    hidden_dim: int = setting(256, MODEL, "channels, h in the paper", WIDTH)
    depth: int = setting(8, MODEL, "number of blocks, d", (1, 1000))
    kernel_size: int = setting(9, MODEL, "side of the depthwise kernels, k", (1, 255))
    patch_size: int = setting(7, MODEL, "side of a patch in pixels, p", SIDE)
    activation: str = setting("gelu", MODEL, "a Keras activation; gelu is the exact one")
    normalization: str = setting("batch", MODEL, "after each activation", choices=NORMALIZATIONS)
    residual: bool = setting(True, MODEL, "add the depthwise half of a block to its input")

    epochs: int = setting(150, OPTIMISATION, "passes over the training images", COUNT)
    batch_size: int = setting(64, OPTIMISATION, "images in a step, over all devices together", COUNT)
    accumulate: int = setting(
        1, OPTIMISATION, "parts of a device's images in a step, taken one after the other", COUNT
    )
    batch_norm_statistics: str = setting(
        "global",
        OPTIMISATION,
        "BatchNorm's mean and variance are those of a step's images on all devices, on each, or stay",
        choices=STATISTICS,
    )
    head_epochs: int = setting(
        0, OPTIMISATION, "passes over a trained body's features in which the head learns first", COUNT_OR_NONE
    )
    head_learning_rate: float = setting(3e-3, OPTIMISATION, "of these passes", AMOUNT)
    patience: int = setting(
        0, OPTIMISATION, "epochs without a better accuracy that end the run; 0 for never", COUNT_OR_NONE
    )
    learning_rate: float = setting(0.01, OPTIMISATION, "at its peak, after two fifths of the run", AMOUNT)
    weight_decay: float = setting(2e-5, OPTIMISATION, "decoupled (AdamW)", AMOUNT)
    decayed_weights: str = setting(
        "kernels", OPTIMISATION, "what decays: not biases and BatchNorm, or all", choices=DECAYED
    )
    epsilon: float = setting(1e-3, OPTIMISATION, "of AdamW", AMOUNT)
    clip_norm: float = setting(
        1.0, OPTIMISATION, "largest global norm of the gradient; 0 for no limit", AMOUNT
    )
    label_smoothing: float = setting(
        0.0, OPTIMISATION, "share of a label spread over all classes, 0..1", SHARE
    )
    ema_momentum: float = setting(
        0.0, OPTIMISATION, "of a running average of weights and statistics; 0 for none", SHARE
    )

    dtype_policy: str = setting("float32", OPTIMISATION, "precision of the layers", choices=POLICIES)
    seed: int = setting(0, OPTIMISATION, "of initial weights, order of images, augmentation", SEED)

    crop_area: tuple[float, float] = setting(
        (1.0, 1.0), AUGMENTATION, "least and greatest share of an image's area in a random crop", (1e-3, 1)
    )
    crop_ratio: tuple[float, float] = setting(
        (1.0, 1.0), AUGMENTATION, "least and greatest width / height of a random crop", (0.01, 100)
    )
    flip: bool = setting(False, AUGMENTATION, "mirror each image with probability 1/2")
    color_jitter: float = setting(0.0, AUGMENTATION, "range of brightness, contrast, saturation", SHARE)
    randaugment_ops: int = setting(0, AUGMENTATION, "RandAugment operations for each image", (0, 100))
    randaugment_policy: str = setting(
        "timm", AUGMENTATION, "whose operations, and how strong they are", choices=("timm", "torchvision")
    )
    randaugment_magnitude: float = setting(9.0, AUGMENTATION, "their strength, 0..10", (0, 10))
    randaugment_std: float = setting(0.5, AUGMENTATION, "standard deviation of that strength", AMOUNT)
    erasing_probability: float = setting(0.0, AUGMENTATION, "chance that a rectangle becomes noise", SHARE)
    mixup_alpha: float = setting(0.0, AUGMENTATION, "MixUp's Beta parameter; 0 for none", AMOUNT)
    cutmix_alpha: float = setting(
        0.0, AUGMENTATION, "CutMix's Beta parameter; each batch gets one of the two; 0 for none", AMOUNT
    )

    def __post_init__(self):
        fields.check(self)

    def for_channels(self, channels: int) -> "Recipe":
        """Returns the recipe with a mean and deviation for each channel; for grey images colour's average."""
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) not in (1, channels) and (len(values), channels) != (3, 1):
                raise InputError(
                    f"{arg(name)} must have one value, or one for each of the {channels} channels, "
                    f"got {values}"
                )
        mean, std = (presets.for_channels(values, channels) for values in (self.mean, self.std))
        return dataclasses.replace(self, mean=mean, std=std)

    def preprocessing(self, channels: int) -> Preprocessing:
        """Returns the `Preprocessing` of evaluation, for a model that normalises by itself."""
        stated = stated_by(self) | {"mean": None, "std": None}
        return Preprocessing(self.image_size, channels, **stated)


# Ours: the smallest run that shows the whole path on data that ships with scikit-learn. The statistics are
# those of the training split.
DIGITS = Recipe(
    dataset="digits",
    image_size=8,
    mean=(0.306,),
    std=(0.377,),
    hidden_dim=64,
    depth=4,
    kernel_size=3,
    patch_size=1,
    epochs=30,
    batch_size=64,
    learning_rate=0.01,
    weight_decay=0.005,
)

# The authors' CIFAR-10 script, github.com/locuslab/convmixer-cifar10: 92.6 % after 25 epochs. It counts
# RandAugment's strength to 30 and uses 12, and takes PyTorch's AdamW as it is: epsilon 1e-8, decay of every
# parameter, no clipping.
CIFAR10_FAST = Recipe(
    dataset="cifar10",
    image_size=32,
    mean=presets.CIFAR10_MEAN,
    std=presets.CIFAR10_STD,
    hidden_dim=256,
    depth=8,
    kernel_size=5,
    patch_size=2,
    epochs=25,
    batch_size=512,
    learning_rate=0.05,
    weight_decay=0.005,
    decayed_weights="all",
    epsilon=1e-8,
    clip_norm=0.0,
    flip=True,
    randaugment_ops=2,
    randaugment_policy="torchvision",
    randaugment_magnitude=4.0,
    randaugment_std=0.0,
)

# The same script's longer setting: over 94 %.
CIFAR10 = dataclasses.replace(CIFAR10_FAST, epochs=100, color_jitter=0.2, erasing_probability=0.2)

# What a reader of the paper reports for its CIFAR-10 network, ConvMixer-256/8 with patch 1 and kernel 9:
# 95.89 %, where the paper has 96.03 (github.com/locuslab/convmixer, issue 15). timm's defaults where nothing
# is said; its "onecycle" is the authors' own schedule, which is ours.
CIFAR10_PAPER = Recipe(
    dataset="cifar10",
    image_size=32,
    mean=presets.CIFAR10_MEAN,
    std=presets.CIFAR10_STD,
    hidden_dim=256,
    depth=8,
    kernel_size=9,
    patch_size=1,
    epochs=200,
    batch_size=64,
    learning_rate=0.01,
    weight_decay=0.01,
    label_smoothing=0.1,
    crop_area=(0.75, 1.0),
    crop_ratio=(3 / 4, 4 / 3),
    flip=True,
    randaugment_ops=2,
    erasing_probability=0.25,
    mixup_alpha=0.5,
    cutmix_alpha=0.5,
)

# The authors' ImageNet settings for ConvMixer-1536/20 (github.com/locuslab/convmixer): ten GPUs with 64
# images each, and BatchNorm of each GPU's own images. `for_variant` has their other networks.
IMAGENET = Recipe(
    dataset="imagenet2012",
    crop_pct=0.96,
    orientation="stored",
    hidden_dim=1536,
    depth=20,
    kernel_size=9,
    patch_size=7,
    epochs=150,
    batch_size=640,
    batch_norm_statistics="replica",
    dtype_policy="mixed_float16",
    label_smoothing=0.1,
    crop_area=(0.08, 1.0),
    crop_ratio=(3 / 4, 4 / 3),
    flip=True,
    randaugment_ops=2,
    randaugment_magnitude=9.0,
    randaugment_std=0.5,
    erasing_probability=0.25,
    mixup_alpha=0.5,
    cutmix_alpha=0.5,
)

# Ours, for a folder of photographs: small enough for a CPU, and the ImageNet settings' optimizer with an
# augmentation between theirs and none, as a few thousand photographs ask for.
PHOTOS = Recipe(
    dataset="photos",
    image_size=96,
    crop_pct=0.96,
    hidden_dim=192,
    depth=8,
    kernel_size=7,
    patch_size=6,
    epochs=60,
    batch_size=32,
    learning_rate=0.01,
    weight_decay=2e-5,
    label_smoothing=0.1,
    crop_area=(0.35, 1.0),
    crop_ratio=(3 / 4, 4 / 3),
    flip=True,
    color_jitter=0.2,
    randaugment_ops=1,
    erasing_probability=0.1,
)

# Ours, for photographs to teach a trained body: network, image size, crop, filter, mean and deviation are the
# body's. The head learns first and alone, then all of it at a low rate, as docs/recipe.md measures it.
FINETUNE = dataclasses.replace(
    PHOTOS,
    image_size=224,
    epochs=20,
    head_epochs=20,
    patience=10,
    batch_norm_statistics="kept",
    learning_rate=5e-4,
    epsilon=1e-8,
    crop_area=(0.6, 1.0),
    color_jitter=0.1,
    randaugment_ops=0,
    erasing_probability=0.0,
)

RECIPES = {
    "digits": DIGITS,
    "photos": PHOTOS,
    "finetune": FINETUNE,
    "cifar10_fast": CIFAR10_FAST,
    "cifar10": CIFAR10,
    "cifar10_paper": CIFAR10_PAPER,
    "imagenet": IMAGENET,
}
"""Every `Recipe` by the name that `--recipe` takes."""


def for_dataset(recipe: Recipe, dataset: str) -> Recipe:
    """Returns a recipe for a data set of the user's.

    Photographs of any data set but the recipe's own are turned as their EXIF data says. Only ImageNet's are
    read as they are stored.
    """
    if dataset == recipe.dataset:
        return recipe
    return dataclasses.replace(recipe, dataset=dataset, orientation="exif")


def for_variant(name, preset):
    """Returns a recipe with a published variant's network, and its own recipe with the variant's epochs."""
    network = ("hidden_dim", "depth", "kernel_size", "patch_size", "activation")
    network += ("epochs",) if name == preset.recipe and preset.epochs else ()
    return dataclasses.replace(RECIPES[name], **{field: getattr(preset, field) for field in network})


def recipe_name_for(dataset, variant=None, body=None):
    """Returns the recipe's name where none is given, for a data set, a `Preset` and a body, or None."""
    if body:
        return "finetune"
    if variant and (not dataset or dataset == RECIPES[variant.recipe].dataset):
        return variant.recipe
    dataset = dataset or "digits"
    return next((name for name, recipe in RECIPES.items() if recipe.dataset == dataset), "photos")
