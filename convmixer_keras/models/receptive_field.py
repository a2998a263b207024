"""How much of an image each block of a ConvMixer sees."""

import keras
import numpy as np

from convmixer_keras.models import inputs
from convmixer_keras.models import parts as anatomy
from convmixer_keras.utils import checks
from convmixer_keras.utils.errors import InputError


def effective_receptive_field(model, block, share=0.95, images=None):
    """Measures which pixels the middle of a block's output depends on, and how strongly.

    The size of the gradient of that place's features, mixed by random signs, with respect to each pixel, on
    average over `images`, or noise (Luo et al., arXiv:1701.04128). Needs Keras' TensorFlow backend.

    Returns:
        The field, float32 (height, width), at least 0; the side in pixels of the smallest square around the
        middle place's patch that holds `share` of it, at most the image's longer side; and the side of the
        largest square that could matter, which may exceed the image.
    """
    checks.tensorflow_backend("a receptive field")
    import tensorflow as tf  # Here, because the other backends work without it.

    parts = anatomy.of(model)
    network = parts.sizes
    if not 0 <= block < network.depth:
        raise InputError(f"block must be 0 to {network.depth - 1}, got {block}")
    if not 0 < share <= 1:
        raise InputError(f"share must be over 0 and at most 1, got {share}")
    random = np.random.default_rng(0)
    if images is None:
        images = random.uniform(0, 255, (4, *inputs.image_size(model), model.inputs[0].shape[-1]))
        if inputs.takes_pixels(model) is False:
            images = (images - 128) / 64
    images = tf.convert_to_tensor(images, tf.float32)

    until_here = keras.Model(model.input, parts.maps(parts.image)[block])
    with tf.GradientTape() as tape:
        tape.watch(images)
        features = tf.cast(until_here(images, training=False), tf.float32)
        middle = features.shape[1] // 2, features.shape[2] // 2
        signs = random.choice([-1.0, 1.0], (len(images), features.shape[-1]))
        seen = tf.reduce_sum(features[:, middle[0], middle[1]] * signs.astype(np.float32))
    gradient = tape.gradient(seen, images)
    if gradient is None:
        raise InputError(f"{model.name} takes whole numbers, for which there is no gradient")
    gradient = np.abs(gradient.numpy()).sum(-1).mean(0)
    if not np.isfinite(gradient).all():
        raise InputError(f"{model.name} gives NaN or infinity: its weights are damaged")

    largest = network.patch_size * (1 + (block + 1) * (network.kernel_size - 1))
    return gradient, _side_holding(gradient, share, middle, network.patch_size), largest


def _side_holding(field, share, middle, patch_size):
    """Returns the side of the smallest square around the middle patch that holds a share of the field."""
    top, left = patch_size * middle[0], patch_size * middle[1]
    for reach in range(max(field.shape)):
        rows = slice(max(0, top - reach), top + patch_size + reach)
        columns = slice(max(0, left - reach), left + patch_size + reach)
        # The sums are added up in different orders, and may differ by a rounding.
        if field[rows, columns].sum() >= share * field.sum() * (1 - 1e-6):
            # The middle patch may lie off the centre, so that the square sticks out on one side.
            return min(patch_size + 2 * reach, max(field.shape))
    return max(field.shape)
