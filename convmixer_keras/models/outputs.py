"""What a model ends in, read off its graph: logits, or what an activation makes of them."""

from typing import NamedTuple

import keras
from keras import layers

from convmixer_keras.images.scores import SCORES
from convmixer_keras.models import graph
from convmixer_keras.utils import checks
from convmixer_keras.utils.errors import InputError, arg

# What changes neither the order nor the meaning of scores in prediction. `keras.ops` have no public classes.
_PASSING_LAYERS = (layers.InputLayer, layers.Identity, layers.Flatten, layers.Reshape)
_PASSING_LAYERS += (layers.Dropout, layers.AlphaDropout, layers.GaussianDropout, layers.GaussianNoise)
_PASSING_OPERATIONS = ("Cast", "ExpandDims", "Flatten", "Identity", "Reshape", "Squeeze")
_ACTIVATION_LAYERS = (layers.ELU, layers.LeakyReLU, layers.PReLU, layers.ReLU, layers.Softmax)
_ACTIVATION_OPERATIONS = {"Softmax": "softmax", "Sigmoid": "sigmoid"}
_KINDS = {None: None, "linear": "logits", "softmax": "softmax", "sigmoid": "sigmoid"}


class Ending(NamedTuple):
    """What a model ends in.

    Attributes:
        kind: "logits", of a dense layer or a convolution; "softmax" or "sigmoid"; "other", for another
            activation such as ReLU; or None where the graph does not say, as for a sum or a pooling.
        layer: The last layer or operation that is more than a change of shape; it gives that kind.
    """

    kind: str | None
    layer: object


def ending(model):
    """Returns the `Ending` of a functional or sequential model with one input and one output."""
    if (len(model.inputs), len(model.outputs)) != (1, 1):
        raise InputError(
            f"{model.name} must have one input and one output, and has {len(model.inputs)} and "
            f"{len(model.outputs)}"
        )
    tensor = _last(model.outputs[0])
    layer, _ = graph.producer(tensor)
    kind = _KINDS.get(activation_of(layer), "other")
    along = getattr(layer, "axis", -1) in (-1, len(tensor.shape) - 1)
    # Of a map that is flattened, the scores of all places would stand in one row.
    if kind == "softmax" and not (along and tensor.shape[-1] == model.outputs[0].shape[-1]):
        kind = None
    return Ending(kind, layer)


def activation_of(layer):
    """Returns the name of the activation with which a layer or operation ends, or None.

    "linear" is that of a dense layer or a convolution without one.
    """
    if not isinstance(layer, keras.Layer):
        return _ACTIVATION_OPERATIONS.get(type(layer).__name__)
    if isinstance(layer, _ACTIVATION_LAYERS):
        return type(layer).__name__.lower()
    if isinstance(layer, layers.Activation) or hasattr(layer, "kernel"):
        activation = getattr(layer, "activation", None)
        return getattr(activation, "__name__", type(activation).__name__)
    return None


def is_activation(layer):
    """Whether a layer or operation is an activation, and has no weights before it."""
    return activation_of(layer) is not None and not hasattr(layer, "kernel")


# What begins so passes images on when a network is used. RandomCrop does not: it crops their centre.
_AUGMENTATION = ("AugMix", "CutMix", "MixUp", "Rand")


def augments(layer):
    """Whether a layer changes images in training alone."""
    kind = type(layer).__name__
    return kind.startswith(_AUGMENTATION) and kind != "RandomCrop"


def passes_on(layer):
    """Whether a layer, operation or nested model gives in prediction the numbers that it takes."""
    if graph.has_graph(layer):
        return all(map(passes_on, getattr(layer, "operations", layer.layers)))
    if isinstance(layer, layers.Activation):
        return layer.activation is keras.activations.linear
    if not isinstance(layer, keras.Layer):
        return type(layer).__name__ in _PASSING_OPERATIONS
    return isinstance(layer, _PASSING_LAYERS)


def probabilities(model, scores=None):
    """Returns a model that ends in probabilities, float32 under every dtype policy.

    Args:
        model: A functional or sequential `keras.Model` from images to one score for each class. Logits get a
            softmax; a single one, which can only be of two classes, a sigmoid.
        scores: "logits" or "probabilities", where the graph does not say what the scores are.

    Raises:
        InputError: If the graph does not say and `scores` is None, or the graph says otherwise.
    """
    checks.one_of("scores", scores, (None, *SCORES))
    kind, layer = ending(model)
    one = model.outputs[0].shape[-1] == 1
    if kind == "softmax" and one:
        raise InputError(f"{model.name} ends in a softmax over one class, which is 1 for every image")
    if kind in (None, "other"):
        if scores is None:
            raise InputError(
                f"{_described(model, layer)}, which may give logits or probabilities: {arg('scores')} "
                "must say 'logits' or 'probabilities'"
            )
    else:
        found = "logits" if kind == "logits" else "probabilities"
        if scores not in (None, found):
            raise InputError(f"{model.name} gives {found}, and {arg('scores')} says {scores!r}")
        scores = found
    if scores == "probabilities":
        return model
    activation = "sigmoid" if one else "softmax"
    last = layers.Activation(activation, dtype="float32", name="probabilities")
    return keras.Model(model.inputs[0], last(model.outputs[0]), name=model.name)


def logits_model(model):
    """Returns a model without its last activation, or raises InputError where none is known."""
    kind, layer = ending(model)
    if kind == "logits":
        return model
    if kind is None:
        raise InputError(f"{_described(model, layer)}: no logits are known")
    return keras.Model(model.inputs[0], _logits(model.outputs[0]), name=model.name)


def _described(model, layer):
    activation = getattr(layer, "activation", None) if hasattr(layer, "kernel") else None
    by = f" with {getattr(activation, '__name__', type(activation).__name__)}" if activation else ""
    return f"{model.name} ends in {layer.name!r} ({type(layer).__name__}{by})"


def _last(tensor):
    """Returns the output of the last layer that does not only pass numbers on."""
    layer, taken = graph.producer(tensor)
    if passes_on(layer) and taken:
        return _last(taken[0])
    return _last(graph.inside(layer, tensor)) if graph.has_graph(layer) else tensor


def _logits(tensor):
    """Returns what a tensor of scores is without its last activation."""
    layer, taken = graph.producer(tensor)
    if passes_on(layer):
        return layer(_logits(taken[0]))
    if graph.has_graph(layer):
        return logits_model(layer)(taken[0])
    if is_activation(layer):
        return taken[0]
    linear = type(layer).from_config(layer.get_config() | {"activation": "linear"})
    logits = linear(taken[0])
    linear.set_weights(layer.get_weights())
    return logits
