"""Feature maps from inside a ConvMixer."""

import operator
from collections.abc import Sequence

import keras

from convmixer_keras.models import parts as anatomy
from convmixer_keras.utils.errors import InputError


def features(model: keras.Model, blocks: int | Sequence[int]) -> keras.Model:
    """Returns a model that gives the feature maps after some blocks.

    It shares its layers, and so its weights, with `model`: training one trains the other.

    Args:
        model: A `keras.Model` from one of this package's builders, with or without its top.
        blocks: Numbers of blocks, counted from 0, such as (4, 9, 14, 19), or one number. Negative ones count
            from the end.

    Returns:
        A `keras.Model` from images (batch, height, width, channels) of any size, as `model` takes them (raw
        pixels where it normalises them itself), to a list with a map for each block, (batch,
        height // patch_size, width // patch_size, hidden_dim) in the model's compute dtype; for one block
        to the map itself.

    Raises:
        InputError: If the model is not a ConvMixer with nothing before it, or has no such block.
    """
    parts = anatomy.of(model)
    depth = len(parts.blocks)
    single = not isinstance(blocks, (tuple, list, range))
    try:
        wanted = [operator.index(block) for block in ([blocks] if single else blocks)]
    except TypeError:
        raise InputError(f"blocks must be whole numbers, got {blocks!r}") from None
    if parts.image is not model.inputs[0]:
        raise InputError(f"{model.name} must have nothing in front of its network")
    if not wanted or any(not -depth <= block < depth for block in wanted):
        raise InputError(f"blocks must be -{depth} to {depth - 1}, got {blocks!r}")
    wanted = [block % depth for block in wanted]

    image = keras.Input((None, None, model.inputs[0].shape[-1]), dtype="float32", name="image")
    maps = parts.maps(image)
    outputs = [maps[block] for block in wanted]
    return keras.Model(image, outputs[0] if single else outputs, name=f"{model.name}_features")
