"""The published ImageNet weights: fetched once, converted once, kept under Keras' cache directory.

Kept of each variant, under `~/.keras/models/convmixer_keras` or with KERAS_HOME in place of `~/.keras`:

    convmixer_768_32.in1k.weights.h5    the converted weights
    convmixer_768_32.in1k.json          where they came from, and SHA-256 of what was fetched and converted
"""

import hashlib
import http.client
import json
import os
import re
import tempfile
import urllib.error
import urllib.request
import warnings

from convmixer_keras import __version__, presets
from convmixer_keras.convert import torch_weights
from convmixer_keras.models.saving import save_weights
from convmixer_keras.utils import extras, progress
from convmixer_keras.utils.errors import InputError
from convmixer_keras.utils.files import written_whole

# HF_ENDPOINT, as for Hugging Face's own tools, names a mirror of the hub.
HUB = "https://huggingface.co"
RELEASES = "https://github.com/locuslab/convmixer/releases/download/timm-v1.0"
RELEASE_FILES = {
    presets.CONVMIXER_1536_20.name: "convmixer_1536_20_ks9_p7.pth.tar",
    presets.CONVMIXER_768_32.name: "convmixer_768_32_ks7_p7_relu.pth.tar",
    presets.CONVMIXER_1024_20.name: "convmixer_1024_20_ks9_p14.pth.tar",
}
# Of one read; the whole may take as long as it takes.
TIMEOUT_SECONDS = 30
_CHUNK = 1 << 18


def load_imagenet_weights(model, preset):
    """Gives a model the published weights of its variant.

    The classifier's are left out where the model has none, or one of other than the published classes.

    Args:
        model: A `keras.Model` from the builder of `preset`.
        preset: One of the three variants whose weights are published.

    Raises:
        InputError: If the variant's weights are not published or the model does not take 3 channels; or if
            the weights can neither be found in the cache nor fetched: the message says which file to put
            where.
    """
    layers = {layer.name: layer for layer in model.layers}
    channels = layers["stem_conv"].kernel.shape[2]
    if channels != len(preset.mean):
        raise InputError(
            f"weights='imagenet' are for images of {len(preset.mean)} channels, got {channels} channels"
        )
    published = _plain_model(preset)
    published.load_weights(imagenet_weights_file(preset))
    for layer in published.layers:
        if not layer.weights:
            continue
        if layer.name == "head" and ("head" not in layers or layers["head"].units != preset.classes):
            continue
        layers[layer.name].set_weights(layer.get_weights())


def check_published(preset):
    """Raises InputError if the variant's weights were never published."""
    if preset.name not in RELEASE_FILES:
        raise InputError(
            f"weights='imagenet' are published for {', '.join(RELEASE_FILES)}, got {preset.name}; weights "
            "may also be None or the path of a .weights.h5 or .keras file"
        )


def imagenet_weights_file(preset):
    """Returns the path of a variant's converted weights (`.weights.h5`), fetching them if need be.

    Raises:
        InputError: As `load_imagenet_weights`.
    """
    check_published(preset)
    weights, record = (os.path.join(cache_folder(), _stem(preset) + end) for end in (".weights.h5", ".json"))
    known = _read_record(record)
    if os.path.isfile(weights) and known:
        if sha256_of(weights) == known["converted_sha256"]:
            return weights
        warnings.warn(
            f"{weights} has changed since it was written (its SHA-256 is not the one in {record}); it is "
            "made anew",
            stacklevel=2,
        )
    _make_weights(preset, weights, record, known)
    return weights


def cache_folder():
    keras_home = os.environ.get("KERAS_HOME") or os.path.join("~", ".keras")
    return os.path.join(os.path.expanduser(keras_home), "models", "convmixer_keras")


def sha256_of(path):
    """Returns the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _stem(preset):
    return f"{preset.timm_name}.in1k"


def sources(preset):
    """Pairs of an address and the name in the cache folder of what is there, in the order to try them."""
    hub = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
    release_file = RELEASE_FILES[preset.name]
    return (
        (f"{hub}/timm/{_stem(preset)}/resolve/main/model.safetensors", f"{_stem(preset)}.safetensors"),
        (f"{RELEASES}/{release_file}", release_file),
    )


def _make_weights(preset, weights, record, known):
    """Converts a checkpoint put by hand into the cache folder or else the first that can be fetched."""
    try:
        os.makedirs(cache_folder(), exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {cache_folder()}: {error.strerror.lower()}") from None
    failures = []
    for url, name in sources(preset):
        by_hand = os.path.join(cache_folder(), name)
        try:
            if os.path.isfile(by_hand):
                sha256 = _convert(by_hand, preset, weights, known)
            else:
                with tempfile.TemporaryDirectory(prefix=".fetching-", dir=cache_folder()) as folder:
                    checkpoint = os.path.join(folder, name)
                    fetch(url, checkpoint)
                    sha256 = _convert(checkpoint, preset, weights, known)
        except InputError as error:
            failures.append(str(error))
            continue
        new = {"name": name, "url": None if os.path.isfile(by_hand) else url, "sha256": sha256}
        with written_whole(record) as temporary, open(temporary, "w") as file:
            json.dump(new | {"converted_sha256": sha256_of(weights)}, file, indent=1)
        return
    (hub_url, hub_name), (release_url, release_name) = sources(preset)
    raise InputError(
        f"the ImageNet weights of {preset.name} could not be had: {'; '.join(failures)}. To put them there "
        f"by hand, save {hub_url} as {os.path.join(cache_folder(), hub_name)}, or {release_url} as "
        f"{os.path.join(cache_folder(), release_name)}"
    )


def _convert(checkpoint, preset, weights, known):
    """Writes a checkpoint's weights as `weights`, and returns the checkpoint's SHA-256."""
    name, sha256 = os.path.basename(checkpoint), sha256_of(checkpoint)
    print(f"SHA-256 of {name}: {sha256}")
    if known.get("name") == name and known["sha256"] != sha256:
        warnings.warn(f"{name} has changed: its SHA-256 was {known['sha256']}, and is {sha256}", stacklevel=2)
    model = torch_weights.convert_checkpoint(checkpoint, variant=preset)
    classes = model.output_shape[-1]
    if classes != preset.classes:
        raise InputError(f"{name} has {classes} classes, expected {preset.classes}")
    save_weights(model, weights)
    return sha256


def _plain_model(preset):
    from convmixer_keras.models.convmixer import ConvMixer

    return ConvMixer(
        preset.hidden_dim,
        preset.depth,
        preset.kernel_size,
        preset.patch_size,
        activation=preset.activation,
        classes=preset.classes,
        input_shape=(None, None, len(preset.mean)),
    )


def _read_record(path):
    """Returns the record, or {} if there is none or it is damaged."""
    try:
        with open(path) as file:
            record = json.load(file)
        return record if {"name", "sha256", "converted_sha256"} <= record.keys() else {}
    except (OSError, ValueError, AttributeError):
        return {}


class _KeepsLinkedHash(urllib.request.HTTPRedirectHandler):
    """Remembers the SHA-256 that the hub states when it redirects to where the file is stored."""

    sha256 = None

    def redirect_request(self, request, file, code, message, headers, url):
        self.sha256 = _stated_sha256(headers) or self.sha256
        return super().redirect_request(request, file, code, message, headers, url)


def fetch(url, path):
    """Downloads a file, whole or not at all, and shows how far it is.

    Args:
        url: Its address.
        path: Where to put it.

    Raises:
        InputError: If it cannot be had, comes in shorter than announced, or is not what the hub's hash says.
    """
    if path.endswith(".pth.tar") and not extras.is_installed("torch"):
        raise InputError(f"{url} is pickled, which only PyTorch can read, and it is not installed")
    print(f"fetching {url}", flush=True)
    redirects = _KeepsLinkedHash()
    request = urllib.request.Request(url, headers={"User-Agent": f"convmixer-keras/{__version__}"})
    try:
        with (
            urllib.request.build_opener(redirects).open(request, timeout=TIMEOUT_SECONDS) as response,
            written_whole(path) as temporary,
        ):
            announced = response.headers.get("Content-Length", "")
            size = int(announced) if announced.isdigit() else None
            received, sha256 = _receive(response, temporary, size)
            if size is not None and received != size:
                raise InputError(f"{url} broke off after {received:,} of {size:,} bytes")
            stated = redirects.sha256 or _stated_sha256(response.headers)
            if stated not in (None, sha256):
                raise InputError(f"{url} came in damaged: its SHA-256 is {sha256}, and should be {stated}")
    except urllib.error.HTTPError as error:
        raise InputError(f"{url} answered {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise InputError(f"{url} could not be fetched: {reason or type(error).__name__}") from None


def _stated_sha256(headers):
    match = re.fullmatch(r'"?([0-9a-f]{64})"?', headers.get("X-Linked-Etag", ""))
    return match[1] if match else None


def _receive(response, path, size):
    """Writes what comes to `path`; returns the number of bytes and their SHA-256."""
    received, digest = 0, hashlib.sha256()
    chunks = progress.shown(
        iter(lambda: response.read(_CHUNK), b""),
        "fetched",
        None if size is None else size / 1e6,
        "MB",
        amount=lambda chunk: len(chunk) / 1e6,
    )
    with open(path, "wb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            received += len(chunk)
    return received, digest.hexdigest()
