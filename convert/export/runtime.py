"""Running a `.tflite` file: NumPy, Pillow and LiteRT, and neither Keras nor TensorFlow."""

import io
import json
import os
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from convmixer_keras.images import preprocessing as preprocessing_module
from convmixer_keras.images.predictor import Predictor, choose_preprocessing
from convmixer_keras.images.scores import SCORES
from convmixer_keras.utils import checks, limits
from convmixer_keras.utils.errors import InputError, first_line
from convmixer_keras.utils.files import Path, check_file

# What an exported file carries besides the network: a zip archive at its end, which every zip tool opens
# and LiteRT does not look at. Android's metadata library finds `labels.txt` in the same way.
LABELS_ENTRY = "labels.txt"
INPUT_ENTRY = "input.json"


class Classifier(Predictor):
    """A `.tflite` file, ready to run: the `Predictor` that `inference.load` returns for one.

    Attributes:
        batch: How many images the file itself takes at a time. The methods take any number.
    """

    def __init__(
        self,
        path: Path,
        threads: int = 1,
        *,
        scores: str | None = None,
        default: Callable | None = None,
        **changes: Any,
    ):
        """Reads the file and prepares it to run.

        Args:
            path: A `.tflite` file with one input (batch, height, width, channels) and one output.
            threads: How many CPU threads to use, at least 1.
            scores, default, changes: As in `inference.load`.

        Raises:
            InputError: If the file is missing or not such a file, what it says about itself does not fit it,
                or an argument is out of its range.
        """
        threads = checks.positive_int("threads", threads)
        checks.one_of("scores", scores, (None, *SCORES))
        path = os.fspath(path)
        content = _read(path)
        entries = _entries(content, path)
        takes_pixels, class_names = _stated(content, entries, path)
        self._interpreter = _interpreter(content, threads, path)
        self._input, self._output = _ends(self._interpreter, path)
        self.batch, *shape = (int(side) for side in self._input["shape"])
        recorded = entries.get(preprocessing_module.ENTRY)
        if recorded is not None:
            recorded = preprocessing_module.from_json(recorded, path)
        super().__init__(
            path,
            self._run_all,
            shape,
            self._output["shape"][1:],
            _output_name(self._interpreter, self._output, scores, path),
            class_names,
            takes_pixels,
            choose_preprocessing(path, shape, takes_pixels, recorded, default, changes),
            step=float(self._output["quantization"][0]),
        )

    def _run_all(self, images):
        outputs = []
        for first in range(0, len(images), self.batch):
            # The first images fill the last batch.
            together = images[np.arange(first, first + self.batch) % len(images)]
            self._interpreter.set_tensor(self._input["index"], _quantized(together, self._input))
            self._interpreter.invoke()
            outputs.append(_dequantized(self._interpreter.get_tensor(self._output["index"]), self._output))
        return np.concatenate(outputs)[: len(images)]


def _interpreter(content, threads, path):
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_content=content, num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError, MemoryError) as error:
        raise InputError(f"{path} is not a TFLite model that can be run: {first_line(error)}") from None
    return interpreter


def _ends(interpreter, path):
    """Returns the details of input and output, or raises InputError for a network of another kind."""
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    if len(inputs) != 1 or len(outputs) != 1:
        raise InputError(
            f"{path} must have one input and one output, and has {len(inputs)} and {len(outputs)}"
        )
    # In the signature, sides that the network leaves free are -1; its shape then says 1.
    stated = inputs[0]["shape_signature"].tolist()
    if len(stated) != 4 or not (stated[0] == -1 or stated[0] >= 1) or min(stated[1:]) < 1:
        raise InputError(f"{path} must take images (batch, height, width, channels), and takes {stated}")
    given, batch = outputs[0]["shape"].tolist(), int(inputs[0]["shape"][0])
    if len(given) < 2 or given[0] != batch:
        raise InputError(f"{path} must give scores of each image ({batch}, classes), and gives {given}")
    return inputs[0], outputs[0]


def _output_name(interpreter, output, scores, path):
    """Returns what the scores are: as the file names them, or else as the caller says."""
    names = [name for s in interpreter.get_signature_list().values() for name in s["outputs"]]
    stated = names[0] if names and names[0] in (*SCORES, "features") else None
    if stated is None and len(output["shape"]) != 2:
        return "features"
    if scores is not None and stated not in (None, scores):
        raise InputError(f"{path} gives {stated}, not {scores}")
    return stated or scores


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


def _stated(content, entries, path):
    """Returns whether a file says that it takes pixels, and its class names; None for what it does not say.

    Its network must have the checksum that it states: with a few wrong bits LiteRT may crash or hang.
    """
    try:
        record = json.loads(entries.get(INPUT_ENTRY, b"{}"))
        network, names = record.get("network"), entries.get(LABELS_ENTRY)
        damaged = network is not None and network != checksum(content[: network["bytes"]])
        names = names if names is None else names.decode("utf-8-sig").splitlines()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"what {path} says about itself is damaged: {first_line(error)}") from None
    if damaged:
        raise InputError(f"{path} is damaged: its network is not the one that was written")
    return record.get("takes_pixels"), names


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
