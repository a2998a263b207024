"""The network of a run: built from its recipe, or started from a trained body."""

import contextlib
import dataclasses

from convmixer_keras.models import parts as anatomy
from convmixer_keras.models.convmixer import ConvMixer
from convmixer_keras.models.keras_file import check_weights_file, sizes_of_weights
from convmixer_keras.models.saving import load_model, load_weights
from convmixer_keras.utils.errors import InputError

_SIZES = ("hidden_dim", "depth", "kernel_size", "patch_size")


def build_model(recipe, channels, classes):
    """Builds a recipe's network. It takes raw pixels, (batch, image_size, image_size, channels), 0..255."""
    return ConvMixer(
        recipe.hidden_dim,
        recipe.depth,
        recipe.kernel_size,
        recipe.patch_size,
        activation=recipe.activation,
        normalization=recipe.normalization,
        residual=recipe.residual,
        input_mean=[255 * m for m in _repeat_for_channels(recipe.mean, channels)],
        input_std=[255 * s for s in _repeat_for_channels(recipe.std, channels)],
        input_shape=(recipe.image_size, recipe.image_size, channels),
        classes=classes,
    )


def _repeat_for_channels(values, channels):
    return values if len(values) == channels else values * channels


def recipe_for(path, recipe, preset=None):
    """Returns a recipe with the network of a trained body in place of its own.

    Args:
        path: A `.keras` or `.weights.h5` file.
        recipe: A `Recipe`.
        preset: The published variant that the file is, or None.

    Returns:
        The `Recipe` with the file's sizes; with its activation and the normalisation of its pixels where a
        `.keras` file or the variant says them.

    Raises:
        InputError: If the file is not a ConvMixer's.
    """
    found = _sizes(path)
    network = {name: getattr(found, name) for name in _SIZES}
    if preset is not None:
        network |= {name: getattr(preset, name) for name in ("activation", "mean", "std")}
    elif str(path).endswith(".keras"):
        parts = anatomy.of(load_model(path))
        network["activation"] = parts.activation
        if parts.mean is not None:
            network["mean"], network["std"] = (
                tuple((values / 255).tolist()) for values in (parts.mean, parts.std)
            )
    return dataclasses.replace(recipe, **network)


def start_from(model, path, frozen_blocks=0):
    """Gives a ConvMixer the weights of another's body, and freezes a part of it.

    Args:
        model: A `keras.Model` from `build_model`.
        path: A `.keras` or `.weights.h5` file of a ConvMixer of the same sizes, whose classifier is taken too
            where the classes are as many; None leaves the weights as they are.
        frozen_blocks: The patch embedding and so many blocks stay as they are; 0 freezes nothing.

    Raises:
        InputError: If the file holds no ConvMixer or one of other sizes, or the model has fewer blocks.
    """
    if path is not None:
        _load_body(model, path)
    depth = anatomy.of(model).sizes.depth
    if not 0 <= frozen_blocks <= depth:
        raise InputError(f"freeze must be 0 to {depth}, the number of blocks, got {frozen_blocks}")
    frozen = ("stem_", *(f"block{i}_" for i in range(frozen_blocks))) if frozen_blocks else ()
    for layer in model.layers:
        layer.trainable = not layer.name.startswith(frozen)


def _load_body(model, path):
    found, wanted = _sizes(path), anatomy.of(model).sizes
    if found._replace(classes=None) != wanted._replace(classes=None):
        raise InputError(f"{path} holds {found}, which cannot start {wanted}")
    body = ConvMixer(
        *found[:2],
        found.kernel_size,
        found.patch_size,
        include_top=found.classes is not None,
        classes=found.classes,
        input_shape=(None, None, found.channels),
    )
    load_weights(body, path)
    for layer in body.layers:
        if layer.weights and (layer.name != "head" or found.classes == wanted.classes):
            model.get_layer(layer.name).set_weights(layer.get_weights())


@contextlib.contextmanager
def thawed(model):
    """Within the block all layers are trainable, as in a file that others may train on from."""
    frozen = [layer for layer in model.layers if not layer.trainable]
    for layer in frozen:
        layer.trainable = True
    try:
        yield
    finally:
        for layer in frozen:
            layer.trainable = False


def _sizes(path):
    check_weights_file(path)
    found = sizes_of_weights(path)
    if found is None:
        raise InputError(f"{path} holds no ConvMixer to start from")
    return found
