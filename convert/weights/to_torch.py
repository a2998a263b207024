"""Keras ConvMixers to PyTorch state dicts with the same outputs."""

import numpy as np

from convmixer_keras.convert.weights import layouts
from convmixer_keras.convert.weights.layouts import OFFICIAL, TIMM
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
    parts = convertible(model)
    state = {}
    for layer, module in TARGETS[layout].module_names(len(parts.blocks)).items():
        for tensor, array in zip(layouts.tensor_names(layer), parts.layers[layer].get_weights(), strict=True):
            state[f"{module}.{tensor}"] = layouts.to_torch_axes(layer, array)
        if layouts.is_norm(layer):
            state[f"{module}.num_batches_tracked"] = np.array(0, np.int64)
    return state


def convertible(model):
    """Returns the `Parts` of a Keras ConvMixer that PyTorch's has a counterpart of, or raises InputError."""
    from convmixer_keras.models import parts as anatomy  # Imports Keras.

    parts = anatomy.of(model)
    lacks = {
        "classifier": parts.head is not None,
        "batch normalization": parts.normalization == "batch",
        "residual connections": parts.residual,
        "average pooling": parts.pooling == "avg",
    }
    missing = [what for what, there in lacks.items() if not there]
    if missing:
        raise InputError(f"the model has no {' and no '.join(missing)}, which PyTorch's ConvMixer always has")
    anatomy.check_finite(model)
    return parts
