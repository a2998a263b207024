"""Opens a trained model together with its preprocessing and class names."""

import dataclasses
import sys

import keras

from convmixer_keras import applications as variants
from convmixer_keras import pretrained
from convmixer_keras.images import preprocessing as preprocessing_module
from convmixer_keras.images.class_names import published_classes
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.models import inputs, outputs, presets
from convmixer_keras.models import parts as anatomy
from convmixer_keras.models.saving import check_preprocessing, load_class_names, load_model
from convmixer_keras.utils import hub
from convmixer_keras.utils.errors import InputError

BUILDERS = tuple(preset.name for preset in presets.PRESETS if preset.weights)


class PhotoModel:
    """What `load` returns.

    Attributes:
        model: A `keras.Model` from what `read` gives, float32 (batch, height, width, channels), to
            probabilities (batch, classes), or without its top to features (batch, hidden_dim).
        class_names: The name of each class, in the order of the outputs; None without the top.
        preprocessing: The `Preprocessing` that `read` uses. Where the file records none, a default, with a
            note on standard error.
    """

    def __init__(self, model, class_names, preprocessing, source):
        self.model = model
        self.class_names = class_names
        self._preprocessing = preprocessing
        self._source = source

    @property
    def preprocessing(self):
        if self._preprocessing is None:
            if not inputs.takes_pixels(self.model):
                raise InputError(
                    f"{self._source} takes normalised channels, and does not say which: give --mean and --std"
                )
            *size, channels = self.model.input_shape[1:]
            self._preprocessing = preprocessing_module.assumed(self._source, size, channels)
        return self._preprocessing

    def read(self, path):
        """Returns an image file as the model takes it, float32 (height, width, channels)."""
        return self.preprocessing(path)

    def picture(self, path):
        """Returns an image file as the model sees it, for people: pixels 0..255 whatever the model takes."""
        return dataclasses.replace(self.preprocessing, mean=None, std=None)(path)


def load(source, include_top=True, **changes):
    """Opens a trained model to classify photographs with.

    Photographs are prepared as the file says, or for published weights as in their authors' evaluation.

    Args:
        source: The path of a `.keras` file; "hf://USER/REPO", a Hugging Face repository that holds one; or
            the name of one of `BUILDERS`, which stands for its published weights.
        include_top: Whether the model ends in class probabilities, or in features.
        changes: Fields of `Preprocessing` to take in place of what the file says, such as
            `orientation="exif"`.

    Returns:
        A `PhotoModel`.

    Raises:
        InputError: If there is no such model, if it does not take images, if `changes` do not fit it, or if
            the ImageNet weights cannot be fetched.
    """
    if hub.is_name(source):
        source = hub.download(source, ("model.keras", ".keras"))
    if source in BUILDERS:
        preset = next(preset for preset in presets.PRESETS if preset.name == source)
        model = getattr(variants, source)(weights=preset.weights, include_preprocessing=True)
        preprocessing = preprocessing_module.published(preset, takes_pixels=True)
        names = published_classes(preset.weights)
    else:
        if not str(source).endswith(".keras"):
            raise InputError(f"a model is a .keras file or one of {', '.join(BUILDERS)}, got {source}")
        model, preprocessing = load_model(source), preprocessing_module.of(source)
        names = load_class_names(source)
    inputs.check_takes_images(model, source)
    preprocessing = _changed(preprocessing, model, source, changes)
    model = _fixed(model, inputs.image_size(model, preprocessing))
    if not include_top:
        return PhotoModel(_headless(model), None, preprocessing, source)
    if len(model.output_shape) != 2:
        raise InputError(f"{source} gives features of the shape {model.output_shape[1:]}, and no classes")
    names = names or [str(i) for i in range(model.output_shape[-1])]
    return PhotoModel(outputs.probabilities(model), names, preprocessing, source)


def default_builder():
    """Returns the default builder: ConvMixer1024_20 if its weights have been fetched.

    Otherwise it is the one whose weights come with this package, with a note on standard error.
    """
    if pretrained.are_here(presets.CONVMIXER_1024_20):
        return presets.CONVMIXER_1024_20.name
    name = presets.CONVMIXER_256_8_P2.name
    print(
        f"note: using {name} (CIFAR-10, ten classes); pass {presets.CONVMIXER_1024_20.name} to download the "
        "ImageNet weights",
        file=sys.stderr,
    )
    return name


def _changed(preprocessing, model, source, changes):
    """Returns a file's `Preprocessing` with changes, or None where there is neither."""
    if "mean" in changes and inputs.takes_pixels(model):
        raise InputError(f"{source} normalises by itself: mean and std are not for it")
    if preprocessing is not None:
        check_preprocessing(model, preprocessing)
        return dataclasses.replace(preprocessing, **changes)
    if not changes or not (inputs.takes_pixels(model) or "mean" in changes):
        return None
    return Preprocessing(inputs.image_size(model), model.input_shape[-1], **changes)


def _fixed(model, size):
    """Returns the model in float32, for images of `size` where it leaves that open."""
    *open_size, channels = model.input_shape[1:]
    if None not in open_size and all(layer.compute_dtype == "float32" for layer in model.layers):
        return model
    image = keras.Input((*size, channels), name="image")

    def in_float32(layer):
        return type(layer).from_config(layer.get_config() | {"dtype": "float32"})

    fixed = keras.models.clone_model(model, input_tensors=image, clone_function=in_float32)
    fixed.set_weights(model.get_weights())
    return fixed


def _headless(model):
    parts = anatomy.of(model)
    pool = parts.pool or keras.layers.GlobalAveragePooling2D(
        data_format="channels_last", dtype="float32", name="pool"
    )
    return keras.Model(model.input, pool(parts.maps(parts.image)[-1]))
