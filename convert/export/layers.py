"""Stock Keras layers that already have their weights, from which the rewrite for inference is built."""

import keras
import numpy as np


def weighted(layer, x, *weights):
    """Calls a layer on `x` and sets its weights, arrays of any float dtype."""
    y = layer(x)
    layer.set_weights([w.astype(np.float32) for w in weights])
    return y


def numpy_weights(layer):
    """Returns a layer's weights as a list of NumPy arrays."""
    return [keras.ops.convert_to_numpy(w) for w in layer.weights]


def dense_convolution(x, kernel, bias, strides, name):
    """A convolution without padding or activation, its kernel (height, width, in, out)."""
    layer = keras.layers.Conv2D(
        len(bias),
        kernel.shape[:2],
        strides=strides,
        data_format="channels_last",
        dtype="float32",
        kernel_initializer="zeros",
        name=name,
    )
    return weighted(layer, x, kernel, bias)


def patch_rows(x, kernel):
    """Lays each row of a patch along the channels; returns image and kernel.

    (h, w * patch, c) and (h, w, patch * c) are the same numbers in memory: the convolution then has
    patch * c channels at each of `patch` places, and not c at patch * patch.
    """
    patch, _, channels, hidden = kernel.shape
    height, width = x.shape[1] // patch, x.shape[2] // patch
    cut = (x.shape[1] - height * patch, x.shape[2] - width * patch)
    if any(cut):
        x = keras.layers.Cropping2D(
            ((0, cut[0]), (0, cut[1])), data_format="channels_last", dtype="float32", name="stem_crop"
        )(x)
    x = keras.layers.Reshape((height * patch, width, patch * channels), dtype="float32", name="stem_rows")(x)
    return x, kernel.reshape(patch, 1, patch * channels, hidden)


def affine(x, scale, shift, integer, name):
    """Returns `scale * x + shift` per channel; None as shift adds nothing.

    Args:
        integer: Whether the result will be quantised to integers: a 1x1 depthwise convolution then does it.
    """
    if np.all(scale == 1) and (shift is None or not np.any(shift)):
        return x
    if not integer:
        offset = 0.0 if shift is None else shift.tolist()
        return keras.layers.Rescaling(scale.tolist(), offset, dtype="float32", name=name)(x)
    # Weights of a convolution are quantised channel by channel, those of a multiplication all alike.
    layer = keras.layers.DepthwiseConv2D(
        1,
        use_bias=shift is not None,
        data_format="channels_last",
        dtype="float32",
        depthwise_initializer="zeros",
        name=name,
    )
    return weighted(layer, x, scale[None, None, :, None], *([] if shift is None else [shift]))


def activated(x, activation, name):
    """Applies one of `keras.activations` in operations that XNNPACK takes."""
    if activation is keras.activations.linear:
        return x
    if activation is keras.activations.selu:
        # TFLite writes it with a comparison, which XNNPACK does not take.
        scale, alpha = 1.0507009873554805, 1.6732632423543772
        parts = []
        for kind, factor in (("elu", scale * alpha), ("relu", scale - scale * alpha)):
            y = keras.layers.Activation(kind, dtype="float32", name=f"{name}_{kind}")(x)
            parts.append(keras.layers.Rescaling(factor, dtype="float32", name=f"{name}_{kind}_scale")(y))
        return keras.layers.Add(dtype="float32", name=name)(parts)
    return keras.layers.Activation(activation, dtype="float32", name=name)(x)


def standardized(x, epsilon, name):
    """Layer normalisation without its scale and shift."""
    layer = keras.layers.LayerNormalization(
        epsilon=epsilon, center=False, scale=False, dtype="float32", name=name
    )
    return layer(x)


def joined(parts, name):
    """Concatenates tensors along their channels, five at a time: XNNPACK takes no more."""
    while len(parts) > 1:
        fives = [parts[n : n + 5] for n in range(0, len(parts), 5)]
        name = f"{name}_{len(fives)}"
        parts = [
            keras.layers.Concatenate(dtype="float32", name=f"{name}_{n}")(five) if len(five) > 1 else five[0]
            for n, five in enumerate(fives)
        ]
    return parts[0]


def flat(x, name):
    """Reshapes (1, 1, 1, channels) to (1, channels)."""
    return keras.layers.Reshape((x.shape[-1],), dtype="float32", name=name)(x)
