"""Weights files of other Keras ConvMixers whose graph is not in the file: keras-cv's, kimm's, anyone's class.

No code in them is run: only arrays and the settings beside them are read. The arrays come out as a PyTorch
checkpoint's would, with PyTorch's names and axes, so that everything after is the same.
"""

import json
import os
import re
import zipfile

import h5py
import numpy as np

from convmixer_keras.convert.weights import layouts
from convmixer_keras.convert.weights.activations import known_name
from convmixer_keras.convert.weights.checkpoint_file import StoredTensor, finite_float32
from convmixer_keras.models import presets
from convmixer_keras.utils import limits
from convmixer_keras.utils.errors import InputError, arg, first_line

ENDINGS = (".keras", ".weights.h5", ".h5")
# With which epsilon packages build that do not write it down.
_EPSILONS = {"kimm": 1e-5, "kmodels": 1e-5, "keras_cv": 1e-3}
# keras-cv divides pixels by 255 and does nothing else.
_KERAS_CV_PIXELS = (3 * (0.0,), 3 * (255.0,))
# Settings that put the normalisation of ImageNet's pixels in front, and the deviations that it divides by:
# kimm takes them for variances.
_NORMALIZES = {
    "include_preprocessing": np.sqrt(presets.IMAGENET_STD),
    "include_normalization": np.array(presets.IMAGENET_STD),
}
_IN_FRONT = re.compile(r"(input_)?(normalization|rescaling)(_\d+)?$")
_NOT_LAYERS = {"optimizer", "seed_generator", "metrics"}


def is_keras_file(path):
    """Whether a file is one of Keras', by its name or its content."""
    if os.fspath(path).endswith(ENDINGS) or h5py.is_hdf5(path):
        return True
    return "config.json" in (limits.read_entries(path, "config.json") or ())


def read(path, epsilon=None):
    """Reads the names and shapes of the arrays in a `.keras`, `.weights.h5` or Keras 2 `.h5` file.

    Running variances come out as if the network had PyTorch's epsilon, 1e-5: larger by the difference of the
    two epsilons, which is the same function.

    Returns:
        A tuple: a dict from name to `StoredTensor`, with PyTorch's names of tensors and axes; the name of the
        activation; (mean, std) per channel in units of 0..255 with which the network normalises its input;
        "kimm", "kmodels" or "keras_cv". Each of the last three is None where the file does not say.
    """
    try:
        return _read(path, epsilon)
    except InputError:
        raise
    except Exception as error:  # A damaged file can raise anything.
        raise InputError(f"{path} is damaged or not a Keras file: {first_line(error)}") from None


def _read(path, epsilon):
    if zipfile.is_zipfile(path):
        archive = zipfile.ZipFile(path)
        config = json.loads(archive.read("config.json"))
        weights = h5py.File(archive.open("model.weights.h5"), "r")
    else:
        weights = h5py.File(path, "r")
        config = json.loads(weights.attrs.get("model_config", "{}"))
        weights = weights.get("model_weights", weights)

    layers = weights.get("layers", {})
    in_front = [name for name in layers if _IN_FRONT.match(name) and not len(layers[name].get("vars", ()))]
    if in_front and not config:
        raise InputError(
            f"{path} has a layer {in_front[0]!r}, and not the numbers by which it normalises the input: "
            "convert the whole model, a .keras file"
        )
    for kind, layer in _layers(config.get("config", {})):
        name = str(layer.get("name"))
        # keras-cv's layers call TensorFlow's GELU themselves.
        if kind in ("Lambda", "TFOpLambda", "SlicingOpLambda") and not name.startswith("tf.nn.gelu"):
            raise InputError(f"{path}: what layer {name!r} ({kind}) does is code, which is not run")
    names = _texts(weights, "layer_names")  # Of Keras 2.
    layers = _keras_2_layers(weights, names) if names else _keras_3_layers(weights)
    keras_cv = any(name.startswith("tf.nn.gelu") for name in names)
    package = "keras_cv" if keras_cv else str(config.get("registered_name")).partition(">")[0]
    package = package if package in _EPSILONS else None
    stated = _stated_epsilon(config) or _EPSILONS.get(package)
    if None not in (epsilon, stated) and epsilon != stated:
        raise InputError(f"{path} has the epsilon {stated:g}, got {epsilon:g}")
    epsilon = epsilon or stated
    if epsilon is None:
        raise InputError(
            f"{path} does not say which epsilon its batch normalisations have: give {arg('epsilon')}, "
            "1e-5 (kimm and kmodels) or 1e-3 (Keras' default)"
        )
    tensors = {}
    for layer, name in _numbered(layers).items():
        arrays = layers[layer]
        kind = layouts.NORM_TENSORS if len(arrays) == 4 else ("weight", "bias")
        for tensor, array in zip(kind, arrays, strict=False):
            shift = epsilon - layouts.EPSILON if tensor == "running_var" else 0.0
            tensors[f"{name}.{tensor}"] = _stored(array, f"{name}.{tensor}", path, shift)
    if keras_cv:
        rescales = any(name.startswith("rescaling") for name in names)
        stated = _input_statistics(config, package)
        return tensors, "gelu", stated or (_KERAS_CV_PIXELS if rescales else None), package
    return tensors, _stated_activation(config), _input_statistics(config, package), package


def _keras_2_layers(weights, names):
    """Returns the arrays of each layer, by the path that its weights' names begin with."""
    layers = {}
    for layer in names:
        for name in _texts(weights[layer], "weight_names"):
            path = name.split("/")[:-1]
            path = path if path[:1] == [layer] else [layer, *path]
            layers.setdefault(tuple(path), []).append(weights[layer][name])
    return layers


def _keras_3_layers(weights):
    layers = {}

    def note(name, item):
        path, _, number = name.rpartition("/vars/")
        path = tuple(part for part in path.split("/") if part != "layers")
        is_layer = not any(re.sub(r"_\d+$", "", part) in _NOT_LAYERS for part in path)
        if is_layer and number.isdecimal() and isinstance(item, h5py.Dataset):
            layers.setdefault(path, []).append(item)

    weights.visititems(note)
    return layers


def _numbered(paths):
    """Returns each layer's name; the first of several of a kind, which Keras does not number, is number 0."""
    known = {path[:end] for path in paths for end in range(len(path) + 1)}

    def part(path, end):
        first = (*path[: end - 1], f"{path[end - 1]}_1") in known
        return f"{path[end - 1]}_0" if first else path[end - 1]

    return {path: ".".join(part(path, end) for end in range(1, len(path) + 1)) for path in paths}


def _stored(array, name, path, shift):
    axes = None
    if len(array.shape) == 2:
        axes = (1, 0)
    elif len(array.shape) == 4:
        # (k, k, channels, 1) is depthwise, (k, k, in, out) is not.
        axes = (2, 3, 0, 1) if array.shape[3] == 1 < array.shape[2] else (3, 2, 0, 1)
    shape = tuple(array.shape) if axes is None else tuple(array.shape[axis] for axis in axes)

    def read():
        try:
            values = np.transpose(array[()], axes) + np.float32(shift)
        except Exception as error:  # Texts in place of numbers, a damaged chunk.
            raise InputError(f"{name} in {path} is damaged: {first_line(error)}") from None
        return finite_float32(values, name, path)

    return StoredTensor(shape, read)


def _stated_epsilon(config):
    # Of the layers: beside them the file keeps the optimizer's.
    stated = set(re.findall(r'"epsilon": ([\d.e-]+)', json.dumps(config.get("config", {}))))
    return float(stated.pop()) if len(stated) == 1 else None


def _stated_activation(config):
    """Returns the one activation that a configuration names, or None for none or several."""
    settings = [config.get("config", {})]
    # A dense layer is the classifier.
    settings += [layer for kind, layer in _layers(config.get("config", {})) if kind != "Dense"]
    stated = {known_name(layer.get("activation")) for layer in settings} - {None}
    return stated.pop() if len(stated) == 1 else None


def _input_statistics(config, package):
    settings = config.get("config", {})
    for name, std in _NORMALIZES.items():
        if package and settings.get(name) is True:
            return (255 * np.array(presets.IMAGENET_MEAN)).tolist(), (255 * std).tolist()
    mean, std = np.float64(0), np.float64(1)  # Of layers in front, each on what the one before it gives.
    for kind, layer in _layers(settings):
        if kind == "Rescaling":
            scale = np.asarray(layer["scale"], np.float64)
            mean, std = mean - std * layer.get("offset", 0) / scale, std / scale
        elif kind == "Normalization" and layer.get("mean") is not None:
            mean, std = mean + std * np.ravel(layer["mean"]), std * np.sqrt(np.ravel(layer["variance"]))
    return None if np.all(mean == 0) and np.all(std == 1) else (mean.tolist(), std.tolist())


def _layers(config):
    """Yields the class and the settings of each layer in a configuration, in order."""
    for value in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        if isinstance(value, dict) and isinstance(value.get("config"), dict):
            yield value.get("class_name"), value["config"]
        yield from _layers(value)


def _texts(group, attribute):
    texts = group.attrs.get(attribute, ())
    return [text.decode() if isinstance(text, bytes) else str(text) for text in texts]
