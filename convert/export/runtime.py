"""Running a `.tflite` file: NumPy, Pillow and LiteRT, and neither Keras nor TensorFlow."""

import io
import json
import operator
import os
import zlib

import numpy as np
from PIL import Image

from convmixer_keras.images import preprocessing as preprocessing_module
from convmixer_keras.images.scores import softmax
from convmixer_keras.utils import limits
from convmixer_keras.utils.errors import InputError, first_line
from convmixer_keras.utils.files import check_file

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
            caller nor the file gives one, a default, with a note on standard error.
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
        self._path, self._entries = path, _entries(content, path)
        _check_network(content, self._entries, path)
        from ai_edge_litert.interpreter import Interpreter

        try:
            self._interpreter = Interpreter(model_content=content, num_threads=threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError, MemoryError) as error:
            reason = first_line(error)
            raise InputError(f"{path} is not a TFLite model that can be run: {reason}") from None
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0]["shape"]) != 4:
            raise InputError(f"{path} must have one input (1, height, width, channels) and one output")
        (self._input,), (self._output,) = inputs, outputs
        self.input_shape = tuple(int(n) for n in self._input["shape"][1:])
        names = [s["outputs"][0] for s in self._interpreter.get_signature_list().values()]
        self.output_name = names[0] if names else self._output["name"]
        self._take_entries()
        self._preprocessing = preprocessing or self._preprocessing
        if self._preprocessing and self._preprocessing.shape != self.input_shape:
            raise InputError(
                f"{path} takes images of the shape {self.input_shape}, and the preprocessing gives "
                f"{self._preprocessing.shape}"
            )

    def _take_entries(self):
        """Takes from the archive what the file says about itself."""
        entries, self.class_names = self._entries, None
        if LABELS_ENTRY in entries:
            try:
                self.class_names = entries[LABELS_ENTRY].decode("utf-8-sig").splitlines()
            except UnicodeDecodeError as error:
                raise InputError(f"the class names in {self._path} are damaged: {error}") from None
        self.takes_pixels = _input_record(entries, self._path).get("takes_pixels")
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
    check_file(path)
    if os.path.getsize(path) >= 2**31:
        raise InputError(f"{path} is not a TFLite model: it has 2 GiB or more")
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror.lower()}") from None
    if content[4:8] != b"TFL3":
        raise InputError(f"{path} is not a TFLite model")
    return content


def _entries(content, path):
    names = (LABELS_ENTRY, INPUT_ENTRY, preprocessing_module.ENTRY)
    entries = limits.read_entries(path, *names, file=io.BytesIO(content))
    if entries is None and INPUT_ENTRY.encode() in content:
        raise InputError(f"{path} is damaged: the archive at its end cannot be read")
    return entries or {}


def _input_record(entries, path):
    try:
        record = json.loads(entries.get(INPUT_ENTRY, b"{}"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"the {INPUT_ENTRY} in {path} is damaged: {first_line(error)}") from None
    if not isinstance(record, dict):
        raise InputError(f"the {INPUT_ENTRY} in {path} is damaged: it holds no record")
    return record


def _check_network(content, entries, path):
    """Raises InputError where a file states a checksum of its network, and the network has another.

    With a few wrong bits LiteRT may crash or hang.
    """
    stated = _input_record(entries, path).get("network")
    size = stated.get("bytes") if isinstance(stated, dict) else len(content)
    if stated is not None and (not isinstance(size, int) or stated != checksum(content[:size])):
        raise InputError(f"{path} is damaged: its network is not the one that was written")


def checksum(network):
    """Returns what an exported file states about the bytes of its network."""
    return {"bytes": len(network), "crc32": zlib.crc32(network)}


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
