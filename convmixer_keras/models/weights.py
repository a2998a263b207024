"""Weights for a ConvMixer out of a file, where what the file says of its network is what the model is."""

import math
import os
import re
import zipfile
from dataclasses import dataclass, field

import numpy as np

from convmixer_keras.images import preprocessing
from convmixer_keras.images.class_names import known_as
from convmixer_keras.models import graph, outputs
from convmixer_keras.models import parts as anatomy
from convmixer_keras.models.keras_file import check_weights_file
from convmixer_keras.models.presets import Sizes, for_channels
from convmixer_keras.models.saving import load_class_names, load_model
from convmixer_keras.utils import hub
from convmixer_keras.utils.errors import InputError, first_line

HUB_FILES = ("model.keras", ".keras", ".weights.h5")  # Of a repository, the first that there is.
# Of layers in a file of weights.
_NORMS = {"bn": "batch_normalization", "ln": "layer_normalization"}
_POOLINGS = {"global_average_pooling2d": "avg", "global_max_pooling2d": "max"}
_FACTS = ("activation", "normalization", "epsilon", "residual", "pooling")


@dataclass
class Stored:
    """A ConvMixer's weights in a file, and what is known of the network.

    Attributes:
        source: What the user calls the file.
        takes_pixels: Whether the network normalises pixels itself.
        facts: Dictionary of what is known of `activation`, `normalization`, `epsilon`, `residual`, `pooling`,
            `mean` and `std`, as in `Parts`; the last two also where the file only records them.
        arrays: Dictionary from the name of a layer in `ConvMixer` to its weights, a list of arrays.
        class_names: List of the classifier's classes, or None where the file does not say.
        prepared: Dictionary of what is known of how photographs became its input: `size`, (height, width),
            `crop_pct` and `interpolation`, as in `Preprocessing`.
    """

    source: str
    sizes: Sizes
    takes_pixels: bool
    facts: dict
    arrays: dict
    class_names: list | None = None
    prepared: dict = field(default_factory=dict)

    def match_classes(self, class_names):
        """Puts the classifier's outputs into the order of these classes, and drops it if it knows others.

        Of classes that the file does not name, as many may be the same: the classifier stays, to start from.

        Returns:
            Whether the classifier is known to be for these classes.
        """
        names = self.class_names
        if names is None or self.sizes.classes != len(class_names):
            return False
        theirs, ours = (list(map(known_as, group)) for group in (names, class_names))
        if theirs == ours:
            return True
        if sorted(theirs) == sorted(ours):
            order = [theirs.index(name) for name in ours]
            self.arrays["head"] = [array[..., order] for array in self.arrays["head"]]
            return True
        del self.arrays["head"]
        self.sizes = self.sizes._replace(classes=None)
        return False


def open_weights(source):
    """Opens a file of a ConvMixer's weights, by its path or as "hf://USER/REPO"; returns a `Stored`."""
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"weights must be a path or hf://USER/REPO, got {source!r}")
    source = os.path.expanduser(os.fspath(source))
    path = hub.download(source, HUB_FILES) if hub.is_name(source) else source
    if not os.path.isfile(path):
        raise InputError(f"weights must be the path of an existing file or hf://USER/REPO, got {path!r}")
    if not path.endswith((".keras", ".h5")):
        raise InputError(
            f"weights must be a .keras or .weights.h5 file, got {source}: a file of PyTorch's becomes one by "
            f"convmixer-convert {source} model.keras"
        )
    check_weights_file(path)
    return _of_model(source, path) if zipfile.is_zipfile(path) else _of_weights(source, path)


def load_weights(model, source, any_classes=False, any_channels=False):
    """Loads weights into a ConvMixer, or raises InputError, which says how they are another network's.

    Args:
        model: A `keras.Model` that `ConvMixer` built.
        source: As in `open_weights`, or a `Stored`.
        any_classes: Whether the classifier, and with it the pooling, may be another: it then stays as it is.
        any_channels: Whether images may have another number of channels, to which the patch embedding is
            fitted by `for_image_channels`.
    """
    stored = source if isinstance(source, Stored) else open_weights(source)
    ours = anatomy.of(model)
    body_only = any_classes and stored.sizes.classes != ours.sizes.classes
    theirs = stored.sizes._replace(classes=ours.sizes.classes) if body_only else stored.sizes
    if any_channels:
        theirs = theirs._replace(channels=ours.sizes.channels)
    refused = f"the weights of {stored.source} do not fit"
    if theirs != ours.sizes:
        raise InputError(f"{refused}: they are {stored.sizes}; the model is {ours.sizes}")
    differences = [
        f"{name} is {stored.facts[name]!r} in them and {getattr(ours, name)!r} in the model"
        for name in _FACTS
        if name in stored.facts
        and not (body_only and name == "pooling")
        and not _same(stored.facts[name], getattr(ours, name))
    ]
    differences += _differences_of_input(stored, ours)
    if differences:
        raise InputError(f"{refused}: {'; '.join(differences)}")
    for name, layer in ours.layers.items():
        if body_only and name == "head":
            continue
        arrays = stored.arrays[name]
        if name == "stem_conv" and any_channels:
            arrays = [for_image_channels(arrays[0], ours.sizes.channels), *arrays[1:]]
        try:
            layer.set_weights(arrays)
        except ValueError as error:
            raise InputError(f"{refused}: {name}: {first_line(error)}") from None


def for_image_channels(kernel, channels):
    """Returns a patch embedding's kernel (p, p, any, h) for images of so many channels, as timm's `in_chans`.

    For grey images the channels are summed. Otherwise they are repeated in turn, and scaled so that images
    whose channels are all alike give what they gave before.
    """
    given = kernel.shape[2]
    if given == channels:
        return kernel
    kernel = kernel.astype(np.float32)  # Those of the package are float16.
    if channels == 1:
        return kernel.sum(2, keepdims=True)
    return np.take(kernel, np.arange(channels) % given, 2) * (given / channels)


def _same(one, other):
    return math.isclose(one, other) if isinstance(one, float) else one == other


def _differences_of_input(stored, ours):
    """Says how what the weights were trained on differs from what the model gives to its first layer."""
    channels = ours.sizes.channels
    mean, std = (
        None if values is None else np.array(for_channels(values, channels))
        for values in map(stored.facts.get, ("mean", "std"))
    )
    if ours.mean is None and stored.takes_pixels:
        by = "" if mean is None else f" (mean {_numbers(mean)}, deviation {_numbers(std)})"
        return [
            f"their network takes pixels and normalises them{by}, and the model takes normalised channels: "
            "build it with include_preprocessing=True, or with input_mean and input_std"
        ]
    if ours.mean is None or mean is None:
        return []
    return [
        f"input_{name} is {_numbers(theirs)} in them and {_numbers(own)} in the model"
        for name, theirs, own in (("mean", mean, ours.mean), ("std", std, ours.std))
        if not np.allclose(theirs, own, rtol=1e-4, atol=1e-3)
    ]


def _numbers(values):
    return ", ".join(f"{value:.6g}" for value in values)


def _of_model(source, path):
    """Opens a `.keras` file, which holds its network's configuration."""
    try:
        model = load_model(path)
        parts = anatomy.of(model)
    except InputError as error:
        raise InputError(f"the weights of {source} cannot be taken: {error}") from None
    layer, taken = graph.producer(parts.image)
    while taken and (outputs.passes_on(layer) or outputs.augments(layer)):
        layer, taken = graph.producer(taken[0])
    if taken:
        in_front = f"layer {layer.name!r} stands in front of its network"
        raise InputError(f"the weights of {source} cannot be taken: {in_front}")
    facts = {name: getattr(parts, name) for name in _FACTS}
    record, sides = preprocessing.of(path), model.input_shape[1:3]
    prepared = {} if None in sides else {"size": sides}
    if record is not None:
        prepared = {name: getattr(record, name) for name in ("size", "crop_pct", "interpolation")}
    if parts.mean is not None:
        facts |= {"mean": parts.mean, "std": parts.std}
    elif record is not None and record.mean is not None:
        facts |= {"mean": 255 * np.array(record.mean), "std": 255 * np.array(record.std)}
    arrays = {name: layer.get_weights() for name, layer in parts.layers.items()}
    names = load_class_names(path)
    return Stored(source, parts.sizes, parts.mean is not None, facts, arrays, names, prepared)


def _of_weights(source, path):
    """Opens a `.weights.h5` file, which holds weights by kind of layer and number, and says little else."""
    layers = _layers_in(path)
    short = "ln" if "layer_normalization" in layers else "bn"
    head = layers.get("dense", [])
    arrays = {"head": head[0]} if head else {}
    try:
        stem, *pointwise = layers["conv2d"]
        depthwise = layers["depthwise_conv2d"]
        convolutions = {"stem": stem}
        for i, pair in enumerate(zip(depthwise, pointwise, strict=True)):
            convolutions[f"block{i}_depthwise"], convolutions[f"block{i}_pointwise"] = pair
        for (name, convolution), norm in zip(convolutions.items(), layers[_NORMS[short]], strict=True):
            arrays["stem_conv" if name == "stem" else name] = convolution
            arrays[f"{name}_{short}"] = norm
        patch_size, _, channels, hidden_dim = stem[0].shape
        classes = head[0][0].shape[1] if head else None
        sizes = Sizes(hidden_dim, len(depthwise), depthwise[0][0].shape[0], patch_size, channels, classes)
    except (IndexError, KeyError, TypeError, ValueError):  # Other layers, or other weights in them.
        raise InputError(f"the weights of {source} are not a ConvMixer's") from None
    facts = {"normalization": "layer" if short == "ln" else "batch"}
    if "input_layer" in layers:  # So that layers without weights are in the file, too.
        facts["residual"] = "add" in layers
        facts["pooling"] = next((name for kind, name in _POOLINGS.items() if kind in layers), None)
    return Stored(source, sizes, "normalization" in layers, facts, arrays)


def _layers_in(path):
    """Returns a dictionary from each kind of layer, such as "conv2d", to the arrays of each such layer."""
    import h5py

    found = {}

    def note(name, item):
        match = re.search(r"layers/([a-z0-9_]+?)(?:_(\d+))?/vars$", f"/{name}")
        if match and isinstance(item, h5py.Group):
            arrays = [item[key][()] for key in sorted(item, key=lambda key: (len(key), key))]
            found.setdefault(match[1], {})[int(match[2] or 0)] = arrays

    try:
        with h5py.File(path, "r") as file:
            file.visititems(note)
    except Exception as error:  # A damaged file can raise anything.
        raise InputError(f"{path} is damaged: {first_line(error)}") from None
    return {kind: [numbered[number] for number in sorted(numbered)] for kind, numbered in found.items()}
