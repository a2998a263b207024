"""timm's description of a model, `pretrained_cfg`, in the metadata of a `.safetensors` file.

Keys: timm/models/_pretrained.py. timm ignores EXIF data: it reads images as they are stored.
"""

import json

from safetensors import safe_open

from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.models import presets
from convmixer_keras.utils.errors import InputError

_ENTRY = "pretrained_cfg"


def to_metadata(preprocessing, sizes, mean_and_std=None):
    """Returns what a network's weights say of its `Preprocessing`, or None, and its `Sizes`.

    `mean_and_std`, per channel in units of 0..1, are those of a Keras model that normalises by itself.
    """
    preset = next((p for p in presets.PRESETS if p.timm_name and not sizes.differences(p)), None)
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


def from_file(path):
    """Returns the `Preprocessing` that a `.safetensors` file states, or None."""
    if not path.endswith(".safetensors"):
        return None
    try:
        with safe_open(path, "numpy") as file:
            config = json.loads((file.metadata() or {}).get(_ENTRY, "{}"))
        if not {"input_size", "crop_pct", "interpolation", "mean", "std"} <= config.keys():
            return None
        channels, *size = config["input_size"]
        crop = config["crop_pct"], config["interpolation"]
        return Preprocessing(size, channels, *crop, "stored", config["mean"], config["std"])
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} holds a damaged {_ENTRY}: {error}") from None
