"""What a model takes: images of which size, raw pixels or normalised channels."""

import keras

from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.models import graph
from convmixer_keras.utils.errors import InputError

OPEN_SIZE = Preprocessing.size[
    0
]  # Side of the images for a model that takes any size, where nothing else states one.


def check_takes_images(model, source):
    """Raises InputError, which names the source, unless a model takes images (height, width, channels)."""
    if len(model.inputs) != 1 or len(model.inputs[0].shape) != 4:
        raise InputError(
            f"{source} must take images (height, width, channels), and takes {model.input_shape}"
        )


def image_size(model, preprocessing=None):
    """Returns (height, width) of the images for a model.

    Args:
        model: A `keras.Model` that takes images.
        preprocessing: The `Preprocessing` whose size counts where the model leaves its own open, or None.
    """
    height, width = model.inputs[0].shape[1:3]
    size = preprocessing.size if preprocessing else (OPEN_SIZE, OPEN_SIZE)
    return height or size[0], width or size[1]


def takes_pixels(model):
    """Returns whether a model takes raw pixels 0..255 and normalises them itself.

    A ConvMixer, alone or nested in another model, does so where a layer normalises or rescales. Any other
    model is assumed to.
    """
    layers = list(graph.layers(model))
    if all(layer.name != "stem_conv" for layer in layers):
        return True
    return any(isinstance(layer, (keras.layers.Normalization, keras.layers.Rescaling)) for layer in layers)
