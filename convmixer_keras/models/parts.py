"""What a ConvMixer is made of, read off a model once for everybody, or why it is none."""

from dataclasses import dataclass
from typing import NamedTuple

import keras
import numpy as np

from convmixer_keras.models import graph, outputs
from convmixer_keras.models.presets import Sizes
from convmixer_keras.utils.errors import InputError

_CONVOLUTION = {"data_format": "channels_last", "dilation_rate": (1, 1), "use_bias": True}
_STEM = {**_CONVOLUTION, "padding": "valid", "groups": 1}
_POINTWISE = {**_CONVOLUTION, "kernel_size": (1, 1), "strides": (1, 1), "groups": 1}
_DEPTHWISE = {**_CONVOLUTION, "padding": "same", "strides": (1, 1), "depth_multiplier": 1}
_POOLINGS = {keras.layers.GlobalAveragePooling2D: "avg", keras.layers.GlobalMaxPooling2D: "max"}
_NORMS = {keras.layers.BatchNormalization: "batch", keras.layers.LayerNormalization: "layer"}
# Activations of scores as layers, with what they must have: their names alone then say what they compute.
_ACTIVATIONS = {
    keras.layers.Activation: {},
    keras.layers.Softmax: {},
    keras.layers.ReLU: {"max_value": None, "negative_slope": 0.0, "threshold": 0.0},
    keras.layers.ELU: {"alpha": 1.0},
}
_NORM = {"center": True, "scale": True, "rms_scaling": False}


class Convolution(NamedTuple):
    """A convolution with its activation, and the normalisation behind it: two layers."""

    layer: keras.Layer
    norm: keras.Layer


class Block(NamedTuple):
    """A depthwise `Convolution`, the layer that adds the block's input (or None), and a pointwise one."""

    depthwise: Convolution
    add: keras.Layer | None
    pointwise: Convolution


@dataclass(frozen=True)
class Parts:
    """A ConvMixer taken apart.

    Attributes:
        image: The tensor that the network takes. It is the model's input unless something stands in front.
        input_normalization: The layer that normalises pixels, or None.
        mean, std: What it subtracts from each channel and then divides by, float64, in 0..255; or None.
        stem: The patch embedding.
        pool, head: The pooling layer and the classifier, a dense layer; or None.
        head_activation: Name of the activation with which scores end, the head's or a layer's behind it:
            "linear" for logits; None without a head.
        activation: Name of the Keras activation of all convolutions.
        normalization: "batch" or "layer", as all are.
        epsilon: That of all normalisations.
        residual: Whether blocks add their input.
    """

    image: keras.KerasTensor
    input_normalization: keras.Layer | None
    mean: np.ndarray | None
    std: np.ndarray | None
    stem: Convolution
    blocks: tuple[Block, ...]
    pool: keras.Layer | None
    head: keras.Layer | None
    head_activation: str | None
    activation: str
    normalization: str
    epsilon: float
    residual: bool

    @property
    def sizes(self):
        """The network's `Sizes`."""
        patch_size, _, channels, hidden_dim = self.stem.layer.kernel.shape
        kernel_size = self.blocks[0].depthwise.layer.kernel.shape[0]
        classes = None if self.head is None else self.head.units
        return Sizes(hidden_dim, len(self.blocks), kernel_size, patch_size, channels, classes)

    @property
    def pooling(self):
        """ "avg", "max", or None."""
        return None if self.pool is None else _POOLINGS[type(self.pool)]

    @property
    def layers(self):
        """Dictionary from the name that a layer with weights has in `ConvMixer` to the layer, in order."""
        short = "bn" if self.normalization == "batch" else "ln"
        layers = {"stem_conv": self.stem.layer, f"stem_{short}": self.stem.norm}
        for i, block in enumerate(self.blocks):
            for half in ("depthwise", "pointwise"):
                layers[f"block{i}_{half}"], layers[f"block{i}_{half}_{short}"] = getattr(block, half)
        return layers if self.head is None else {**layers, "head": self.head}

    def maps(self, x):
        """Applies the network's layers to a tensor like `image`; returns the features after each block."""

        def applied(convolution, x):
            return convolution.norm(convolution.layer(x))

        maps, x = [], applied(self.stem, self.input_normalization(x) if self.input_normalization else x)
        for block in self.blocks:
            y = applied(block.depthwise, x)
            x = applied(block.pointwise, block.add([x, y]) if block.add else y)
            maps.append(x)
        return maps


def of(model):
    """Takes a ConvMixer apart.

    The graph is followed from its output to what the network takes, through nested models and past layers
    that do nothing in prediction, such as `Dropout`. Layers are known by what they do, not by their names.
    What stands in front of the network is not looked at.

    Raises:
        InputError: If the model is not what `ConvMixer` builds; the message names the layer that differs.
    """
    if not isinstance(model, keras.Model):
        raise InputError(f"model must be a keras.Model, got {type(model).__name__}")
    if len(getattr(model, "inputs", None) or ()) != 1 or len(model.outputs) != 1:
        raise InputError(f"{model.name} is not a ConvMixer: it must have one input and one output")
    walk = _Walk(model)
    pool, head, head_activation = walk.top()
    blocks, convolution = [], walk.convolution(keras.layers.Conv2D)
    while isinstance(walk.layer, (keras.layers.Add, *_NORMS)):  # So it is pointwise: the stem takes an image.
        walk.check(convolution.layer, _POINTWISE)
        blocks.insert(0, walk.block(convolution))
        convolution = walk.convolution(keras.layers.Conv2D)
    patch = (convolution.layer.kernel_size[0],) * 2
    walk.check(convolution.layer, {**_STEM, "kernel_size": patch, "strides": patch})
    if not blocks:
        walk.refuse(convolution.layer, "stands where one has its blocks")
    normalization = mean = std = None
    if isinstance(walk.layer, keras.layers.Normalization):
        normalization = walk.step(keras.layers.Normalization)
        walk.check(normalization, {"invert": False})
        channels = convolution.layer.kernel.shape[2]
        mean, std = (np.broadcast_to(values, channels) for values in statistics(normalization))
    return Parts(
        image=walk.tensor,
        input_normalization=normalization,
        mean=mean,
        std=std,
        stem=convolution,
        blocks=tuple(blocks),
        pool=pool,
        head=head,
        head_activation=head_activation,
        **walk.common,
    )


def statistics(normalization):
    """Returns what a `Normalization` layer subtracts and what it then divides by, as float64 arrays."""
    mean, variance = (
        keras.ops.convert_to_numpy(values).reshape(-1).astype(np.float64)
        for values in (normalization.mean, normalization.variance)
    )
    return mean, np.maximum(np.sqrt(variance), keras.config.epsilon())


def check_finite(model):
    """Raises InputError, which names the weight, if one is not a number or infinite."""
    for weight in model.weights:
        if not np.isfinite(keras.ops.convert_to_numpy(weight).astype(np.float32)).all():
            raise InputError(f"the weights {weight.path} of {model.name} hold NaN or infinite values")


def _long(tensor):
    """Returns the sides of a tensor that are longer than 1: others may come and go, as behind a pooling."""
    return [side for side in tensor.shape[1:] if side != 1]


class _Walk:
    """Goes from a model's output towards its input, one layer at a time, and refuses what is no ConvMixer.

    Attributes:
        tensor: Where the walk stands.
        layer: The layer that gives this tensor: none that only holds others or passes numbers on.
        taken: The tensors that this layer takes.
    """

    def __init__(self, model):
        self.model = model
        self.common = {}  # What all convolutions or all blocks have, as those nearest the output have it.
        self.around = ()  # For each nested model that the walk is in, what its inputs are outside.
        self.to(model.outputs[0])

    def to(self, tensor):
        """Goes to a tensor that the layer takes."""
        self.tensor = tensor
        self.layer, self.taken = graph.producer(tensor)
        if graph.has_graph(self.layer):
            outside = dict(zip(map(id, self.layer.inputs), self.taken, strict=True))
            self.around = (*self.around, outside)
            self.to(graph.inside(self.layer, tensor))
        elif self.around and isinstance(self.layer, keras.layers.InputLayer):
            *self.around, outside = self.around
            self.to(outside[id(tensor)])
        elif self.taken and outputs.passes_on(self.layer) and _long(tensor) == _long(self.taken[0]):
            self.to(self.taken[0])

    def refuse(self, layer, why):
        raise InputError(
            f"{self.model.name} is not a ConvMixer: layer {layer.name!r} ({type(layer).__name__}) {why}"
        )

    def check(self, layer, wanted):
        """Refuses a layer whose attributes are not the wanted ones, or whose weights are not plain."""
        for attribute, value in wanted.items():
            if getattr(layer, attribute, value) != value:
                self.refuse(layer, f"must have {attribute} {value}, got {getattr(layer, attribute)}")
        if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False):
            self.refuse(layer, "is quantised or has LoRA weights")

    def alike(self, layer, name, value):
        """Refuses a layer that has not what the others have."""
        if self.common.setdefault(name, value) != value:
            self.refuse(layer, f"must have {name} {self.common[name]}, got {value}")

    def step(self, *kinds, inputs=1):
        """Goes past a layer of one of these kinds, and returns it."""
        layer = self.layer
        if type(layer) not in kinds or len(self.taken) != inputs:
            self.refuse(layer, f"stands where one has {' or '.join(kind.__name__ for kind in kinds)}")
        self.to(self.taken[0])
        return layer

    def top(self):
        """Returns pooling and head, each a layer or None, and the activation of the scores or None."""
        last, head, activation = self.layer, None, None
        if outputs.is_activation(last):
            activation = outputs.activation_of(last)
            if isinstance(last, keras.Layer):
                if type(last) not in _ACTIVATIONS:
                    self.refuse(last, f"is none of {', '.join(kind.__name__ for kind in _ACTIVATIONS)}")
                self.check(last, _ACTIVATIONS[type(last)])
            self.to(self.taken[0])
        if isinstance(self.layer, keras.layers.Dense):
            head = self.step(keras.layers.Dense)
            self.check(head, {"use_bias": True})
            if activation is None:
                activation = outputs.activation_of(head)
            elif head.activation is not keras.activations.linear:
                self.refuse(last, f"is a second activation behind {head.name!r}")
        elif activation is not None:
            self.refuse(last, "stands behind no classifier")
        pool = None
        if head is not None or type(self.layer) in _POOLINGS:
            pool = self.step(*_POOLINGS)
            self.check(pool, {"data_format": "channels_last", "keepdims": False})
        return pool, head, activation

    def block(self, pointwise):
        """Goes past the addition and the depthwise convolution of a block, and returns the `Block`."""
        self.alike(self.layer, "residual", isinstance(self.layer, keras.layers.Add))
        add = given = None
        if self.common["residual"]:
            half, around = self.taken[-1], self.around
            add = self.step(keras.layers.Add, inputs=2)
            given = self.tensor
            self.around = around
            self.to(half)
        depthwise = self.convolution(keras.layers.DepthwiseConv2D)
        self.check(depthwise.layer, {**_DEPTHWISE, "kernel_size": (depthwise.layer.kernel_size[0],) * 2})
        if add is not None and given is not self.tensor:
            self.refuse(add, f"must add what {depthwise.layer.name!r} takes")
        return Block(depthwise, add, pointwise)

    def convolution(self, kind):
        """Goes past a normalisation and a convolution, and returns the `Convolution`."""
        norm = self.step(*_NORMS)
        self.check(norm, _NORM)
        self.alike(norm, "normalization", _NORMS[type(norm)])
        self.alike(norm, "epsilon", norm.epsilon)
        axis = norm.axis if isinstance(norm.axis, int) else norm.axis[0]
        if axis not in (-1, 3):
            self.refuse(norm, f"must have axis -1, got {axis}")
        layer = self.step(kind)
        self.alike(layer, "activation", outputs.activation_of(layer))
        return Convolution(layer, norm)
