"""PyTorch checkpoint files: reading them one tensor at a time, and writing them.

`.safetensors` needs no PyTorch. PyTorch loads pickled files, always with `weights_only=True`, so that code
inside them does not run.
"""

import argparse
import fnmatch
import json
import math
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import ml_dtypes
import numpy as np
import safetensors.numpy

from convmixer_keras.utils import extras, limits
from convmixer_keras.utils.errors import InputError, first_line
from convmixer_keras.utils.files import Path, check_file, read_text, written_whole

SAFETENSORS, INDEX = ".safetensors", ".safetensors.index.json"
PICKLED = (".pth", ".pth.tar", ".pt", ".bin")
WRITTEN = (SAFETENSORS, ".pth")

_SAFETENSORS_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}

# Under which name training programs keep the weights, and their moving average.
_WEIGHTS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params")
_EMA_WEIGHTS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "params_ema")
_DEEPEST = 16  # Dictionaries within one another.


class StoredTensor(NamedTuple):
    """A tensor that is still in its file: its shape, and a function that reads it as a float32 array."""

    shape: tuple
    read: Callable


def read_checkpoint(path: Path, *, ema: bool = False, prefix: str = "", ignore: Sequence[str] = ()) -> dict:
    """Reads the names and shapes of a checkpoint's tensors into a dict from name to `StoredTensor`.

    Args:
        path: A `.safetensors` file, the `.safetensors.index.json` of several, or a file of any other name
            that PyTorch saved.
        ema: Whether to take the moving average of the weights that a pickled file keeps beside them.
        prefix, ignore: Which tensors to take, as in `chosen`.

    Raises:
        InputError: If the file is missing, damaged, not a checkpoint or holds Python code; if `ema` is
            asked for and not there; or if the file is pickled and PyTorch is not installed. Reading a
            tensor raises it if the tensor is not of floating-point numbers or not all of them are finite.
    """
    path = os.fspath(path)
    check_file(path)
    if path.endswith(SAFETENSORS):
        if part := re.fullmatch(r"(.*)-\d+-of-\d+\.safetensors", path):
            raise InputError(f"{path} is one part of a checkpoint: give their index, {part[1]}{INDEX}")
        return chosen(_read_safetensors(path), path, prefix, ignore)
    if path.endswith(INDEX):
        return chosen(_read_parts(path), path, prefix, ignore)
    return _read_pickled(path, ema, prefix, ignore)


def chosen(tensors, path, prefix="", ignore=()):
    """Returns some of a file's tensors, a dict by name.

    Args:
        tensors, path: All of them, and the file for messages.
        prefix: What the names of the tensors to take begin with, which is left out; "" takes all.
        ignore: Names of tensors or modules to leave out, or patterns such as "criterion.*". A prefix or a
            pattern that fits none is an InputError.
    """
    if prefix:
        known = ", ".join(dict.fromkeys(name.partition(".")[0] for name in tensors))
        dotted = f"{prefix}."
        tensors = {name[len(dotted) :]: value for name, value in tensors.items() if name.startswith(dotted)}
        if not tensors:
            raise InputError(f"no name of a tensor in {path} begins with {dotted}: they begin with {known}")
    for pattern in ignore:
        left_out = {
            name for name in tensors if fnmatch.fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")
        }
        if not left_out:
            raise InputError(f"{path} has no tensor {pattern} to ignore")
        tensors = {name: value for name, value in tensors.items() if name not in left_out}
    return tensors


def part_names(path):
    """Returns the names of the files that an index of safetensors names, which lie beside it."""
    return sorted(set(_places(path).values()))


def _places(path):
    """Returns for each tensor of an index of safetensors the name of the file that it is in."""
    try:
        places = json.loads(read_text(path))["weight_map"]
        return {name: os.path.basename(file) for name, file in places.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise InputError(f"{path} is no index of the parts of a checkpoint") from None


def _read_parts(path):
    parts = {name: os.path.join(os.path.dirname(path), name) for name in part_names(path)}
    for part in parts.values():
        check_file(part)
    parts = {name: _read_safetensors(part) for name, part in parts.items()}
    places = _places(path)
    for name, part in places.items():
        if name not in parts[part]:
            raise InputError(f"{part} has no tensor {name}, which {path} says is in it")
    return {name: parts[part][name] for name, part in places.items()}


def _read_safetensors(path):
    try:
        # The library checks the file. It does not give NumPy float8, so tensors are read here.
        with safetensors.safe_open(path, framework="np"):
            pass
    except safetensors.SafetensorError as error:
        raise InputError(f"{path} is damaged or not a .safetensors file: {error}") from None
    with open(path, "rb") as file:
        start_of_data = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start_of_data - 8))
    header.pop("__metadata__", None)

    def stored(name, entry):
        def read():
            if entry["dtype"] not in _SAFETENSORS_DTYPES:
                raise InputError(
                    f"{name} in {path} has type {entry['dtype']}, expected floating-point numbers"
                )
            start = start_of_data + entry["data_offsets"][0]
            dtype, count = _SAFETENSORS_DTYPES[entry["dtype"]], math.prod(entry["shape"])
            array = np.fromfile(path, dtype, count, offset=start)
            return finite_float32(array.reshape(entry["shape"]), name, path)

        return StoredTensor(tuple(entry["shape"]), read)

    return {name: stored(name, entry) for name, entry in header.items()}


def _read_pickled(path, ema, prefix, ignore):
    if not extras.is_installed("torch"):
        raise InputError(
            f"reading {path} needs PyTorch, which is not installed: {extras.how_to_install('torch')}, or "
            "convert a .safetensors file"
        )
    import torch

    # What training programs keep beside the weights: these classes only hold values, and run nothing.
    harmless = [argparse.Namespace, np.dtype, type(np.dtype(np.float64)), type(np.dtype(np.float32))]
    harmless.append(np.float64(0).__reduce__()[0])  # Whose module's name depends on NumPy's version.
    try:
        mapped = _check_archive(path) or None
        with torch.serialization.safe_globals(harmless), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # On pickles of unusual versions.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except InputError:
        raise
    except Exception as error:  # A damaged file can raise anything.
        raise InputError(_why_not_loaded(path, error)) from None

    def stored(name, tensor):
        def read():
            if not tensor.is_floating_point() or tensor.layout is not torch.strided or tensor.is_meta:
                raise InputError(
                    f"{name} in {path} has type {tensor.dtype}, {tensor.layout}, on {tensor.device}; "
                    "expected dense floating-point numbers"
                )
            return finite_float32(tensor.detach().to(torch.float32).numpy(), name, path)

        return StoredTensor(tuple(tensor.shape), read)

    tensors = _state_dict(content, ema, path, prefix, ignore)
    for name, tensor in tensors.items():
        if not torch.is_tensor(tensor):
            raise InputError(f"{name} in {path} is not a tensor but of type {type(tensor).__name__}")
    # A tensor may show one number many times over.
    limits.check_unpacked(path, sum(4 * tensor.numel() for tensor in tensors.values()), "its tensors")
    return {name: stored(name, tensor) for name, tensor in tensors.items()}


def _check_archive(path):
    """Returns whether a file is an archive. Refuses programs, and wrong sums, which PyTorch does not read."""
    if not zipfile.is_zipfile(path):
        return False
    limits.check_zip(path)
    with zipfile.ZipFile(path) as archive:
        if {"constants.pkl", "archive_format"} & {name.partition("/")[2] for name in archive.namelist()}:
            raise InputError(
                f"{path} is a program of TorchScript or torch.export, not a file of weights: open it with "
                "torch.jit.load or torch.export.load, and save its state_dict with torch.save"
            )
        # They are 0 where torch.save was told to leave them out.
        if any(entry.CRC for entry in archive.infolist()) and (name := archive.testzip()):
            raise InputError(f"{path} is damaged: the checksum of {name} is wrong")
    return True


def _why_not_loaded(path, error):
    if match := re.search(r"(?:Unsupported global: |unsupported )GLOBAL (\S+)", str(error)):
        return (
            f"{path} holds Python code or objects ({match[1]}), not only tensors; it was not run. If the "
            "file is your own, save model.state_dict() instead"
        )
    match = re.search(r"WeightsUnpickler error: (.+)", str(error))
    reason = match[1] if match else f"{type(error).__name__}: {first_line(error)[:200]}"
    return f"{path} is damaged or not a PyTorch checkpoint: {reason}"


def _state_dict(content, ema, path, prefix, ignore):
    """Returns the dict of the tensors to take from what a training program saved."""
    import torch

    names = _EMA_WEIGHTS if ema else (prefix, *_WEIGHTS)
    for _ in range(_DEEPEST):
        if not isinstance(content, dict):
            raise InputError(f"{path} is not a checkpoint: it holds a {type(content).__name__}, not a dict")
        name = next((name for name in names if isinstance(content.get(name), dict)), None)
        if name is None:
            break
        content, names = content[name], _WEIGHTS
        prefix = "" if name == prefix else prefix
    else:  # A pickled dictionary may hold itself.
        raise InputError(f"{path} is not a checkpoint: its dictionaries hold one another without end")
    entries = ", ".join(str(name) for name in list(content)[:8]) or "none"
    if names is _EMA_WEIGHTS:
        raise InputError(
            f"{path} holds no moving average (EMA) of the weights: none of {', '.join(names)} among its "
            f"entries, which are {entries}"
        )
    if not any(map(torch.is_tensor, content.values())):  # Under other names: what holds nothing but tensors.
        inner = {name: value for name, value in content.items() if isinstance(value, dict) and value}
        inner = {name: value for name, value in inner.items() if all(map(torch.is_tensor, value.values()))}
        if not inner:
            raise InputError(f"{path} is not a checkpoint: there are no tensors among its entries, {entries}")
        content = next(iter(inner.values()))
        if len(inner) > 1:
            content = {f"{name}.{key}": value for name in inner for key, value in inner[name].items()}
    return chosen({str(name): value for name, value in content.items()}, path, prefix, ignore)


def finite_float32(array, name, path):
    """Returns an array in float32, or raises InputError if not all of it is finite."""
    with np.errstate(over="ignore"):  # float64 beyond float32's range becomes infinite, and is reported.
        array = np.asarray(array, np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"{name} in {path} holds NaN or infinite values")
    return array


def write_checkpoint(
    arrays: Mapping[str, np.ndarray], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Writes a state dict, whole or not at all.

    Args:
        arrays: Dict from name to array.
        path: Ends in .safetensors, or .pth, which needs PyTorch.
        metadata: Dict from string to string, which only .safetensors keeps.

    Raises:
        InputError: If the file cannot be written or its name ends otherwise, or PyTorch is needed and not
            installed.
    """
    path = os.fspath(path)
    check_writable_name(path)
    size = sum(array.nbytes for array in arrays.values())
    with written_whole(path, room=size + size // 16 + 2**20) as temporary:
        if path.endswith(SAFETENSORS):
            # The format says to readers in whose memory layout the tensors are.
            with open(temporary, "wb") as file:
                file.write(safetensors.numpy.save(arrays, metadata={"format": "pt", **(metadata or {})}))
        else:
            import torch

            torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, temporary)


def check_writable_name(path):
    """Raises InputError if `path` does not name a file that `write_checkpoint` can write here."""
    if not path.endswith(WRITTEN):
        raise InputError(f"a PyTorch file's name must end in {' or '.join(WRITTEN)}, got {path}")
    if not path.endswith(SAFETENSORS) and not extras.is_installed("torch"):
        raise InputError(f"writing {path} needs PyTorch, which is not installed; .safetensors does not")
