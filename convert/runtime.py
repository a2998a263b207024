"""Running a `.tflite` file: NumPy, Pillow and LiteRT, and neither Keras nor TensorFlow."""

import io
import json
import operator
import os
import zipfile

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from convmixer_keras.utils.errors import InputError

# What an exported file carries besides the network: a zip archive at its end, which every zip tool opens
# and LiteRT does not look at. Android's metadata library finds `labels.txt` in the same way.
LABELS_ENTRY = "labels.txt"
INPUT_ENTRY = "input.json"


class Classifier:
    """A `.tflite` file, ready to run.

    Attributes:
        input_shape: (height, width, channels) of the images.
        output_name: What the scores are: "probabilities", "logits" or "features".
        class_names: List of the name of each class, or None if the file has none.
        takes_pixels: False for a file whose input is channels that are normalised already, None where the
            file does not say.
    """

    def __init__(self, path, threads=1):
        """Reads the file and prepares it to run.

        Args:
            path: A `.tflite` file with one input (1, height, width, channels) and one output.
            threads: How many CPU threads to use, at least 1.

        Raises:
            InputError: If the file is missing or not such a file, or `threads` is out of its range.
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
        entries = _entries(content)
        labels = entries.get(LABELS_ENTRY)
        self.class_names = labels.decode().splitlines() if labels is not None else None
        self.takes_pixels = json.loads(entries.get(INPUT_ENTRY, b"{}")).get("takes_pixels")

    def predict(self, images):
        """Runs the network on images, one after the other.

        Args:
            images: One image or a sequence of them: paths of image files, which are resized and cropped,
                or arrays of exactly `input_shape`, a batch of them included. Raw RGB pixels 0..255 in any
                numeric dtype, or normalised channels where the file takes those.

        Returns:
            Scores, float32 (images, classes); what they are `output_name` says.

        Raises:
            InputError: If an image cannot be read or has another shape.
        """
        if isinstance(images, (str, os.PathLike)) or (isinstance(images, np.ndarray) and images.ndim == 3):
            images = [images]
        none = np.zeros((0, *self._output["shape"][1:]), np.float32)
        return np.concatenate([none, *(self._run(self._pixels(image)) for image in images)])

    def top(self, images, k=5):
        """Names the highest scores of each image.

        Args:
            images: As in `predict`.
            k: How many to name.

        Returns:
            For each image a list of (index, name, score), the highest score first; the name is the index
            as a string where the file has no class names.
        """
        if k < 1:
            raise InputError(f"k must be at least 1, got {k}")
        scores = self.predict(images)
        if scores.ndim != 2:
            raise InputError(
                f"the file gives {self.output_name} of the shape {scores.shape[1:]}, and no scores"
            )
        names = self.class_names or [str(i) for i in range(scores.shape[1])]
        return [
            [(int(i), names[i], float(row[i])) for i in np.argsort(-row, kind="stable")[:k]] for row in scores
        ]

    def _pixels(self, image):
        if isinstance(image, (str, os.PathLike)):
            if self.takes_pixels is False:
                raise InputError(
                    "this file takes normalised channels: pass arrays, or export it with --mean and --std"
                )
            return read_image(image, self.input_shape)
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


def read_image(path, shape, crop_pct=1.0):
    """Reads an image file as a viewer shows it: turned as its EXIF data says, resized, the centre cropped.

    Args:
        path: An image file of any format that Pillow reads.
        shape: (height, width, channels) of the result; 1 channel is grey, 3 are RGB.
        crop_pct: Share of the resized image that the crop keeps.

    Returns:
        A float32 array of that shape, 0..255.

    Raises:
        InputError: If the file is missing or not a readable image.
    """
    height, width, channels = shape
    if channels not in (1, 3):
        raise InputError(f"image files have 1 or 3 channels, and this model takes {channels}")
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
    except FileNotFoundError:
        raise InputError(f"there is no file {os.fspath(path)}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot read {os.fspath(path)} as an image: {error}") from None
    scale = max(int(height / crop_pct) / image.height, int(width / crop_pct) / image.width)
    # Both sides reach the crop's whatever the rounding; the longer one is truncated, as torchvision does.
    resized_width = max(width, int(image.width * scale + 1e-6))
    resized_height = max(height, int(image.height * scale + 1e-6))
    image = image.resize((resized_width, resized_height), Image.Resampling.BICUBIC)
    left, top = round((resized_width - width) / 2), round((resized_height - height) / 2)
    image = image.crop((left, top, left + width, top + height))
    return np.asarray(image, np.float32).reshape(shape)


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


def _entries(content):
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    except zipfile.BadZipFile:
        return {}


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
