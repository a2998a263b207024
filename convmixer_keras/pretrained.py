"""The weights that builders know by name: "imagenet" and "cifar10".

CIFAR-10's, in float16, are part of this package. ImageNet's are fetched once, converted once, and kept under
Keras' cache directory. Two files per variant, under `~/.keras/models/convmixer_keras` or with KERAS_HOME in
place of `~/.keras`:

    convmixer_768_32.in1k.weights.h5    the converted weights
    convmixer_768_32.in1k.json          where they came from, and SHA-256 of what was fetched and converted
"""

import json
import os
import warnings

import numpy as np

from convmixer_keras.convert.weights import checkpoint_file, to_keras
from convmixer_keras.models import presets
from convmixer_keras.models.saving import save_weights
from convmixer_keras.models.weights import load_weights, open_weights
from convmixer_keras.utils import extras, hub
from convmixer_keras.utils.errors import InputError, first_line
from convmixer_keras.utils.files import (
    make_folder,
    read_text,
    sha256_of,
    temporary_folder,
    written_whole,
)

# HF_ENDPOINT, as for Hugging Face's own tools, names a mirror of the hub.
HUB = "https://huggingface.co"
RELEASES = "https://github.com/locuslab/convmixer/releases/download/timm-v1.0"
NAMES = ("imagenet", "cifar10")
# Written by a model under the dtype policy float16.
CIFAR10_FILE = os.path.join(os.path.dirname(__file__), "convmixer_256_8_p2.cifar10.weights.h5")
RELEASE_FILES = {
    presets.CONVMIXER_1536_20.name: "convmixer_1536_20_ks9_p7.pth.tar",
    presets.CONVMIXER_768_32.name: "convmixer_768_32_ks7_p7_relu.pth.tar",
    presets.CONVMIXER_1024_20.name: "convmixer_1024_20_ks9_p14.pth.tar",
}


def load_published_weights(model, preset):
    """Gives a model the published weights of its variant.

    The classifier's are left out where the model has none, or one with another number of classes.

    The patch embedding is fitted to the number of channels that the model takes, as timm's `in_chans` does.

    Args:
        model: A `keras.Model` from the builder of `preset`.
        preset: A variant whose weights are published.

    Raises:
        InputError: If the variant's weights are not published; or if they can neither be found in the cache
            nor fetched: the message says which file to put where.
    """
    load_weights(model, weights_file(preset), any_classes=True, any_channels=True)


def open_body(source):
    """Opens a trained ConvMixer to start from.

    Args:
        source: The path of a `.keras` or `.weights.h5` file, "hf://USER/REPO", or the name of a builder that
            has published weights.

    Returns:
        A `Stored`.

    Raises:
        InputError: If there is no such body, or it is no ConvMixer.
    """
    preset = next((preset for preset in presets.PRESETS if preset.name == source), None)
    if preset is None:
        return open_weights(source)
    stored = open_weights(weights_file(preset))
    stored.source = source
    mean, std = (255 * np.array(values) for values in (preset.mean, preset.std))
    stored.facts |= {"activation": preset.activation, "mean": mean, "std": std}
    stored.class_names = preset.class_names
    stored.prepared = {"size": (preset.image_size, preset.image_size)}
    stored.prepared |= {name: getattr(preset, name) for name in ("crop_pct", "interpolation")}
    return stored


def check_published(preset, weights):
    """Raises InputError if a variant has no published weights of that name."""
    if preset.weights != weights:
        having = [other.name for other in presets.PRESETS if other.weights == weights]
        raise InputError(
            f"weights={weights!r} are published for {', '.join(having)}, got {preset.name}; weights may also "
            "be None or the path of a .weights.h5 or .keras file"
        )


def are_here(preset):
    """Whether a variant's published weights can be loaded without a network."""
    if preset.weights == "cifar10":
        return True
    names = (f"{_stem(preset)}.weights.h5", *(name for _, name in sources(preset)))
    return any(os.path.isfile(os.path.join(cache_folder(), name)) for name in names)


def weights_file(preset):
    """Returns the path of a variant's published weights (`.weights.h5`), fetching them if need be.

    Raises:
        InputError: As `load_published_weights`.
    """
    if preset.weights == "cifar10":
        return CIFAR10_FILE
    check_published(preset, "imagenet")
    weights, record = (os.path.join(cache_folder(), _stem(preset) + end) for end in (".weights.h5", ".json"))
    known = _read_record(record)
    if os.path.isfile(weights) and known:
        if sha256_of(weights) == known["converted_sha256"]:
            return weights
        warnings.warn(
            f"{weights} has changed since it was written (its SHA-256 is not the one in {record}); it is "
            "fetched and converted again",
            stacklevel=2,
        )
    _make_weights(preset, weights, record, known)
    return weights


def cache_folder():
    keras_home = os.environ.get("KERAS_HOME") or os.path.join("~", ".keras")
    return os.path.join(os.path.expanduser(keras_home), "models", "convmixer_keras")


def _stem(preset):
    return f"{preset.timm_name}.in1k"


def sources(preset):
    """Returns pairs (address, file name in the cache folder), in the order to try them."""
    hub = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
    release_file = RELEASE_FILES[preset.name]
    return (
        (f"{hub}/timm/{_stem(preset)}/resolve/main/model.safetensors", f"{_stem(preset)}.safetensors"),
        (f"{RELEASES}/{release_file}", release_file),
    )


def _make_weights(preset, weights, record, known):
    """Converts a checkpoint that the user put into the cache folder, or the first that can be fetched."""
    make_folder(cache_folder())
    failures = []
    for url, name in sources(preset):
        by_hand = os.path.join(cache_folder(), name)
        try:
            if os.path.isfile(by_hand):
                sha256 = _convert(by_hand, name, preset, weights, known)
            else:
                with temporary_folder(".fetching-", cache_folder()) as folder:
                    checkpoint = _fetch(url, name, preset, folder)
                    sha256 = _convert(checkpoint, name, preset, weights, known)
        except InputError as error:
            failures.append(str(error))
            continue
        new = {"name": name, "url": None if os.path.isfile(by_hand) else url, "sha256": sha256}
        with written_whole(record) as temporary, open(temporary, "w") as file:
            json.dump(new | {"converted_sha256": sha256_of(weights)}, file, indent=1)
        return
    url, name = sources(preset)[0]
    bundled = presets.CONVMIXER_256_8_P2.name
    # What failed stands in the middle, which a command leaves out of a long line.
    raise InputError(
        f"the ImageNet weights of {preset.name} cannot be fetched; name {bundled} instead, which works "
        f"offline. What failed: {'; '.join(failures)}. To put the weights there "
        f"by hand, save {url} as {os.path.join(cache_folder(), name)}"
    )


def _fetch(url, name, preset, folder):
    """Downloads a checkpoint into a folder and returns its path there."""
    import keras

    print(f"fetching {url}", flush=True)
    if name.endswith(checkpoint_file.SAFETENSORS):
        return hub.download(f"{hub.PREFIX}timm/{_stem(preset)}/model.safetensors", (), folder)
    if not extras.is_installed("torch"):
        raise InputError(f"{url} is pickled, which only PyTorch can read, and it is not installed")
    try:
        return keras.utils.get_file(name, url, cache_dir=folder, cache_subdir="")
    except Exception as error:  # It raises plain ones, and those of urllib.
        raise InputError(f"cannot fetch {url}: {first_line(error)}") from None


def _convert(checkpoint, name, preset, weights, known):
    """Writes a checkpoint's weights as `weights`, and returns the checkpoint's SHA-256."""
    sha256 = sha256_of(checkpoint)
    print(f"SHA-256 of {name}: {sha256}")
    if known.get("name") == name and known["sha256"] != sha256:
        warnings.warn(f"{name} has changed: its SHA-256 was {known['sha256']}, and is {sha256}", stacklevel=2)
    model = to_keras.convert_checkpoint(checkpoint, variant=preset)
    classes = model.output_shape[-1]
    if classes != preset.classes:
        raise InputError(f"{name} has {classes} classes, expected {preset.classes}")
    save_weights(model, weights)
    return sha256


def _read_record(path):
    """Returns the record, or {} if there is none or it is damaged."""
    try:
        record = json.loads(read_text(path))
        return record if {"name", "sha256", "converted_sha256"} <= record.keys() else {}
    except (ValueError, AttributeError, RecursionError):
        return {}
