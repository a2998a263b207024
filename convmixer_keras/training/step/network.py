"""The network of a run: built from its recipe, or started from a trained body."""

import contextlib
import dataclasses

from convmixer_keras.models import parts as anatomy
from convmixer_keras.models.convmixer import ConvMixer
from convmixer_keras.models.weights import load_weights
from convmixer_keras.pretrained import open_body
from convmixer_keras.utils.errors import InputError, arg

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


def recipe_for(recipe, source):
    """Returns a recipe with the network of a trained body in place of its own, as far as it is known.

    Args:
        recipe: A `Recipe`.
        source: As in `pretrained.open_body`.
    """
    body = open_body(source)
    network = {name: getattr(body.sizes, name) for name in _SIZES}
    known = ("activation", "normalization", "residual")
    network |= {name: body.facts[name] for name in known if name in body.facts}
    if "mean" in body.facts:
        network |= {name: tuple((body.facts[name] / 255).tolist()) for name in ("mean", "std")}
    return dataclasses.replace(recipe, **network)


def start_from(model, source, frozen_blocks=0):
    """Gives a ConvMixer the weights of another's body, and freezes a part of it.

    Args:
        model: A `keras.Model` from `build_model`.
        source: As in `pretrained.open_body`; the classifier is taken too where the classes are as many. None
            leaves the weights as they are.
        frozen_blocks: The patch embedding and so many blocks stay as they are; 0 freezes nothing.

    Raises:
        InputError: If there is no such body, it is another network, or the model has fewer blocks.
    """
    if source is not None:
        load_weights(model, open_body(source), any_classes=True)
    depth = len(anatomy.of(model).blocks)
    if not 0 <= frozen_blocks <= depth:
        raise InputError(f"{arg('freeze')} must be 0 to {depth}, the number of blocks, got {frozen_blocks}")
    frozen = ("stem_", *(f"block{i}_" for i in range(frozen_blocks))) if frozen_blocks else ()
    for layer in model.layers:
        layer.trainable = not layer.name.startswith(frozen)


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
