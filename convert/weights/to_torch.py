"""Keras ConvMixers to PyTorch state dicts with the same outputs."""

from typing import TYPE_CHECKING

import numpy as np

from convmixer_keras.convert.weights import layouts
from convmixer_keras.convert.weights.layouts import LAYOUTS
from convmixer_keras.utils import checks
from convmixer_keras.utils.errors import InputError

if TYPE_CHECKING:
    import keras


def to_state_dict(model: "keras.Model", layout: str = "timm") -> dict[str, np.ndarray]:
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
    from convmixer_keras.models import parts  # Imports Keras.

    checks.one_of("layout", layout, LAYOUTS)
    found = parts.of(model)
    if found.head is None:
        raise InputError(f"{model.name} has no classifier ('head'), and PyTorch's ConvMixer always has one")
    state = {}
    modules = layouts.module_names(layout, found.sizes.depth)
    for (layer, tensor), array in torch_tensors(found).items():
        state[f"{modules[layer]}.{tensor}"] = array
        if tensor == "running_var":
            state[f"{modules[layer]}.num_batches_tracked"] = np.array(0, np.int64)
    return state


def torch_tensors(found):
    """Returns the weights of a model's `Parts` by (layer, tensor), such as ("block0_depthwise", "weight").

    They are float32 with PyTorch's axes, and variances are those that with PyTorch's epsilon, 1e-5, give the
    same function. Raises InputError for an ablation, which PyTorch's network cannot be, and for weights that
    are not finite.
    """
    if not found.residual:
        where = found.blocks[0].pointwise.layer.name
        raise InputError(f"not a ConvMixer: nothing is added to what {where!r} takes, no residual connection")
    if found.normalization != "batch":
        raise InputError(f"not a ConvMixer: layer {found.stem.norm.name!r} is no batch normalisation")
    if found.pooling == "max":
        raise InputError(f"not a ConvMixer: layer {found.pool.name!r} takes the maximum and not the average")
    tensors = {}
    for name, layer in found.layers.items():
        arrays = dict(zip(layouts.tensor_names(name), layer.get_weights(), strict=True))
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise InputError(f"layer {layer.name!r} holds NaN or infinite values")
        if "running_var" in arrays:
            variance = arrays["running_var"] + np.float32(layer.epsilon - layouts.EPSILON)
            arrays["running_var"] = np.maximum(variance, 0)
            # Where none is left for a smaller epsilon than PyTorch's, the scale makes up for it.
            dead = variance < 0
            arrays["weight"][dead] *= np.sqrt(layouts.EPSILON / (variance[dead] + layouts.EPSILON))
        for tensor, array in arrays.items():
            tensors[name, tensor] = layouts.to_torch_axes(name, array)
    return tensors
