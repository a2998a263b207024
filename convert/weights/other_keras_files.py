"""Weights files of other Keras ConvMixers: keras-cv's, kimm's, kmodels', or anyone's own class.

No code in them is run: only arrays and the settings beside them are read. The arrays come out as a PyTorch
checkpoint's would, with PyTorch's names and axes, so that everything after is the same.
"""

import json
import os
import re
import zipfile
from typing import NamedTuple

import numpy as np

from convmixer_keras.convert.weights.checkpoint_file import StoredTensor, finite_float32
from convmixer_keras.models.keras_file import check_weights_file
from convmixer_keras.utils.errors import InputError, first_line

ENDINGS = (".keras", ".weights.h5", ".h5")
# What Keras calls a layer's variables, or how it numbers them, in the order of PyTorch's names.
_NORM, _OTHER = ("weight", "bias", "running_mean", "running_var"), ("weight", "bias")
_TORCH_EPSILON = 1e-5
_KERAS_EPSILON = 1e-3
# keras-cv divides pixels by 255 and does nothing else.
_KERAS_CV_PIXELS = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
# Packages that build with PyTorch's epsilon, by how the registered names of their classes begin.
_WITH_TORCH_EPSILON = ("kimm>", "kmodels>")


class KerasFile(NamedTuple):
    """What `read` finds.

    Attributes:
        tensors: Dict from name to `StoredTensor`, with PyTorch's names of tensors and axes.
        activation: Name of the activation, or None where the file does not say.
        normalization: (mean, std) in units of 0..1 where the package is known to have its own, or None.
    """

    tensors: dict
    activation: str | None
    normalization: tuple | None


def read(path, epsilon=None):
    """Reads the names and shapes of a Keras file's arrays.

    Running variances come out as if the network had PyTorch's epsilon, 1e-5: larger by the difference of the
    two epsilons, which is the same function.

    Args:
        path: A `.keras`, `.weights.h5` or Keras 2 `.h5` file.
        epsilon: That of the network's normalisations, or None for what the file says or its class is known
            to have.

    Returns:
        A `KerasFile`.

    Raises:
        InputError: If the file is damaged or not a Keras file, or if neither it nor `epsilon` says which
            epsilon its normalisations have.
    """
    check_weights_file(path)
    try:
        return _read(path, epsilon)
    except InputError:
        raise
    except Exception as error:  # A damaged file can raise anything.
        raise InputError(f"{path} is damaged or not a Keras file: {first_line(error)}") from None


def _read(path, epsilon):
    import h5py

    config = {}
    if path.endswith(".keras"):
        archive = zipfile.ZipFile(path)
        config = json.loads(archive.read("config.json"))
        weights = h5py.File(archive.open("model.weights.h5"), "r")
    else:
        weights = h5py.File(path, "r")
        config = json.loads(weights.attrs.get("model_config", "{}"))
        weights = weights.get("model_weights", weights)
    if "stem_conv" in json.dumps(config):
        raise InputError(
            f"{path} is this package's own model; for a PyTorch file say --to timm or --to official"
        )

    layers = _keras_2_layers(weights) if "layer_names" in weights.attrs else _keras_3_layers(weights)
    if epsilon is None:
        epsilon = _epsilon(path, config, weights)
    tensors = {}
    for layer, arrays in layers.items():
        layer = re.sub(r"^(conv2d|depthwise_conv2d|batch_normalization)$", r"\1_0", layer)
        for name, array in zip(_NORM if len(arrays) == 4 else _OTHER, arrays, strict=False):
            shift = epsilon - _TORCH_EPSILON if name == "running_var" else 0.0
            tensors[f"{layer}.{name}"] = _stored(array, f"{layer}.{name}", path, shift)
    return KerasFile(
        tensors, _activation(config, weights), _KERAS_CV_PIXELS if _is_keras_cv(weights) else None
    )


def _keras_2_layers(weights):
    layers = {}
    for layer in weights.attrs["layer_names"]:
        group = weights[layer]
        names = list(group.attrs["weight_names"])
        if names:
            layers[_text(layer)] = [group[name] for name in names]
    return layers


def _keras_3_layers(weights):
    import h5py

    layers = {}

    def note(name, item):
        match = re.fullmatch(r"(?:.*/)?layers/([^/]+)/vars/\d+", name)
        if match and isinstance(item, h5py.Dataset):
            layers.setdefault(match[1], []).append(item)

    weights.visititems(note)
    # Normalisation of the input keeps a mean, a variance and a count, where it was adapted to data.
    return {
        name: arrays for name, arrays in layers.items() if not re.fullmatch(r"normalization(_\d+)?", name)
    }


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


def _epsilon(path, config, weights):
    stated = set(re.findall(r'"epsilon": ([\d.e-]+)', json.dumps(config)))
    if len(stated) == 1:
        return float(stated.pop())
    if str(config.get("registered_name", "")).startswith(_WITH_TORCH_EPSILON):
        return _TORCH_EPSILON
    if _is_keras_cv(weights):
        return _KERAS_EPSILON
    raise InputError(
        f"{path} does not say which epsilon its batch normalisations have: pass --epsilon 1e-5 (kimm and "
        "kmodels) or --epsilon 1e-3 (Keras' default)"
    )


def _activation(config, weights):
    """Returns the one activation of the layers in a file, or None where it names none or several."""
    if _is_keras_cv(weights):
        return "gelu"
    stated = set(re.findall(r'"activation": "(\w+)"', json.dumps(config))) - {"linear", "softmax"}
    return stated.pop() if len(stated) == 1 else None


def _is_keras_cv(weights):
    """Whether a Keras 2 file has keras-cv's layers, which call TensorFlow's GELU themselves."""
    return any(_text(name).startswith("tf.nn.gelu") for name in weights.attrs.get("layer_names", ()))


def _text(name):
    return name.decode() if isinstance(name, bytes) else str(name)


def is_keras_file(path):
    return os.fspath(path).endswith(ENDINGS)
