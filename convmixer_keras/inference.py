"""Opens a trained model together with its preprocessing and class names.

Keras and TensorFlow are imported only for a model that needs them, and not for a `.tflite` file.
"""

import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from convmixer_keras.images import preprocessing as preprocessing_module
from convmixer_keras.images.predictor import Predictor, choose_preprocessing
from convmixer_keras.images.scores import Scores as Scores
from convmixer_keras.models import presets
from convmixer_keras.utils import hub
from convmixer_keras.utils.errors import InputError, first_line
from convmixer_keras.utils.files import Path

BUILDERS = tuple(preset.name for preset in presets.PRESETS if preset.weights)


def load(
    source: Path | None = None,
    include_top: bool = True,
    *,
    scores: str | None = None,
    default: Callable | None = None,
    **changes: Any,
) -> Predictor:
    """Opens a trained model to show it photographs.

    Photographs are prepared as the file says, or for published weights as in their authors' evaluation.

    Args:
        source: The path of a `.keras` or `.tflite` file; "hf://USER/REPO", a Hugging Face repository that
            holds one; or the name of one of `BUILDERS`, which stands for its published weights. None for
            one whose weights are here, with a note on standard error if that is not ImageNet's.
        include_top: Whether the model is to give class probabilities, or features (images, hidden_dim). A
            `.tflite` file gives what it was exported for.
        scores: "logits" or "probabilities": what the file's outputs are, where it does not say.
        default: Function from the (height, width, channels) that the model takes, None for sides that it
            leaves open, and from whether it takes raw pixels, to the `Preprocessing` of a recipe where the
            file records none. None for crop_pct 1 and bicubic. A note on standard error says which.
        changes: Fields of `Preprocessing` to take in place of what the file says, such as
            `orientation="exif"`. With `size`, a model of a `.keras` file is run at that size, also where its
            own is fixed.

    Returns:
        A `Predictor`. Of a `.tflite` file it is a `Classifier`; any other has an attribute `model`, a
        `keras.Model` from what `read` gives, float32 (batch, height, width, channels), to what `predict`
        gives.

    Raises:
        InputError: If there is no such model, if it does not take images or give one score for each class,
            if it does not say what its scores are, if `changes` do not fit it, or if the weights cannot be
            fetched.
    """
    if source is None:
        from convmixer_keras import applications

        source = applications.default_builder()
    if hub.is_name(source):
        source = hub.download(source, ("model.keras", ".keras", ".tflite"))
    if source in BUILDERS:
        return _published(source, include_top, scores, default, changes)
    if str(source).endswith(".tflite"):
        return _of_tflite(source, include_top, scores, default, changes)
    if not str(source).endswith(".keras"):
        raise InputError(f"a model is a .keras or .tflite file or one of {', '.join(BUILDERS)}, got {source}")
    from convmixer_keras.models.saving import load_class_names, load_model

    model, recorded = load_model(source), preprocessing_module.of(source)
    return KerasPredictor(
        model, source, include_top, load_class_names(source), scores, recorded, default, changes
    )


def _published(name, include_top, scores, default, changes):
    from convmixer_keras import applications

    preset = next(preset for preset in presets.PRESETS if preset.name == name)
    model = getattr(applications, name)(weights=preset.weights, include_preprocessing=True)
    recorded = preprocessing_module.published(preset, takes_pixels=True)
    return KerasPredictor(model, name, include_top, preset.class_names, scores, recorded, default, changes)


def _of_tflite(path, include_top, scores, default, changes):
    from convmixer_keras.convert.export.runtime import Classifier

    if not include_top:
        raise InputError(f"features come from a .keras file or a builder's weights, got {path}")
    return Classifier(path, scores=scores, default=default, **changes)


class KerasPredictor(Predictor):
    """A `keras.Model`, opened.

    Attributes:
        model: From what `read` gives, float32 (batch, height, width, channels), to probabilities (batch,
            classes), or to features (batch, hidden_dim).
    """

    def __init__(self, model, source, include_top, class_names, scores, recorded, default, changes):
        import keras

        from convmixer_keras.models import inputs, outputs

        source = os.fspath(source)
        inputs.check_takes_images(model, source)
        if len(model.outputs) != 1:
            raise InputError(f"{source} must have one output, and has {len(model.outputs)}")
        for layer in model.layers:
            if not re.fullmatch(r"[\w.\\/>-]+", layer.name, re.ASCII):  # In the scopes of TensorFlow.
                raise InputError(f"{source} has a layer named {layer.name!r}, which TensorFlow cannot run")
        pixels, shape = inputs.takes_pixels(model), model.inputs[0].shape[1:]
        if "size" in changes:
            shape = (None, None, shape[-1])
        preprocessing = choose_preprocessing(source, shape, pixels, recorded, default, changes)
        size = preprocessing.size if "size" in changes else inputs.image_size(model, preprocessing)
        model = _fixed(model, size, source)
        if include_top and len(model.output_shape) != 2:
            raise InputError(f"{source} gives features of the shape {model.output_shape[1:]}, and no classes")
        try:
            self.model = outputs.probabilities(model, scores) if include_top else _headless(model)
        except InputError as error:
            raise InputError(f"{source}: {error}") from None
        super().__init__(
            source,
            # Of a dictionary of outputs, there is one.
            lambda images: np.asarray(*keras.tree.flatten(self.model.predict_on_batch(images)), np.float32),
            self.model.input_shape[1:],
            self.model.output_shape[1:],
            "probabilities" if include_top else "features",
            class_names,
            pixels,
            preprocessing,
        )


def _fixed(model, size, source):
    """Returns the model in float32, for images of `size`."""
    from convmixer_keras.models import inputs

    try:
        return inputs.in_float32(model, size)
    except Exception as error:  # Whatever a layer of the user's says of this size, or of being copied.
        raise InputError(
            f"{source} cannot be run in float32 on images of {size[0]}x{size[1]}: {first_line(error)}"
        ) from None


def _headless(model):
    import keras

    from convmixer_keras.models import parts

    network = parts.of(model)
    pool = network.pool or keras.layers.GlobalAveragePooling2D(
        data_format="channels_last", dtype="float32", name="pool"
    )
    return keras.Model(model.inputs[0], pool(network.maps(network.image)[-1]))
