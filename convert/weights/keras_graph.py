"""The graph of another Keras program's model: a ConvMixer, or why it is none.

A `.keras` or `.h5` file of Keras' own layers holds its whole graph, which says what tensors alone do not: the
activation, the order of the layers, the residual connections, strides, padding, pooling, and what stands in
front of the network.
"""

import contextlib
import functools
import inspect
import itertools
import os
import tempfile

import h5py
import keras
import numpy as np

from convmixer_keras.convert.weights import to_torch
from convmixer_keras.convert.weights.activations import RANGES, known_name
from convmixer_keras.convert.weights.checkpoint_file import StoredTensor
from convmixer_keras.convert.weights.recognition import Checkpoint
from convmixer_keras.models import graph, outputs, parts
from convmixer_keras.utils.errors import InputError, first_line

# How activations are given where they are the exact ones; keras.ops and layers have these parameters.
_EXACT = {"approximate": False, "alpha": 1.0, "negative_slope": 0.0, "threshold": 0.0}
_PLACES = ((1, 2), (2, 1), (-3, -2), (-2, -3))


class _OfKeras2(keras.layers.DepthwiseConv2D):
    """Makes a layer of what Keras 2 wrote, whose `groups` Keras 3 refuses."""

    @classmethod
    def from_config(cls, config):
        return keras.layers.DepthwiseConv2D.from_config({k: v for k, v in config.items() if k != "groups"})


def load(path):
    """Returns the `keras.Model` in a file, or None where the file holds no graph of Keras' own layers."""
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Exception):  # Keras raises anything.
        # Keras goes by the name, which need not fit.
        is_old = h5py.is_hdf5(path)
        named = os.path.join(folder, "model.h5" if is_old else "model.keras")
        os.symlink(os.path.abspath(path), named)
        known = {"DepthwiseConv2D": _OfKeras2} if is_old else None
        model = keras.saving.load_model(named, custom_objects=known, compile=False)
        return model if graph.has_graph(model) else None
    return None


def read(model, path):
    """Returns the `Checkpoint` that the graph of a `keras.Model` shows.

    Raises:
        InputError: If it is not exactly a ConvMixer; the message names the file and the layer.
    """
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise InputError(f"{path} must hold a network with one input and one output")
    try:
        found = parts.of(_Plain().model(model))
        arrays = to_torch.torch_tensors(found)
        statistics, left_out = _in_front(found)
    except Exception as error:  # Keras, of an unusual graph.
        raise InputError(f"{path}: {first_line(error)}") from None
    if found.activation not in RANGES:
        raise InputError(
            f"{path} is not a ConvMixer: layer {found.stem.layer.name!r} has the activation "
            f"{found.activation}, none of {', '.join(RANGES)}"
        )
    if found.head_activation not in (None, "linear"):
        left_out.append(f"{found.head_activation} of the scores")
    return Checkpoint(
        path=path,
        layout="Keras graph",
        sizes=found.sizes,
        tensors={
            name: StoredTensor(array.shape, lambda array=array: array) for name, array in arrays.items()
        },
        keys={(layer, tensor): f"{found.layers[layer].name}.{tensor}" for layer, tensor in arrays},
        activation=found.activation,
        input_statistics=statistics,
        original=model,
        left_out=left_out,
    )


def _in_front(found):
    """Returns (mean, std) of the layers in front of the network, or None, and the names of those left out."""
    mean, std, left_out = np.float64(0), np.float64(1), []
    if found.input_normalization is not None:
        mean, std = found.mean, found.std
    tensor = found.image
    while not isinstance(producer := graph.producer(tensor)[0], keras.layers.InputLayer):
        kind = type(producer).__name__
        if isinstance(producer, keras.layers.Rescaling):
            scale = np.asarray(producer.scale, np.float64)
            if not np.all(scale > 0):
                raise InputError(f"the network multiplies its input by {scale}, which must be positive")
            mean, std = (mean - producer.offset) / scale, std / scale
        elif isinstance(producer, keras.layers.Normalization) and not producer.invert:
            shift, scale = parts.statistics(producer)
            mean, std = mean * scale + shift, std * scale
        elif outputs.augments(producer):
            left_out.append(f"{producer.name} ({kind})")
        elif not outputs.passes_on(producer):
            raise InputError(
                f"not a ConvMixer: layer {producer.name!r} ({kind}) stands before its patch "
                "embedding, where only rescaling, normalisation and augmentation can"
            )
        tensor = graph.producer(tensor)[1][0]
    if np.all(mean == 0) and np.all(std == 1):
        return None, left_out
    channels = found.sizes.channels
    return tuple(tuple(np.broadcast_to(values, channels).tolist()) for values in (mean, std)), left_out


class _Plain:
    """Rewrites a model with this package's layers: no models within, activations within convolutions.

    What has no such counterpart stays as it is, for `parts.of` to refuse by its name.
    """

    def __init__(self):
        self.names = {}

    def model(self, model):
        given = model.inputs[0]
        image = keras.Input(batch_shape=given.shape, dtype=given.dtype)
        return keras.Model(image, self.applied(model, image), name=model.name)

    def applied(self, operation, *arguments, **options):
        """Returns the tensor that an operation makes of others."""
        if isinstance(operation, keras.Sequential):
            return functools.reduce(lambda x, layer: self.applied(layer, x), operation.layers, arguments[0])
        if graph.has_graph(operation):
            return operation._run_through_graph(
                arguments, lambda inner: functools.partial(self.applied, inner)
            )
        kind, tensors = type(operation).__name__, keras.tree.flatten(arguments)
        if kind == "Add" and len(tensors) == 2:
            return keras.layers.Add(name=self.unused(operation.name))(sorted(tensors, key=_is_depthwise_half))
        plain = not (
            getattr(operation, "quantization_mode", None) or getattr(operation, "lora_enabled", False)
        )
        if plain and kind in ("Conv2D", "DepthwiseConv2D", "Dense"):
            return self.with_bias(operation, *tensors)
        if name := _activation(operation):
            before = graph.producer(tensors[0])[0]
            if getattr(before, "activation", None) is keras.activations.linear:
                before.activation = keras.activations.get(name)  # Of our copy.
                return tensors[0]
        if kind == "Mean" and operation.axis and tuple(operation.axis) in _PLACES:
            name = self.unused(operation.name)
            return keras.layers.GlobalAveragePooling2D("channels_last", name=name)(*tensors)
        if kind == "GlobalAveragePooling2D":
            return self.copy(operation, keepdims=False)(*tensors)
        if self.names.setdefault(operation.name, operation) is not operation:  # In two models within.
            copy = self.copy(operation)
            result = copy(*tensors)
            copy.set_weights(operation.get_weights())
            return result
        return operation(*arguments, **options)

    def with_bias(self, layer, x):
        """Applies a copy of a convolution or a dense layer that has a bias."""
        kind, weights, changes = type(layer), layer.get_weights(), {"use_bias": True}
        if kind is keras.layers.Conv2D and layer.groups == layer.filters == x.shape[-1] > 1:
            kind, weights[0] = keras.layers.DepthwiseConv2D, weights[0].transpose(0, 1, 3, 2)
        if kind is keras.layers.Conv2D and len(x.shape) == 2:  # Of the pooled features.
            kind, weights[0], changes["units"] = keras.layers.Dense, weights[0][0, 0], layer.filters
        copy = self.copy(layer, kind, **changes)
        result = copy(x)
        copy.set_weights(weights if layer.use_bias else [*weights, np.zeros(copy.bias.shape)])
        return result

    def copy(self, layer, kind=None, **changes):
        kind = kind or type(layer)
        config = layer.get_config() | changes | {"name": self.unused(layer.name)}
        if kind is not type(layer):
            known = inspect.signature(kind).parameters
            config = {name: value for name, value in config.items() if name in known}
        return kind.from_config(config)

    def unused(self, name):
        names = itertools.chain([name], (f"{name}_{i}" for i in itertools.count(1)))
        found = next(new for new in names if new not in self.names)
        self.names[found] = None
        return found


def _activation(operation):
    """Returns the name of an activation that stands alone, of `RANGES`, or None."""
    if any(getattr(operation, name, value) != value for name, value in _EXACT.items()):
        return None
    name = type(operation).__name__
    if name == "Activation":
        name = getattr(operation.activation, "__name__", "")
    if limit := getattr(operation, "max_value", None):
        name = f"relu{limit:g}"
    return known_name(name)


def _is_depthwise_half(tensor):
    """Whether a tensor is what a block adds to its input."""
    _, taken = graph.producer(tensor)
    return bool(taken) and isinstance(graph.producer(taken[0])[0], keras.layers.DepthwiseConv2D)
