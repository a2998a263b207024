"""A model as a `.keras` file, with what travels in it: its class names and its preprocessing."""

import json
import math
import os
import pathlib
import tempfile
import zipfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

from convmixer_keras.images.preprocessing import ENTRY as _PREPROCESSING_ENTRY
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.models.keras_file import check_keras_file
from convmixer_keras.utils import limits
from convmixer_keras.utils.errors import InputError, arg, first_line
from convmixer_keras.utils.files import Path, check_room, reserve, written_whole

if TYPE_CHECKING:
    import keras

# A `.keras` file is a zip archive, and Keras ignores entries that it does not know.
_CLASS_NAMES_ENTRY = "class_names.json"


def save_model(
    model: "keras.Model",
    path: Path,
    class_names: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
) -> None:
    """Saves a model as a `.keras` file, whole or not at all, with what its reader has to know.

    Args:
        model: A `keras.Model`. Plain `keras.saving.load_model` reads the file.
        path: Ends in ".keras".
        class_names: Sequence of strings, the name of each output, or None.
        preprocessing: The `Preprocessing` that makes the model's input of a photograph, or None.

    Raises:
        InputError: If the file cannot be written, its name does not end in ".keras", or class names or
            preprocessing do not fit the model.
    """
    if not str(path).endswith(".keras"):
        raise InputError(f"a model's file name must end in .keras, got {path}")
    entries = {}
    if class_names is not None:
        if isinstance(class_names, str) or not all(isinstance(name, str) for name in class_names):
            raise InputError(f"class_names must be a list of texts, got {class_names!r}")
        if model.output_shape[-1] != len(class_names):
            raise InputError(
                f"class_names must be {model.output_shape[-1]}, one for each output, got {len(class_names)}"
            )
        entries[_CLASS_NAMES_ENTRY] = json.dumps(list(class_names), ensure_ascii=False)
    if preprocessing is not None:
        check_preprocessing(model, preprocessing)
        entries[_PREPROCESSING_ENTRY] = preprocessing.to_json()
    with written_whole(path) as temporary:
        _save_from_disk(model, temporary, entries)


def check_preprocessing(model, preprocessing):
    from convmixer_keras.models import inputs

    shape, made = model.input_shape[1:], preprocessing.shape
    if len(shape) != 3 or any(side not in (None, n) for side, n in zip(shape, made, strict=True)):
        raise InputError(f"preprocessing must give what the model takes, {shape}, and gives {made}")
    if preprocessing.mean is not None and inputs.takes_pixels(model):
        raise InputError(f"the model normalises its input itself: leave out {arg('mean')} and {arg('std')}")


def _save_from_disk(model, path, entries):
    """Saves as `model.save(path)` does, but without holding the whole file in memory, and adds entries."""
    import keras

    with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as folder:
        reserve(os.path.join(folder, "model.weights.h5"), weights_size(model))
        keras.saving.save_model(model, folder, zipped=False)
        with zipfile.ZipFile(path, "w") as archive:
            for part in filter(pathlib.Path.is_file, pathlib.Path(folder).rglob("*")):
                archive.write(part, part.relative_to(folder))
            for name, text in entries.items():
                archive.writestr(name, text)


def save_weights(model, path):
    """Saves a model's weights as a `.weights.h5` file, whole or not at all."""
    with written_whole(path, room=weights_size(model)) as temporary:
        model.save_weights(temporary)


def weights_size(model):
    """Bytes of a model's weights in a file, with the optimizer's state of a compiled one, and some more."""
    variables = [*model.variables, *getattr(getattr(model, "optimizer", None), "variables", ())]
    size = sum(4 * math.prod(variable.shape) for variable in variables)
    return size + size // 16 + 2**20


def load_model(path):
    """Loads a `.keras` file, uncompiled; InputError if it is missing or Keras cannot load it."""
    import keras

    check_keras_file(path)
    try:
        model = keras.saving.load_model(path, compile=False)
    except Exception as error:  # A damaged file can raise anything.
        check_room(error, path)
        raise InputError(f"{path} is not a Keras model: {first_line(error)}") from None
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise InputError(f"{path} holds a {type(model).__name__} without inputs of its own, and no model")
    return model


def load_class_names(path: Path) -> list[str] | None:
    """Returns the class names saved with a model as a list of strings, or None if it has none.

    Args:
        path: A `.keras` file.

    Raises:
        InputError: If the file is missing or not a `.keras` file.
    """
    entries = limits.read_entries(path, _CLASS_NAMES_ENTRY)
    if entries is None:
        raise InputError(f"{path} is not a .keras file, or is damaged")
    if _CLASS_NAMES_ENTRY not in entries:
        return None
    try:
        names = json.loads(entries[_CLASS_NAMES_ENTRY])
    except (ValueError, RecursionError) as error:
        raise InputError(f"the class names in {path} are damaged: {first_line(error)}") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"the class names in {path} must be a list of texts")
    return names
