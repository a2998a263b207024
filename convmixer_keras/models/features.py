"""Feature maps from inside a ConvMixer."""

import operator

import keras

from convmixer_keras.utils.errors import InputError


def features(model, blocks):
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
    layers = {layer.name: layer for layer in model.layers}
    depth = sum(name.endswith("_depthwise") for name in layers)
    single = not isinstance(blocks, (tuple, list, range))
    try:
        wanted = [operator.index(block) for block in ([blocks] if single else blocks)]
    except TypeError:
        raise InputError(f"blocks must be whole numbers, got {blocks!r}") from None
    first = layers.get("input_normalization", layers.get("stem_conv"))
    if not depth or first is None or len(model.inputs) != 1 or first.input is not model.inputs[0]:
        raise InputError(
            f"{model.name} is not a ConvMixer from this package's builders with nothing before it"
        )
    if not wanted or any(not -depth <= block < depth for block in wanted):
        raise InputError(f"blocks must be -{depth} to {depth - 1}, got {blocks!r}")
    wanted = [block % depth for block in wanted]

    image = keras.Input((None, None, model.inputs[0].shape[-1]), name="image")
    x = layers["input_normalization"](image) if "input_normalization" in layers else image
    norm = "bn" if "stem_bn" in layers else "ln"
    x = layers[f"stem_{norm}"](layers["stem_conv"](x))
    maps = {}
    for i in range(max(wanted) + 1):
        y = layers[f"block{i}_depthwise_{norm}"](layers[f"block{i}_depthwise"](x))
        x = layers[f"block{i}_add"]([x, y]) if f"block{i}_add" in layers else y
        x = maps[i] = layers[f"block{i}_pointwise_{norm}"](layers[f"block{i}_pointwise"](x))
    outputs = [maps[block] for block in wanted]
    return keras.Model(image, outputs[0] if single else outputs, name=f"{model.name}_features")
