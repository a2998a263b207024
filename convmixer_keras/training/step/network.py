"""The network of a run: built from its recipe, or started from a trained body."""

import contextlib

import keras

from convmixer_keras.models import parts as anatomy
from convmixer_keras.models.convmixer import ConvMixer
from convmixer_keras.models.weights import load_weights
from convmixer_keras.pretrained import open_body
from convmixer_keras.recipes import Recipe
from convmixer_keras.utils.errors import InputError, arg

_NETWORK = ("hidden_dim", "depth", "kernel_size", "patch_size", "activation", "normalization", "residual")


def build_model(recipe: Recipe, channels: int, classes: int) -> keras.Model:
    """Builds a recipe's network. It takes raw pixels, (batch, image_size, image_size, channels), 0..255."""
    recipe = recipe.for_channels(channels)
    return ConvMixer(
        recipe.hidden_dim,
        recipe.depth,
        recipe.kernel_size,
        recipe.patch_size,
        activation=recipe.activation,
        normalization=recipe.normalization,
        residual=recipe.residual,
        input_mean=[255 * m for m in recipe.mean],
        input_std=[255 * s for s in recipe.std],
        input_shape=(recipe.image_size, recipe.image_size, channels),
        classes=classes,
    )


def facts_of_body(source):
    """Returns what a recipe has to have to start from a trained body: a dictionary, as far as it is known.

    The body's network, and how the photographs that it was trained on were prepared.
    """
    body = open_body(source)
    known = {**body.sizes._asdict(), **body.facts, **body.prepared}
    found = {name: known[name] for name in (*_NETWORK, "crop_pct", "interpolation") if name in known}
    if "size" in known:  # A run trains on squares: photographs are scaled as they were for the larger side.
        found["image_size"] = max(known["size"])
    if "mean" in known:
        found |= {name: tuple((known[name] / 255).tolist()) for name in ("mean", "std")}
    return found


def start_from(model, source, class_names, frozen_blocks=0):
    """Gives a ConvMixer the weights of another's body, and freezes the patch embedding and so many blocks.

    `source` is as in `pretrained.open_body`; None leaves the weights as they are. The classifier is taken,
    too, where it knows the same classes. Returns whether it was.
    """
    with_head = False
    if source is not None:
        body = open_body(source)
        with_head = body.match_classes(class_names)
        load_weights(model, body, any_classes=True, any_channels=True)
    depth = len(anatomy.of(model).blocks)
    if not 0 <= frozen_blocks <= depth:
        raise InputError(f"{arg('freeze')} must be 0 to {depth}, the number of blocks, got {frozen_blocks}")
    frozen = ("stem_", *(f"block{i}_" for i in range(frozen_blocks))) if frozen_blocks else ()
    for layer in model.layers:
        layer.trainable = not layer.name.startswith(frozen)
    return with_head


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
