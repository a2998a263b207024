"""A model with what it takes to show it photographs: which pixels, which crop, which names."""

import os
from typing import NamedTuple

import keras

from convmixer_keras import applications as variants
from convmixer_keras import presets, pretrained
from convmixer_keras.convert import runtime
from convmixer_keras.models.saving import load_class_names, load_model
from convmixer_keras.training import run_folder
from convmixer_keras.utils import hub
from convmixer_keras.utils.errors import InputError

BUILDERS = tuple(pretrained.RELEASE_FILES)  # Those that have published ImageNet weights.
FREE_SIZE = 224  # What a model is shown that leaves the size of its images open.


class PhotoModel(NamedTuple):
    """What `load` returns.

    Attributes:
        model: A `keras.Model` from raw pixels 0..255, float32 (batch, height, width, channels), to
            probabilities (batch, classes), or without its top to features (batch, hidden_dim).
        class_names: The name of each class, in the order of the outputs; None without the top.
        crop_pct: Share of the resized image that the centre crop keeps.
    """

    model: keras.Model
    class_names: list[str] | None
    crop_pct: float

    def read(self, path):
        """Returns an image file as the model takes it, float32 (height, width, channels), 0..255."""
        return runtime.read_image(path, self.model.input_shape[1:], self.crop_pct)


def load(source, include_top=True):
    """Opens a trained model, whatever it comes from, to be shown photographs.

    The evaluation crop is that of the published weights, or of the training run in whose folder the file is,
    and otherwise the largest possible one.

    Args:
        source: The path of a `.keras` file; "hf://USER/REPO", a Hugging Face repository that holds one; or
            the name of one of `BUILDERS`, which stands for its ImageNet weights.
        include_top: Whether the model ends in class probabilities, or in features.

    Returns:
        A `PhotoModel`.

    Raises:
        InputError: If there is no such model, if it does not take images, if it takes normalised channels
            that nothing tells the normalisation of, or if ImageNet weights cannot be had.
    """
    if hub.is_name(source):
        source = hub.download(source, ("model.keras", ".keras"))
    if source in BUILDERS:
        preset = next(preset for preset in presets.PRESETS if preset.name == source)
        model = getattr(variants, source)(weights="imagenet", include_preprocessing=True)
        crop_pct, names = preset.crop_pct, None
    else:
        if not str(source).endswith(".keras"):
            raise InputError(f"a model is a .keras file or one of {', '.join(BUILDERS)}, got {source}")
        model, preset = _takes_pixels(load_model(source), source)
        crop_pct, names = _crop_pct(source, preset), load_class_names(source)
    if not include_top:
        return PhotoModel(_headless(model), None, crop_pct)
    if len(model.output_shape) != 2:
        raise InputError(f"{source} gives features of the shape {model.output_shape[1:]}, and no classes")
    return PhotoModel(_to_probabilities(model), names or _default_names(model), crop_pct)


def _takes_pixels(model, path):
    """Returns the model with raw pixels of a fixed size as its input, and the variant that it is or None."""
    if len(model.inputs) != 1 or len(model.inputs[0].shape) != 4:
        raise InputError(f"{path} must take images (height, width, channels), and takes {model.input_shape}")
    preset = _published_variant(model)
    layers = [layer.name for layer in model.layers]
    if "stem_conv" in layers and "input_normalization" not in layers:
        if preset is None:
            raise InputError(
                f"{path} takes normalised channels, and nothing tells which normalisation: make it anew with "
                "input_mean and input_std, or convmixer-convert --include-preprocessing"
            )
        model = getattr(variants, preset.name)(
            weights=path, include_preprocessing=True, classifier_activation=_head_activation(model)
        )
    return _fixed(model), preset


def _fixed(model):
    """Returns the model for images of one size, in float32 whatever it was trained in."""
    height, width, channels = model.input_shape[1:]
    if height and width and all(layer.compute_dtype == "float32" for layer in model.layers):
        return model
    image = keras.Input((height or FREE_SIZE, width or FREE_SIZE, channels), name="image")

    def in_float32(layer):
        return type(layer).from_config(layer.get_config() | {"dtype": "float32"})

    fixed = keras.models.clone_model(model, input_tensors=image, clone_function=in_float32)
    fixed.set_weights(model.get_weights())
    return fixed


def _published_variant(model):
    """Returns the `Preset` whose published classifier a model has, by its sizes, or None."""
    layers = {layer.name: layer for layer in model.layers if layer.weights}
    if not {"stem_conv", "block0_depthwise", "head"} <= layers.keys():
        return None
    patch_size, _, _, hidden_dim = layers["stem_conv"].kernel.shape
    kernel_size, classes = layers["block0_depthwise"].kernel.shape[0], layers["head"].units
    depth = sum(name.endswith("_depthwise") for name in layers)
    for preset in presets.PRESETS:
        sizes = (preset.hidden_dim, preset.depth, preset.kernel_size, preset.patch_size, preset.classes)
        if preset.name in BUILDERS and sizes == (hidden_dim, depth, kernel_size, patch_size, classes):
            return preset
    return None


def _head_activation(model):
    return keras.activations.serialize(model.get_layer("head").activation)


def _crop_pct(path, preset):
    crop_pct = preset.crop_pct if preset else 1.0
    folder = run_folder.RunFolder(os.path.dirname(path) or ".")
    if folder.holds_run() and os.path.basename(path) in (run_folder.BEST_MODEL, run_folder.LAST_MODEL):
        return folder.read_config().get("recipe", {}).get("crop_pct", crop_pct)
    return crop_pct


def _to_probabilities(model):
    last = getattr(model.layers[-1], "activation", None)
    if last in (keras.activations.softmax, keras.activations.sigmoid):
        return model
    return keras.Model(model.inputs, keras.layers.Softmax()(model.outputs[0]))


def _headless(model):
    layers = {layer.name: layer for layer in model.layers}
    features = layers["head"].input if "head" in layers else model.outputs[0]
    if len(features.shape) == 4:
        features = keras.layers.GlobalAveragePooling2D(name="pool")(features)
    return keras.Model(model.inputs, features)


def _default_names(model):
    from convmixer_keras.data.class_names import imagenet_classes

    classes = model.output_shape[-1]
    if classes == presets.CONVMIXER_1536_20.classes:
        return [name for _, name in imagenet_classes()]
    return [str(i) for i in range(classes)]
