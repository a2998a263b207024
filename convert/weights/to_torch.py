"""Keras ConvMixers to PyTorch state dicts with the same outputs."""

import numpy as np

from convmixer_keras.convert.weights import layouts
from convmixer_keras.convert.weights.layouts import OFFICIAL, TIMM
from convmixer_keras.models import sizes
from convmixer_keras.utils.errors import InputError

TARGETS = {layout.name: layout for layout in (TIMM, OFFICIAL)}


def to_state_dict(model, layout="timm"):
    """Returns a Keras ConvMixer's weights as a PyTorch state dict, every bit as it is.

    Args:
        model: A `keras.Model` from one of this package's builders, with its classifier.
        layout: "timm" or "official" (the authors' `nn.Sequential`).

    Returns:
        A dict from name to array: float32, and the int64 counters that PyTorch expects.

    Raises:
        InputError: If the layout is unknown; if the model is not a ConvMixer, has no classifier or is one
            of the ablations without counterpart; or if weights are not finite.
    """
    if layout not in TARGETS:
        raise InputError(f"layout must be one of {', '.join(TARGETS)}, got {layout!r}")
    sizes = model_sizes(model)
    state = {}
    for layer, module in TARGETS[layout].module_names(sizes.depth).items():
        for tensor, array in zip(
            layouts.tensor_names(layer), model.get_layer(layer).get_weights(), strict=True
        ):
            if not np.isfinite(array).all():
                raise InputError(f"{layer} of the model holds NaN or infinite values")
            state[f"{module}.{tensor}"] = layouts.to_torch_axes(layer, array)
        if layouts.is_norm(layer):
            state[f"{module}.num_batches_tracked"] = np.array(0, np.int64)
    return state


def model_sizes(model):
    """Returns the `Sizes` of a Keras ConvMixer with its classifier, or raises InputError."""
    layers = {layer.name: layer for layer in model.layers if layer.weights}
    depth = sum(name.endswith("_depthwise") for name in layers)
    wanted = set(TIMM.module_names(depth))
    if layers.keys() != wanted or depth == 0:
        odd = sorted(wanted ^ layers.keys())
        raise InputError(
            "the model is not a ConvMixer with batch normalization and a classifier, from this package's "
            f"builders: its layers with weights differ in {', '.join(odd[:4]) or 'everything'}"
        )
    if any(f"block{i}_add" not in {layer.name for layer in model.layers} for i in range(depth)):
        raise InputError("the model has no residual connections, and PyTorch's ConvMixer always has them")
    from convmixer_keras.models.structure import check_convmixer  # Imports Keras.

    check_convmixer(model)
    return sizes.of_model(model)


def model_activation(model):
    """Returns the name of a Keras ConvMixer's one activation, or raises InputError if it has several."""
    names = {layer.activation.__name__ for layer in model.layers if layer.weights and _is_convolution(layer)}
    if len(names) > 1:
        raise InputError(f"the model's activations differ: {', '.join(sorted(names))}")
    return names.pop()


def _is_convolution(layer):
    return layer.name != "head" and not layouts.is_norm(layer.name)
