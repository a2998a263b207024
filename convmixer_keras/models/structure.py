"""What a model is by its graph: exactly a ConvMixer or not, what it takes, and what it ends in."""

import keras
import numpy as np

from convmixer_keras.utils.errors import InputError

_SAME_EVERYWHERE = {"data_format": "channels_last", "dilation_rate": (1, 1), "use_bias": True}
_STEM = {**_SAME_EVERYWHERE, "padding": "valid", "groups": 1}
_DEPTHWISE = {**_SAME_EVERYWHERE, "padding": "same", "strides": (1, 1), "depth_multiplier": 1}
_POINTWISE = {**_SAME_EVERYWHERE, "kernel_size": (1, 1), "strides": (1, 1), "groups": 1}
_POOL = {"data_format": "channels_last", "keepdims": False}
_NORMS = {
    keras.layers.BatchNormalization: {"center": True, "scale": True},
    keras.layers.LayerNormalization: {"center": True, "scale": True, "rms_scaling": False},
}
# Layers that change neither the order nor the meaning of scores.
_PASSES_ON = (keras.layers.Flatten, keras.layers.Reshape, keras.layers.Dropout, keras.layers.Identity)


def check_convmixer(model):
    """Raises InputError unless a model is what `ConvMixer` builds, with finite weights; it names the layer.

    The graph is walked from the output to `stem_conv` and `input_normalization`; layers before those are not
    checked.

    Args:
        model: A `keras.Model`.
    """
    if not isinstance(model, keras.Model):
        raise InputError(f"model must be a keras.Model, got {type(model).__name__}")
    if not hasattr(model, "inputs") or len(model.inputs or ()) != 1 or len(model.outputs) != 1:
        raise InputError(f"{model.name} must be a ConvMixer with one input and one output")
    walk = _Walk(model)
    walk.top()
    names = {layer.name for layer in model.layers}
    depth = 0
    while f"block{depth}_depthwise" in names:
        depth += 1
    if not depth:
        raise InputError(f"{model.name} is not a ConvMixer: it has no layer 'block0_depthwise'")
    norm = keras.layers.BatchNormalization if "stem_bn" in names else keras.layers.LayerNormalization
    for i in reversed(range(depth)):
        walk.block(f"block{i}", norm, residual="block0_add" in names)
    walk.norm("stem", norm)
    stem = walk.step("stem_conv", keras.layers.Conv2D, _STEM)
    if stem.strides != stem.kernel_size:
        raise InputError(
            f"layer 'stem_conv' must have strides equal to its kernel size {stem.kernel_size}, "
            f"got {stem.strides}"
        )
    if "input_normalization" in names:
        walk.step("input_normalization", keras.layers.Normalization, {"invert": False})
    check_finite(model)


def check_finite(model):
    """Raises InputError, which names the weight, if one is not a number or infinite."""
    for weight in model.weights:
        values = keras.ops.convert_to_numpy(weight)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise InputError(f"the weights {weight.path} of {model.name} hold NaN or infinite values")


class _Walk:
    """Goes from a model's output towards its input, one layer at a time."""

    def __init__(self, model):
        self.model = model
        self.tensor = model.outputs[0]

    def step(self, name, kinds, wanted, inputs=1):
        """Checks the layer that gives the tensor, and goes on to what it takes; returns the layer."""
        layer, taken = _producer(self.tensor)
        kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        found = f"layer {layer.name!r} ({type(layer).__name__}) of {self.model.name}"
        if layer.name != name or type(layer) not in kinds or len(taken) != inputs:
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise InputError(f"{found} stands where a ConvMixer has {name!r} ({expected})")
        for attribute, value in wanted.items():
            if getattr(layer, attribute, value) != value:
                raise InputError(f"{found} must have {attribute} {value}, got {getattr(layer, attribute)}")
        if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False):
            raise InputError(f"{found} is quantised or has LoRA weights: only plain weights are converted")
        self.tensor = taken[0]
        return layer

    def top(self):
        names = {layer.name for layer in self.model.layers}
        if "head" in names:
            self.step("head", keras.layers.Dense, {"use_bias": True})
        if "pool" in names:
            kinds = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D)
            self.step("pool", kinds, _POOL)

    def block(self, name, norm, residual):
        self.norm(f"{name}_pointwise", norm)
        self.step(f"{name}_pointwise", keras.layers.Conv2D, _POINTWISE)
        before = None
        if residual:
            _, taken = _producer(self.tensor)
            self.step(f"{name}_add", keras.layers.Add, {}, inputs=2)
            before, self.tensor = taken
        self.norm(f"{name}_depthwise", norm)
        self.step(f"{name}_depthwise", keras.layers.DepthwiseConv2D, _DEPTHWISE)
        if before is not None and before is not self.tensor:
            raise InputError(
                f"layer '{name}_add' of {self.model.name} must add what '{name}_depthwise' takes"
            )

    def norm(self, name, norm):
        short = "bn" if norm is keras.layers.BatchNormalization else "ln"
        layer = self.step(f"{name}_{short}", norm, _NORMS[norm])
        axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
        if axis not in (-1, 3):
            raise InputError(f"layer {layer.name!r} of {self.model.name} must have axis -1, got {axis}")


def _producer(tensor):
    """Returns the layer that gives a symbolic tensor, and the tensors that it takes."""
    history = tensor._keras_history
    node = history.operation._inbound_nodes[history.node_index]
    return history.operation, node.input_tensors


def takes_pixels(model):
    """Returns whether a model takes raw pixels 0..255 and normalises them itself.

    A ConvMixer, alone or nested in another model, does so where a layer normalises or rescales. Any other
    model is assumed to.
    """
    layers = list(_layers(model))
    if all(layer.name != "stem_conv" for layer in layers):
        return True
    return any(isinstance(layer, (keras.layers.Normalization, keras.layers.Rescaling)) for layer in layers)


def _layers(model):
    """Yields the layers of a model and of the models nested in it."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer


def final_activation(model):
    """Returns the name of the activation that a model's scores come from: "softmax", "linear", ...

    Looks into nested models, and past layers that pass scores on unchanged, such as `Flatten`.
    """
    layers = list(model.layers)
    while layers:
        last = layers.pop()
        if isinstance(last, keras.Model):
            return final_activation(last)
        if isinstance(last, keras.layers.Softmax):
            return "softmax"
        name = getattr(getattr(last, "activation", None), "__name__", "linear")
        if name != "linear" or not isinstance(last, (*_PASSES_ON, keras.layers.Activation)):
            return name
    return "linear"
