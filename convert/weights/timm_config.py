"""timm's description of a model, `pretrained_cfg`, in the metadata of a `.safetensors` file.

Keys: timm/models/_pretrained.py. timm ignores EXIF data: it reads images as they are stored.
"""

import json

from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.models import presets
from convmixer_keras.utils.errors import InputError

_ENTRY = "pretrained_cfg"


def to_metadata(preprocessing, sizes, mean_and_std=None):
    """Returns the metadata of a network's weights.

    Args:
        preprocessing: Its `Preprocessing`, or None.
        sizes: Its `Sizes`.
        mean_and_std: Mean and deviation per channel in units of 0..1, where the Keras model normalises by
            itself; None for those of `preprocessing`.

    Returns:
        A dict from string to string.
    """
    preset = next((p for p in presets.PRESETS if p.timm_name and _is(p, sizes)), None)
    config = {"num_classes": sizes.classes, "first_conv": "stem.0", "classifier": "head"}
    if preset:
        config["architecture"] = preset.timm_name
    if preprocessing is not None:
        config |= {
            "input_size": (preprocessing.channels, *preprocessing.size),
            "interpolation": preprocessing.interpolation,
            "crop_pct": preprocessing.crop_pct,
            "crop_mode": "center",
        }
        mean_and_std = mean_and_std or (preprocessing.mean, preprocessing.std)
    if mean_and_std and mean_and_std[0] is not None:
        config["mean"], config["std"] = ([float(v) for v in values] for values in mean_and_std)
    return {_ENTRY: json.dumps(config)}


def _is(preset, sizes):
    return all(
        getattr(preset, name) == getattr(sizes, name)
        for name in ("hidden_dim", "depth", "kernel_size", "patch_size")
    )


def from_file(path):
    """Returns the `Preprocessing` that a `.safetensors` file states, or None.

    Raises:
        InputError: If what it states is damaged.
    """
    if not path.endswith(".safetensors"):
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            config = json.loads((file.metadata() or {}).get(_ENTRY, "{}"))
        if not {"input_size", "crop_pct", "interpolation", "mean", "std"} <= config.keys():
            return None
        channels, *size = config["input_size"]
        return Preprocessing(
            tuple(size),
            channels,
            config["crop_pct"],
            config["interpolation"],
            "stored",
            tuple(config["mean"]),
            tuple(config["std"]),
        )
    except (OSError, SafetensorError):
        return None  # Reading the weights will say what is wrong.
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} holds a damaged {_ENTRY}: {error}") from None
