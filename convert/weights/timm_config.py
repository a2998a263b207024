"""timm's description of a model, `pretrained_cfg`, in the metadata of a `.safetensors` file.

Keys: timm/models/_pretrained.py. timm ignores EXIF data: it reads images as they are stored.
"""

import json

from safetensors import safe_open

from convmixer_keras.convert.weights.activations import RANGES
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.models import presets
from convmixer_keras.utils.errors import InputError

_ENTRY = "pretrained_cfg"
_OWN_ENTRY = "convmixer_keras"  # What timm's has no key for.


def to_metadata(preprocessing, sizes, activation, mean_and_std=None):
    """Returns what a network's weights say of its `Preprocessing`, or None, its `Sizes` and its activation.

    `mean_and_std`, per channel in units of 0..1, are those of a Keras model that normalises by itself.
    """
    preset = next((p for p in presets.PRESETS if p.timm_name and not sizes.differences(p)), None)
    config = {"num_classes": sizes.classes, "first_conv": "stem.0", "classifier": "head"}
    own = {"activation": activation}
    if preset and preset.activation == activation:
        config["architecture"] = preset.timm_name
    if preprocessing is not None:
        config |= {
            "input_size": (preprocessing.channels, *preprocessing.size),
            "interpolation": preprocessing.interpolation,
            "crop_pct": preprocessing.crop_pct,
            "crop_mode": "center",
        }
        own["orientation"] = preprocessing.orientation
        mean_and_std = mean_and_std or (preprocessing.mean, preprocessing.std)
    if mean_and_std and mean_and_std[0] is not None and _in_units(*mean_and_std):
        config["mean"], config["std"] = ([float(v) for v in values] for values in mean_and_std)
    return {_ENTRY: json.dumps(config), _OWN_ENTRY: json.dumps(own)}


def _in_units(mean, std):
    """Whether these are of 0..1, as timm has them: a network may also divide by more than 255."""
    return all(0 <= value <= 1 for value in (*mean, *std))


def from_file(path):
    """Returns the `Preprocessing` that a `.safetensors` file states, or None."""
    config, own = _read(path, _ENTRY), _read(path, _OWN_ENTRY)
    try:
        if not {"input_size", "crop_pct", "interpolation", "mean", "std"} <= config.keys():
            return None
        channels, *size = config["input_size"]
        crop, orientation = (config["crop_pct"], config["interpolation"]), own.get("orientation", "stored")
        return Preprocessing(size, channels, *crop, orientation, config["mean"], config["std"])
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} holds a damaged {_ENTRY}: {error}") from None


def activation_of(path):
    """Returns the activation that a `.safetensors` file of this package states, or None."""
    activation = _read(path, _OWN_ENTRY).get("activation")
    return activation if activation in RANGES else None


def _read(path, entry):
    """Returns the dictionary that an entry of a `.safetensors` file's metadata holds."""
    if not path.endswith(".safetensors"):
        return {}
    try:
        with safe_open(path, "numpy") as file:
            return dict(json.loads((file.metadata() or {}).get(entry, "{}")))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} holds a damaged {entry}: {error}") from None
