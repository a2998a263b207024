"""PyTorch ConvMixer checkpoints to Keras models with the same outputs."""

import dataclasses
import os
from typing import NamedTuple

import numpy as np

from convmixer_keras.convert.weights import checkpoint_file, layouts, other_keras_files, timm_config
from convmixer_keras.convert.weights.recognition import Recognised, recognise
from convmixer_keras.images import preprocessing
from convmixer_keras.models import presets
from convmixer_keras.utils import hub
from convmixer_keras.utils.errors import InputError

# Those that the PyTorch model also has, so that every conversion can be checked.
ACTIVATIONS = ("elu", "gelu", "hard_silu", "mish", "relu", "relu6", "selu", "silu", "tanh")

# Which file of a hub's repository to take, the best first.
HUB_FILES = (
    "model.safetensors",
    checkpoint_file.SAFETENSORS,
    "pytorch_model.bin",
    *checkpoint_file.PICKLED,
)


class Checkpoint(NamedTuple):
    """A checkpoint that has been recognised, its weights still in the file.

    Attributes:
        path: The file.
        recognised: Its `Recognised`.
        activation: Name of the Keras activation.
        preset: The published variant that the sizes are, or None.
        normalization: (mean, std) where the file's package has its own, or None.
    """

    path: str
    recognised: Recognised
    activation: str
    preset: presets.Preset | None
    normalization: tuple | None = None

    def __str__(self):
        known = f", as {self.preset.name}" if self.preset else ""
        return f"{self.recognised.layout} layout, {self.recognised.sizes}, {self.activation}{known}"

    def preprocessing(self, image_size=None):
        """Returns the `Preprocessing` that the file or its published variant states, or None.

        Args:
            image_size: Side of the images in pixels; None for the stated one.
        """
        record = timm_config.from_file(self.path)
        if record is None and self.preset and self.recognised.sizes.channels == len(self.preset.mean):
            record = preprocessing.published(self.preset, takes_pixels=False)
        if record is not None and self.normalization is not None:
            mean, std = self.normalization
            record = dataclasses.replace(record, mean=mean, std=std)
        if record is None or image_size is None:
            return record
        return dataclasses.replace(record, size=image_size)


def open_checkpoint(path, *, activation=None, variant=None, ema=False, include_top=True, epsilon=None):
    """Recognises the network in a checkpoint.

    Args:
        path: A PyTorch checkpoint (.safetensors, .pth, .pth.tar, .pt or .bin), the weights of another
            package's Keras ConvMixer (.keras, .weights.h5 or .h5), or "hf://USER/REPO", a Hugging Face
            repository that holds a checkpoint.
        activation: Name of the activation, one of `ACTIVATIONS`. A PyTorch checkpoint does not say it; it
            may be left out where the sizes are those of a published variant.
        variant: A `Preset`, or its builder's name such as "ConvMixer768_32", whose sizes the checkpoint
            has to have.
        ema: Whether to take the moving average of the weights instead of the weights.
        include_top: Whether the classifier is wanted; without, it need not be in the checkpoint.
        epsilon: That of the batch normalisations in a Keras file that does not say it; PyTorch's is 1e-5.

    Returns:
        A `Checkpoint`.

    Raises:
        InputError: If the file is not a complete ConvMixer checkpoint, or not of that variant, or if
            nothing says which activation it has.
    """
    path = hub.download(path, HUB_FILES) if hub.is_name(path) else os.fspath(path)
    if activation is not None and activation not in ACTIVATIONS:
        raise InputError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    normalization = None
    if other_keras_files.is_keras_file(path) and not ema:
        tensors, stated, normalization = other_keras_files.read(path, epsilon)
        activation = activation or stated
    elif epsilon is not None:
        raise InputError(f"epsilon is only for Keras files, got {path}")
    else:
        tensors = checkpoint_file.read_checkpoint(path, ema)
    in_order = path.endswith(checkpoint_file.PICKLED)
    recognised = recognise(tensors, path, include_top, in_order)
    if variant is None:
        preset = next((p for p in presets.PRESETS if not _differences(recognised.sizes, p)), None)
    else:
        preset = variant if isinstance(variant, presets.Preset) else _preset_named(variant)
        differences = _differences(recognised.sizes, preset)
        if differences:
            raise InputError(f"{path} is not {preset.name}: {', '.join(differences)}")
    if activation is None and preset is None:
        raise InputError(_which_activation(path, recognised.sizes))
    return Checkpoint(path, recognised, activation or preset.activation, preset, normalization)


def convert_checkpoint(
    path,
    *,
    activation=None,
    variant=None,
    ema=False,
    include_top=True,
    classes=None,
    include_preprocessing=False,
    image_size=None,
    epsilon=None,
):
    """Converts a PyTorch checkpoint into a Keras model.

    Args:
        path, activation, variant, ema, epsilon: As in `open_checkpoint`.
        include_top: Whether the model ends in the classifier, or in the feature map.
        classes: None keeps the checkpoint's classifier; a number starts a new one, with random weights.
        include_preprocessing: Whether the model takes raw RGB pixels 0..255 and normalises them with the
            constants of its published variant; otherwise it takes normalised channels, as the checkpoint
            does.
        image_size: Side of the images in pixels. None leaves height and width open.

    Returns:
        A `keras.Model` giving logits (batch, classes), or features without the top.

    Raises:
        InputError: As `open_checkpoint`, and for weights that are not finite.
    """
    if classes is not None and not include_top:
        raise InputError(f"classes is only allowed with include_top=True, got classes={classes}")
    checkpoint = open_checkpoint(
        path,
        activation=activation,
        variant=variant,
        ema=ema,
        include_top=include_top and classes is None,
        epsilon=epsilon,
    )
    normalization = None
    if include_preprocessing:
        record = checkpoint.preprocessing(image_size)
        if record is None:
            raise InputError(
                f"include_preprocessing is known for the published variants only, and {path} is not one"
            )
        normalization = record.mean, record.std
    return build(checkpoint, include_top, classes, normalization, image_size)


def build(checkpoint, include_top=True, classes=None, normalization=None, image_size=None):
    """Builds the Keras model of a `Checkpoint`.

    Args:
        checkpoint: A `Checkpoint`.
        include_top, classes, image_size: As in `convert_checkpoint`.
        normalization: (mean, std), each per channel in units of 0..1, for a model that takes raw pixels and
            normalises them; None for one that takes normalised channels.

    Returns:
        A `keras.Model`.
    """
    from convmixer_keras.models.convmixer import ConvMixer

    sizes, preset = checkpoint.recognised.sizes, checkpoint.preset
    mean, std = ([255 * v for v in values] for values in normalization) if normalization else (None, None)
    model = ConvMixer(
        sizes.hidden_dim,
        sizes.depth,
        sizes.kernel_size,
        sizes.patch_size,
        activation=checkpoint.activation,
        input_mean=mean,
        input_std=std,
        include_top=include_top,
        classes=(sizes.classes if classes is None else classes) if include_top else None,
        input_shape=(image_size, image_size, sizes.channels),
        name=None if preset is None else preset.name,
    )
    for layer, tensors in _by_layer(checkpoint.recognised.tensors).items():
        arrays = {tensor: stored.read() for tensor, stored in tensors.items()}
        if (arrays.get("running_var", np.zeros(1)) < 0).any():
            key = checkpoint.recognised.keys[layer, "running_var"]
            raise InputError(f"{key} in {checkpoint.path} holds negative values, and is a variance")
        weights = [layouts.to_keras_axes(layer, array) for array in arrays.values()]
        model.get_layer(layer).set_weights(weights)
    return model


def _by_layer(tensors):
    layers = {}
    for (layer, tensor), stored in tensors.items():
        layers.setdefault(layer, {})[tensor] = stored
    return layers


def _preset_named(variant):
    for preset in presets.PRESETS:
        if preset.name == variant:
            return preset
    names = ", ".join(preset.name for preset in presets.PRESETS)
    raise InputError(f"variant must be one of {names}, got {variant!r}")


def _differences(sizes, preset):
    """Says in which of the sizes that make a variant the two differ; fine-tuning may change the rest."""
    return [
        f"{name} is {getattr(sizes, name)} in the checkpoint and {getattr(preset, name)} in {preset.name}"
        for name in ("hidden_dim", "depth", "kernel_size", "patch_size")
        if getattr(sizes, name) != getattr(preset, name)
    ]


def _which_activation(path, sizes):
    near = [preset for preset in presets.PRESETS if (preset.hidden_dim, preset.depth) == (sizes[0], sizes[1])]
    hint = "".join(f" ({'; '.join(_differences(sizes, preset))})" for preset in near)
    return (
        f"{path} does not say which activation its network has, and it is no published variant: {sizes}"
        f"{hint}. Pass --activation, one of {', '.join(ACTIVATIONS)}"
    )
