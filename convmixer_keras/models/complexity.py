"""How large a model is and how much it computes, counted from its layers."""

import math
from typing import NamedTuple

import keras

from convmixer_keras.models.graph import calls, has_graph
from convmixer_keras.utils.errors import InputError

_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_FULL = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D, keras.layers.Dense)


class Complexity(NamedTuple):
    """What a model costs.

    Attributes:
        parameters: Number of trainable parameters.
        multiply_adds: Multiplications with a kernel's weight for one input, in all convolutions and dense
            layers, in each of its calls where a layer is shared; biases, normalisation, activations and
            pooling are left out, as is usual.
    """

    parameters: int
    multiply_adds: int


def model_complexity(model: keras.Model, input_shape: tuple[int, int, int] | None = None) -> Complexity:
    """Counts the trainable parameters and the multiply-adds of any Keras model.

    Args:
        model: A functional or sequential `keras.Model` with one input.
        input_shape: Shape of one input without its batch dimension, (height, width, channels). Needed where
            the model leaves its height or width open.

    Returns:
        A `Complexity`.

    Raises:
        ValueError: If the size of a layer's output is not known; `input_shape` then has to say it.
        TypeError: If a layer multiplies by weights in a way that is not counted here.
    """
    parameters = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    if input_shape is not None:
        model = keras.models.clone_model(model, input_tensors=keras.Input(input_shape))
    return Complexity(parameters, _multiply_adds(model))


def _multiply_adds(model):
    in_order = reversed([*calls(model)])  # The first layer of unknown size is named.
    return sum(_of_call(layer, node.input_tensors, node.output_tensors[0]) for layer, node in in_order)


def _of_call(layer, inputs, output):
    if has_graph(layer):
        if any(None in tensor.shape[1:] for tensor in layer.inputs):  # Here it may know what it is given.
            layer = keras.models.clone_model(layer, input_tensors=keras.Input(inputs[0].shape[1:]))
        return _multiply_adds(layer)
    if not any(len(weight.shape) > 1 for weight in getattr(layer, "weights", ())):
        return 0
    if type(layer) not in (*_DEPTHWISE, *_FULL):
        counted = ", ".join(sorted(kind.__name__ for kind in (*_DEPTHWISE, *_FULL)))
        raise TypeError(f"layer {layer.name!r} is a {type(layer).__name__}; counted are {counted}")
    if None in output.shape[1:]:
        raise InputError(
            f"layer {layer.name!r} has the output shape {output.shape}: pass "
            "input_shape=(height, width, channels) to say for which image size to count"
        )
    # A kernel's last axis is its outputs', and of a depthwise one the last two; groups have fewer inputs.
    kernel = layer.kernel.shape[:-2] if type(layer) in _DEPTHWISE else layer.kernel.shape[:-1]
    return math.prod(output.shape[1:]) * math.prod(kernel)
