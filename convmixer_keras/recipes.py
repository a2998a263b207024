"""Training runs as frozen records: every number that a run depends on, and where it comes from."""

import dataclasses
import math
from dataclasses import dataclass, field

from convmixer_keras.images.preprocessing import INTERPOLATIONS, ORIENTATIONS, Preprocessing
from convmixer_keras.models import presets
from convmixer_keras.utils.errors import InputError

# Ranges, both ends included.
COUNT, AMOUNT, SHARE = (1, 2**31 - 1), (0, math.inf), (0, 1)
# Sides and seeds: more cannot be allocated, or is refused by NumPy.
SIDE, WIDTH, SEED = (1, 4096), (1, 65_536), (0, 2**32 - 1)
POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
NORMALIZATIONS = ("batch", "layer")
CLASS_WEIGHTS = ("none", "balanced")
DECAYED = ("kernels", "all")
STATISTICS = ("global", "replica")


def _setting(default, group, text, within=None, choices=None):
    """A field of `Recipe`, with the range of its values; the command line makes its flags and help of it."""
    return field(
        default=default, metadata={"group": group, "help": text, "within": within, "choices": choices}
    )


@dataclass(frozen=True)
class Recipe:
    """One training run. Each field is also a flag of `train_keras.py`, whose `--help` explains it."""

    dataset: str = _setting("digits", "data", "digits, a tensorflow-datasets name, or a folder of images")
    image_size: int = _setting(224, "data", "side of the square images to train on, in pixels", SIDE)
    mean: tuple[float, ...] = _setting(presets.IMAGENET_MEAN, "data", "mean of each channel, 0..1", SHARE)
    std: tuple[float, ...] = _setting(
        presets.IMAGENET_STD, "data", "deviation of each channel, 0..1", (1e-6, 1)
    )
    crop_pct: float = _setting(
        1.0, "data", "share of the resized side kept by the centre crop at evaluation", (0.01, 1)
    )
    interpolation: str = _setting(
        "bicubic", "data", "filter of the resize at evaluation", choices=INTERPOLATIONS
    )
    orientation: str = _setting(
        "exif", "data", "turn photographs as their EXIF data says, or not", choices=ORIENTATIONS
    )
    train_split: str | None = _setting(None, "data", "name of the training split (default train)")
    validation_split: str | None = _setting(
        None, "data", "name of the validation split (default: the first of validation, val, valid, test)"
    )
    test_split: str | None = _setting(None, "data", "name of a split to evaluate once, after training")
    validation_share: float = _setting(
        0.1, "data", "share of a folder's images to validate on where it has no split for it", (0, 0.9)
    )
    class_weight: str = _setting(
        "none", "data", "balanced: weigh images so that every class counts alike", choices=CLASS_WEIGHTS
    )

    hidden_dim: int = _setting(256, "model", "channels, h in the paper", WIDTH)
    depth: int = _setting(8, "model", "number of blocks, d", (1, 1000))
    kernel_size: int = _setting(9, "model", "side of the depthwise kernels, k", (1, 255))
    patch_size: int = _setting(7, "model", "side of a patch in pixels, p", SIDE)
    activation: str = _setting("gelu", "model", "a Keras activation; gelu is the exact one")
    normalization: str = _setting("batch", "model", "after each activation", choices=NORMALIZATIONS)
    residual: bool = _setting(True, "model", "add the depthwise half of a block to its input")

    epochs: int = _setting(150, "optimisation", "passes over the training images", COUNT)
    batch_size: int = _setting(64, "optimisation", "images in a step, over all devices together", COUNT)
    accumulate: int = _setting(
        1, "optimisation", "parts of a device's images in a step, taken one after the other", COUNT
    )
    batch_norm_statistics: str = _setting(
        "global",
        "optimisation",
        "BatchNorm's mean and variance are those of a step's images on all devices, or on each",
        choices=STATISTICS,
    )
    learning_rate: float = _setting(0.01, "optimisation", "at its peak, after two fifths of the run", AMOUNT)
    weight_decay: float = _setting(2e-5, "optimisation", "decoupled (AdamW)", AMOUNT)
    decayed_weights: str = _setting(
        "kernels", "optimisation", "what decays: not biases and BatchNorm, or all", choices=DECAYED
    )
    epsilon: float = _setting(1e-3, "optimisation", "of AdamW", AMOUNT)
    clip_norm: float = _setting(
        1.0, "optimisation", "largest global norm of the gradient; 0 for no limit", AMOUNT
    )
    label_smoothing: float = _setting(
        0.0, "optimisation", "share of a label spread over all classes, 0..1", SHARE
    )
    ema_momentum: float = _setting(
        0.0, "optimisation", "of a running average of weights and statistics; 0 for none", SHARE
    )

    dtype_policy: str = _setting("float32", "optimisation", "precision of the layers", choices=POLICIES)
    seed: int = _setting(0, "optimisation", "of initial weights, order of images, augmentation", SEED)

    crop_area: tuple[float, float] = _setting(
        (1.0, 1.0), "augmentation", "least and greatest share of an image's area in a random crop", (1e-3, 1)
    )
    crop_ratio: tuple[float, float] = _setting(
        (1.0, 1.0), "augmentation", "least and greatest width / height of a random crop", (0.01, 100)
    )
    flip: bool = _setting(False, "augmentation", "mirror each image with probability 1/2")
    color_jitter: float = _setting(0.0, "augmentation", "range of brightness, contrast, saturation", SHARE)
    randaugment_ops: int = _setting(0, "augmentation", "RandAugment operations for each image", (0, 100))
    randaugment_policy: str = _setting(
        "timm", "augmentation", "whose operations, and how strong they are", choices=("timm", "torchvision")
    )
    randaugment_magnitude: float = _setting(9.0, "augmentation", "their strength, 0..10", (0, 10))
    randaugment_std: float = _setting(0.5, "augmentation", "standard deviation of that strength", AMOUNT)
    erasing_probability: float = _setting(0.0, "augmentation", "chance that a rectangle becomes noise", SHARE)
    mixup_alpha: float = _setting(0.0, "augmentation", "MixUp's Beta parameter; 0 for none", AMOUNT)
    cutmix_alpha: float = _setting(
        0.0, "augmentation", "CutMix's Beta parameter; each batch gets one of the two; 0 for none", AMOUNT
    )

    def __post_init__(self):
        for entry in dataclasses.fields(self):
            _check(entry, getattr(self, entry.name))

    def preprocessing(self, channels):
        """Returns the `Preprocessing` of evaluation, for a model that normalises by itself."""
        return Preprocessing(self.image_size, channels, self.crop_pct, self.interpolation, self.orientation)


def _number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


_TYPES = {
    bool: ("True or False", lambda value: isinstance(value, bool)),
    int: ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    float: ("a finite number", _number),
    str: ("a text", lambda value: isinstance(value, str)),
    str | None: ("a text or None", lambda value: value is None or isinstance(value, str)),
}
_NUMBERS = ("finite numbers", lambda value: isinstance(value, tuple) and value and all(map(_number, value)))


def from_saved(settings):
    """Makes the recipe of an earlier run from the settings that its JSON file holds.

    A field that is newer than the run gets the value that describes what the run did.

    Args:
        settings: Dictionary from field names to values, lists in place of tuples.

    Returns:
        A `Recipe`.

    Raises:
        InputError: If a field is not known, or its value out of its range.
    """
    unknown = sorted(set(settings) - {entry.name for entry in dataclasses.fields(Recipe)})
    if unknown:
        raise InputError(f"the recipe has a setting that is not known: {unknown[0]!r}")
    settings = {"orientation": "stored", **settings}  # Older runs took pixels as they are stored.
    return Recipe(**{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})


def _check(entry, value):
    """Raises InputError for a value of another type than its field's, or outside its range or choices."""
    wanted, is_right = _TYPES.get(entry.type, _NUMBERS)
    if not is_right(value):
        raise InputError(f"{entry.name} must be {wanted}, got {value!r}")
    within, choices = entry.metadata["within"], entry.metadata["choices"]
    values = value if isinstance(value, tuple) else (value,)
    if within and not all(within[0] <= v <= within[1] for v in values):
        shows_upper = within[1] < 2**31 - 1 or max(values) > within[1]
        upper = f" and at most {within[1]}" if shows_upper else ""
        raise InputError(f"{entry.name} must be at least {within[0]}{upper}, got {_values_text(values)}")
    if entry.name.startswith("crop_") and list(values) != sorted(values):
        raise InputError(f"{entry.name} must be the least and then the greatest, got {_values_text(values)}")
    if choices and value not in choices:
        raise InputError(f"{entry.name} must be one of {', '.join(choices)}, got {value!r}")


def _values_text(values):
    return " ".join(str(value) for value in values)


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

# The authors' ImageNet settings for ConvMixer-1536/20 (github.com/locuslab/convmixer): ten GPUs with 64
# images each, and BatchNorm of each GPU's own images. ConvMixer-768/32 takes 300 epochs.
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

# Ours, for the paper's ablations: the model of `cifar10_fast` under the ImageNet settings' optimizer and
# augmentation, except the crops, which are those that the authors' CIFAR-10 script has by default.
ABLATION = dataclasses.replace(
    CIFAR10_FAST,
    batch_size=128,
    learning_rate=IMAGENET.learning_rate,
    weight_decay=IMAGENET.weight_decay,
    decayed_weights=IMAGENET.decayed_weights,
    epsilon=IMAGENET.epsilon,
    clip_norm=IMAGENET.clip_norm,
    crop_area=(0.75, 1.0),
    randaugment_magnitude=IMAGENET.randaugment_magnitude,
    randaugment_std=IMAGENET.randaugment_std,
    erasing_probability=IMAGENET.erasing_probability,
    mixup_alpha=IMAGENET.mixup_alpha,
    cutmix_alpha=IMAGENET.cutmix_alpha,
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

RECIPES = {
    "digits": DIGITS,
    "photos": PHOTOS,
    "cifar10_fast": CIFAR10_FAST,
    "cifar10": CIFAR10,
    "imagenet": IMAGENET,
}


def for_dataset(recipe, dataset):
    """Returns a recipe for a data set of the user's.

    Photographs of any data set but the recipe's own are turned as their EXIF data says. Only ImageNet's are
    read as they are stored.
    """
    if dataset == recipe.dataset:
        return recipe
    return dataclasses.replace(recipe, dataset=dataset, orientation="exif")


def recipe_name_for(dataset):
    """Returns the name of the recipe that fits a data set best where none is named: its own, or "photos"."""
    return next((name for name, recipe in RECIPES.items() if recipe.dataset == dataset), "photos")
