"""Running a `.tflite` file: NumPy, Pillow and LiteRT, and neither Keras nor TensorFlow."""

import io
import json
import operator
import os
import zipfile
import zlib

import numpy as np
from PIL import Image

from convmixer_keras.data import preprocessing as preprocessing_module
from convmixer_keras.data.scores import softmax
from convmixer_keras.utils.errors import InputError

# What an exported file carries besides the network: a zip archive at its end, which every zip tool opens
# and LiteRT does not look at. Android's metadata library finds `labels.txt` in the same way.
LABELS_ENTRY = "labels.txt"
INPUT_ENTRY = "input.json"
# What `Preprocessing` takes besides arrays.
_PHOTOGRAPHS = (str, bytes, os.PathLike, Image.Image)


class Classifier:
    """A `.tflite` file, ready to run.

    Attributes:
        input_shape: (height, width, channels) of the images.
        output_name: What the scores are: "probabilities", "logits" or "features".
        classes: How many scores the file gives for an image.
        class_names: List of the name of each class, or None if the file has none.
        preprocessing: The `Preprocessing` that makes the network's input of a photograph. Where neither the
            caller nor the file says one, a default is taken at the first photograph, and said on standard
            error.
        takes_pixels: False for a file whose input is channels that are normalised already, None where the
            file does not say.
    """

    def __init__(self, path, threads=1, preprocessing=None):
        """Reads the file and prepares it to run.

        Args:
            path: A `.tflite` file with one input (1, height, width, channels) and one output.
            threads: How many CPU threads to use, at least 1.
            preprocessing: A `Preprocessing` in place of the one in the file.

        Raises:
            InputError: If the file is missing or not such a file, what it says about itself does not fit it,
                or an argument is out of its range.
        """
        try:
            threads = operator.index(threads)
        except TypeError:
            raise InputError(f"threads must be a positive integer, got {threads!r}") from None
        if threads < 1:
            raise InputError(f"threads must be a positive integer, got {threads}")
        path = os.fspath(path)
        content = _read(path)
        from ai_edge_litert.interpreter import Interpreter

        try:
            self._interpreter = Interpreter(model_content=content, num_threads=threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise InputError(f"{path} is not a TFLite model that can be run: {error}") from None
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0]["shape"]) != 4:
            raise InputError(f"{path} must have one input (1, height, width, channels) and one output")
        (self._input,), (self._output,) = inputs, outputs
        self.input_shape = tuple(int(n) for n in self._input["shape"][1:])
        names = [s["outputs"][0] for s in self._interpreter.get_signature_list().values()]
        self.output_name = names[0] if names else self._output["name"]
        self._path = path
        self._read_entries(_entries(content, path))
        self._preprocessing = preprocessing or self._preprocessing
        if self._preprocessing and self._preprocessing.shape != self.input_shape:
            raise InputError(
                f"{path} takes images of the shape {self.input_shape}, and the preprocessing gives "
                f"{self._preprocessing.shape}"
            )

    def _read_entries(self, entries):
        """Takes from the archive what the file says about itself."""
        self.class_names = None
        try:
            if LABELS_ENTRY in entries:
                self.class_names = entries[LABELS_ENTRY].decode("utf-8-sig").splitlines()
            self.takes_pixels = json.loads(entries.get(INPUT_ENTRY, b"{}")).get("takes_pixels")
        except (ValueError, AttributeError, RecursionError) as error:
            raise InputError(f"what {self._path} says about itself is damaged: {error}") from None
        self.classes = int(self._output["shape"][-1])
        if self.class_names is not None and len(self.class_names) != self.classes:
            raise InputError(
                f"{self._path} has {self.classes} classes, and the names of {len(self.class_names)}"
            )
        text = entries.get(preprocessing_module.ENTRY)
        self._preprocessing = None if text is None else preprocessing_module.from_json(text, self._path)

    @property
    def preprocessing(self):
        if self._preprocessing is None:
            if self.takes_pixels is False:
                raise InputError(
                    f"{self._path} takes normalised channels, and does not say which: pass arrays, or export "
                    "it with --mean and --std"
                )
            *size, channels = self.input_shape
            self._preprocessing = preprocessing_module.assumed(self._path, size, channels)
        return self._preprocessing

    def predict(self, images):
        """Runs the network on images, one after the other.

        Args:
            images: One image or a sequence of them. Paths of image files, their bytes and Pillow images go
                through `preprocessing`. Arrays are taken as they are, of exactly `input_shape`, a batch of
                them included: raw RGB pixels 0..255 in any numeric dtype, or normalised channels where the
                file takes those.

        Returns:
            Scores, float32 (images, classes); what they are `output_name` says.

        Raises:
            InputError: If an image cannot be read or has another shape.
        """
        if isinstance(images, _PHOTOGRAPHS) or (isinstance(images, np.ndarray) and images.ndim == 3):
            images = [images]
        none = np.zeros((0, *self._output["shape"][1:]), np.float32)
        return np.concatenate([none, *(self._run(self._pixels(image)) for image in images)])

    def top(self, images, k=5):
        """Names the likeliest classes of each image.

        Args:
            images: As in `predict`.
            k: How many to name.

        Returns:
            For each image a list of (index, name, probability), the highest first; the name is the index as
            a string where the file has no class names.
        """
        if k < 1:
            raise InputError(f"k must be at least 1, got {k}")
        scores = self.predict(images)
        if scores.ndim != 2:
            raise InputError(
                f"the file gives {self.output_name} of the shape {scores.shape[1:]}, and no scores"
            )
        if self.output_name == "logits":
            scores = softmax(scores)
        names = self.class_names or [str(i) for i in range(scores.shape[1])]
        return [
            [(int(i), names[i], float(row[i])) for i in np.argsort(-row, kind="stable")[:k]] for row in scores
        ]

    def _pixels(self, image):
        if isinstance(image, _PHOTOGRAPHS):
            return self.preprocessing(image)
        image = np.asarray(image)
        if image.shape != self.input_shape or image.dtype.kind not in "uif":
            raise InputError(
                f"an image must be numbers of the shape {self.input_shape}, got {image.dtype} {image.shape}"
            )
        return image.astype(np.float32)

    def _run(self, image):
        self._interpreter.set_tensor(self._input["index"], _quantized(image[None], self._input))
        self._interpreter.invoke()
        return _dequantized(self._interpreter.get_tensor(self._output["index"]), self._output)


def _read(path):
    try:
        with open(path, "rb") as file:
            content = file.read()
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror.lower()}") from None
    if content[4:8] != b"TFL3":
        raise InputError(f"{path} is not a TFLite model")
    return content


def _entries(content, path):
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    except zipfile.BadZipFile:
        return {}
    except (OSError, RuntimeError, NotImplementedError, zlib.error) as error:
        raise InputError(f"the archive at the end of {path} is damaged: {error}") from None


def _quantized(values, detail):
    dtype = detail["dtype"]
    if dtype == np.float32:
        return values
    scale, zero = detail["quantization"]
    limits = np.iinfo(dtype)
    return np.clip(np.round(values / (scale or 1) + zero), limits.min, limits.max).astype(dtype)


def _dequantized(values, detail):
    if values.dtype == np.float32:
        return values
    scale, zero = detail["quantization"]
    return ((values.astype(np.float32) - zero) * (scale or 1)).astype(np.float32)
