"""Other programs' ConvMixer weights to Keras models with the same outputs."""

import math
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from convmixer_keras.convert.weights import (
    activations,
    checkpoint_file,
    keras_weights,
    layouts,
    timm_config,
)
from convmixer_keras.convert.weights.recognition import Checkpoint, recognise
from convmixer_keras.models import presets
from convmixer_keras.models.keras_file import check_weights_file
from convmixer_keras.utils import checks, hub
from convmixer_keras.utils.errors import InputError, arg
from convmixer_keras.utils.files import Path

if TYPE_CHECKING:
    import keras

# Which file of a hub's repository to take, the best first.
HUB_FILES = (
    "model.safetensors",
    checkpoint_file.INDEX,
    checkpoint_file.SAFETENSORS,
    "pytorch_model.bin",
    *checkpoint_file.PICKLED,
)


def open_checkpoint(
    path: Path,
    *,
    activation: str | None = None,
    variant: presets.Preset | str | None = None,
    ema: bool = False,
    include_top: bool = True,
    epsilon: float | None = None,
    prefix: str = "",
    ignore: Sequence[str] = (),
) -> Checkpoint:
    """Returns the `Checkpoint` in a file, with its activation.

    Args:
        path: A PyTorch checkpoint, the file of another program's Keras ConvMixer (.keras, .weights.h5 or
            .h5), or "hf://USER/REPO", a Hugging Face repository that holds a checkpoint.
        activation: Name of the activation, one of `activations.RANGES`. Tensors do not say it; it may be left
            out for a file of a published variant's name or tensors, and for one that states it: of Keras,
            or `.safetensors` of this package.
        variant: A `Preset`, or its builder's name such as "ConvMixer768_32", whose sizes the checkpoint
            has to have.
        ema: Whether to take the moving average of the weights instead of the weights.
        include_top: Whether the classifier is wanted; without, it need not be in the checkpoint.
        epsilon: That of the batch normalisations in a Keras file that does not say it; PyTorch's is 1e-5.
        prefix, ignore: Which tensors to take, as in `checkpoint_file.chosen`.

    Raises:
        InputError: If the file is not a complete ConvMixer checkpoint, or not of that variant; or if nothing
            says which activation it has, or its running means contradict it.
    """
    name = os.fspath(path)
    path = _download(path) if hub.is_name(path) else name
    checks.one_of("activation", activation, (None, *activations.RANGES))
    if epsilon is not None and not 0 < epsilon < math.inf:
        raise InputError(f"{arg('epsilon')} must be over 0 and finite, got {epsilon}")
    prefix = prefix.rstrip(".")
    package, is_keras_file = None, keras_weights.is_keras_file(path)
    if ema and (is_keras_file or path.endswith((checkpoint_file.SAFETENSORS, checkpoint_file.INDEX))):
        raise InputError(f"{path} holds no moving average (EMA) of the weights beside them")
    if not is_keras_file:
        if epsilon is not None:
            raise InputError(f"epsilon is only for Keras files, got {path}")
        tensors = checkpoint_file.read_checkpoint(path, ema=ema, prefix=prefix, ignore=ignore)
        checkpoint = recognise(tensors, path, include_top)
        checkpoint = checkpoint._replace(activation=timm_config.activation_of(path))
    elif checkpoint := _read_graph(path, include_top):
        if epsilon is not None:
            raise InputError(f"{path} states its epsilon, got {epsilon}")
        if prefix or ignore:
            raise InputError(
                f"{path} holds the graph of one network: {arg('prefix')} and {arg('ignore')} are for tensors"
            )
    else:
        tensors, stated, statistics, package = keras_weights.read(path, epsilon)
        checkpoint = recognise(checkpoint_file.chosen(tensors, path, prefix, ignore), path, include_top)
        checkpoint = checkpoint._replace(activation=stated, input_statistics=statistics)
    if None not in (activation, checkpoint.activation) and activation != checkpoint.activation:
        raise InputError(f"{path} states the activation {checkpoint.activation}, got {activation}")

    known = package or checkpoint.layout in layouts.LAYOUTS
    preset = _preset(checkpoint.sizes, variant, name, known)
    activation = activation or checkpoint.activation or (preset and preset.activation)
    if preset and variant is None and preset.activation != activation:
        preset = None  # Another network of the same sizes.
    if activation is None:
        raise InputError(_which_activation(checkpoint))
    if checkpoint.original is None and package is None:
        activations.check(activation, checkpoint)
    return checkpoint._replace(activation=activation, preset=preset)


def _download(name):
    path = hub.download(name, HUB_FILES)
    if path.endswith(checkpoint_file.INDEX):
        hub.download_beside(path, name, checkpoint_file.part_names(path))
    return path


def _read_graph(path, include_top):
    """Returns what `keras_graph.read` finds, or None where a Keras file does not hold its graph."""
    from convmixer_keras.convert.weights import keras_graph  # Imports Keras.

    check_weights_file(path)
    model = keras_graph.load(path)
    if model is None:
        return None
    if any(layer.name == "stem_conv" for layer in model.layers):
        raise InputError(
            f"{path} is this package's own model: convmixer-convert --to timm makes a PyTorch file of it"
        )
    checkpoint = keras_graph.read(model, path)
    if include_top and checkpoint.sizes.classes is None:
        raise InputError(
            f"{path} has no classifier: {arg('include_top', False)} or {arg('classes')} goes without"
        )
    return checkpoint


def convert_checkpoint(path: Path, *, image_size: int | None = None, **reading: Any) -> "keras.Model":
    """Converts a checkpoint into a Keras model, which takes what the checkpoint's network takes.

    Args:
        path: As in `open_checkpoint`.
        image_size: Side of the images in pixels. None leaves height and width open.
        **reading: Other arguments of `open_checkpoint`.

    Returns:
        A `keras.Model` giving logits (batch, classes), or without a classifier pooled features.

    Raises:
        InputError: As `open_checkpoint`, and for weights that are not finite.
    """
    return build(open_checkpoint(path, **reading), image_size=image_size)


def build(checkpoint, normalization=None, pooling="avg", classes=None, image_size=None):
    """Builds the Keras model of a `Checkpoint`.

    Args:
        checkpoint: A `Checkpoint`. Without a classifier, and without `classes`, the model gives features.
        normalization: (mean, std) per channel in units of 0..1, for a model that takes raw pixels and
            normalises them; None for one that takes what the checkpoint's network takes.
        pooling: "avg", or None for a model that gives the map of features.
        classes: None keeps the checkpoint's classifier; a number starts a new one, with random weights.
        image_size: As in `convert_checkpoint`.
    """
    from convmixer_keras.models.convmixer import ConvMixer

    sizes, preset = checkpoint.sizes, checkpoint.preset
    mean, std = checkpoint.input_statistics or (None, None)
    if normalization:
        mean, std = ([255 * v for v in values] for values in normalization)
    new_head = classes is not None
    classes = (classes or sizes.classes) if pooling else None
    model = ConvMixer(
        sizes.hidden_dim,
        sizes.depth,
        sizes.kernel_size,
        sizes.patch_size,
        activation=checkpoint.activation,
        input_mean=mean,
        input_std=std,
        include_top=classes is not None,
        pooling=pooling,
        classes=classes,
        input_shape=(image_size, image_size, sizes.channels),
        name=None if preset is None else preset.name,
    )

    def weight(layer, tensor):
        array = checkpoint.tensors[layer, tensor].read()
        if tensor == "running_var" and (array < 0).any():
            key = checkpoint.keys[layer, tensor]
            raise InputError(f"{key} in {checkpoint.path} holds negative values, and is a variance")
        return layouts.to_keras_axes(layer, array)

    for layer in layouts.module_names("timm", sizes.depth):
        if layer != "head" or (classes is not None and not new_head):
            weights = [weight(layer, tensor) for tensor in layouts.tensor_names(layer)]
            model.get_layer(layer).set_weights(weights)
    return model


def _preset(sizes, variant, name, known):
    """Returns the published variant that a file of these sizes is, or None.

    Without `variant` its name has to say so, or its tensors be called as in published files (`known`).
    """
    if variant is None:
        fitting = [preset for preset in presets.PRESETS if not sizes.differences(preset)]
        named = re.search(rf"convmixer_?{sizes.hidden_dim}_{sizes.depth}", os.path.basename(name).lower())
        return fitting[0] if fitting and (known or named) else None
    if not isinstance(variant, presets.Preset):
        names = {preset.name: preset for preset in presets.PRESETS}
        checks.one_of("variant", variant, names)
        variant = names[variant]
    differences = sizes.differences(variant)
    if differences:
        raise InputError(f"{name} is not {variant.name}: {', '.join(differences)}")
    return variant


def _which_activation(checkpoint):
    sizes = checkpoint.sizes
    near = [preset for preset in presets.PRESETS if (preset.hidden_dim, preset.depth) == sizes[:2]]
    hint = "".join(
        f" ({'; '.join(sizes.differences(preset)) or f'only of the sizes of {preset.name}'})"
        for preset in near
    )
    possible = ", ".join(activations.allowed(checkpoint)) or "none"
    return (
        f"{checkpoint.path} does not say which activation its network has, and neither its name nor its "
        f"tensors' are a published variant's: {sizes}{hint}. Give {arg('activation')}; its running means "
        f"allow {possible}"
    )
