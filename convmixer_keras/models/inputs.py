"""What a model takes: images of which size, raw pixels or normalised channels."""

import keras

from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.models import graph
from convmixer_keras.utils.errors import InputError

# Side of the images for a model that takes any size, where nothing else states one.
OPEN_SIZE = Preprocessing.size[0]


def check_takes_images(model, source):
    """Raises InputError, which names the source, unless a model takes images (height, width, channels)."""
    if len(model.inputs) != 1 or len(model.inputs[0].shape) != 4:
        raise InputError(
            f"{source} must take images (height, width, channels), and takes {model.input_shape}"
        )


def image_size(model, preprocessing=None):
    """Returns (height, width) of the images for a model: where it leaves them open, of a `Preprocessing`."""
    height, width = model.inputs[0].shape[1:3]
    size = preprocessing.size if preprocessing else (OPEN_SIZE, OPEN_SIZE)
    return height or size[0], width or size[1]


def takes_pixels(model):
    """Returns whether a model takes raw pixels 0..255 and normalises them itself; None where nothing says.

    It does so where a layer normalises or rescales. A ConvMixer without one, alone or nested in another
    model, takes normalised channels; of any other network it is not known.
    """
    layers = list(graph.layers(model))
    if any(isinstance(layer, (keras.layers.Normalization, keras.layers.Rescaling)) for layer in layers):
        return True
    return False if any(layer.name == "stem_conv" for layer in layers) else None


def in_float32(model, size=None):
    """Returns a model, or a copy of it, that computes in float32 for any number of images at a time.

    `size` is the (height, width) of the images, whatever the model's own is; None leaves it as it is.
    """
    batch, *sides, channels = model.inputs[0].shape
    wanted = sides if size is None else list(size)
    is_float32 = all(layer.compute_dtype == "float32" for layer in graph.layers(model))
    if batch is None and wanted == sides and is_float32:
        return model
    copy = _cloned(model, keras.Input((*wanted, channels), dtype="float32", name="image"))
    copy.set_weights(model.get_weights())
    return copy


def _cloned(model, image=None):
    def in_float32(layer):
        if isinstance(layer, keras.Model):
            return _cloned(layer)
        if not isinstance(layer, keras.Layer):  # An operation of keras.ops has neither weights nor a dtype.
            return layer
        return type(layer).from_config(layer.get_config() | {"dtype": "float32"})

    if image is not None and not isinstance(model, keras.Sequential):
        image = keras.tree.pack_sequence_as(model.input, [image])  # It may be a list or a dictionary.
    return keras.models.clone_model(model, input_tensors=image, clone_function=in_float32)
