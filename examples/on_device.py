#!/usr/bin/env python3
"""Names what is on photographs, with only NumPy, Pillow and LiteRT: copy this file to the device.

  pip install numpy pillow ai-edge-litert
  python on_device.py dog.jpg cat.jpg --model model.tflite

`model.tflite` is a file that convmixer-tflite wrote: it holds class names, and says how a photograph becomes
its input. Without --model it is cifar10.tflite beside this script, which knows CIFAR-10's ten classes. Prints
the likeliest classes of each photograph with their probabilities, and the time that the network took: 29 ms
for ConvMixer-1024/20 (--mode dynamic) on one core of an AMD EPYC.
"""

import argparse
import contextlib
import importlib.metadata
import json
import math
import os
import sys
import time
import warnings
import zipfile

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps

_CIFAR10 = os.path.join(os.path.dirname(os.path.abspath(__file__)), "cifar10.tflite")
# What a file says about how a photograph becomes its input; the last two only where it takes that.
_RECORD = ("crop_pct", "interpolation", "orientation", "mean", "std")
_FILTERS = ("bicubic", "bilinear", "lanczos", "nearest")
_ENTRIES = ("labels.txt", "preprocessing.json", "input.json")
_LARGEST_ENTRY = 2**24  # Bytes of one of these, unpacked.
_MOST_PIXELS = 120_000_000  # Of an image: 360 MB in memory.


def main():
    sys.stdout.reconfigure(errors="backslashreplace")  # Of names that the terminal's encoding lacks.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # Large images are refused below.
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    versions = " ".join(f"{n} {importlib.metadata.version(n)}" for n in ("numpy", "pillow", "ai-edge-litert"))
    parser.add_argument("--version", action="version", version=versions, help="show the versions and exit")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument("--model", default=_CIFAR10, metavar="FILE", help="a .tflite file")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads to use (default: 1)")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="classes to name (default: 5)")
    parser.add_argument("--crop-pct", type=float, metavar="X", help="share that the crop keeps, 0..1")
    parser.add_argument("--interpolation", choices=_FILTERS, help="filter of the resize")
    parser.add_argument("--orientation", choices=("exif", "stored"), help="turn by EXIF data or not")
    arguments = parser.parse_args()
    if arguments.threads < 1 or arguments.top < 1:
        parser.error("--threads and --top must be at least 1")
    if arguments.crop_pct is not None and not 0 < arguments.crop_pct <= 1:
        parser.error("--crop-pct must be over 0 and at most 1")

    record = {name: getattr(arguments, name) for name in ("crop_pct", "interpolation", "orientation")}
    interpreter, names, record = load(arguments.model, arguments.threads, record)
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    for path in arguments.images:
        image = network_input(path, source["shape"][1:], **record)
        start = time.perf_counter()
        # An int8 file takes the bytes of the image as they are, any other one float32.
        batch = np.repeat(image.astype(source["dtype"])[None], source["shape"][0], axis=0)
        interpreter.set_tensor(source["index"], batch)
        interpreter.invoke()
        scores = interpreter.get_tensor(target["index"])[0]
        if not np.isfinite(scores).all():
            give_up(f"{arguments.model} gives NaN or infinity: its weights are damaged")
        scores = probabilities(arguments.model, interpreter, scores)
        print(f"{printable(path)} ({1e3 * (time.perf_counter() - start):.0f} ms)")
        for i in np.argsort(-scores, kind="stable")[: arguments.top]:
            print(f"  {scores[i]:9.7f}  {printable(names[i]) if names else i}")


def load(path, threads, wanted):
    """Returns the interpreter, the class names or None, and how a photograph becomes the input.

    `wanted` is what the user says of the last, None where the file says.
    """
    check_file(path)
    try:
        with standard_error_held_back():  # LiteRT says there that it has begun.
            interpreter = Interpreter(path, num_threads=threads)
            interpreter.allocate_tensors()
    except Exception as error:  # Whatever LiteRT says of a damaged file.
        give_up(f"cannot run {path} as a TFLite model: {error}")
    classes = check_network(path, interpreter)
    try:
        entries = read_entries(path)
        record = json.loads(entries.get("preprocessing.json", "{}"))
        takes_pixels = json.loads(entries.get("input.json", "{}")).get("takes_pixels")
        if record and not (0 < record["crop_pct"] <= 1 and record["interpolation"] in _FILTERS):
            raise ValueError("its preprocessing.json is of another kind")
        if unknown := set(record) - {*_RECORD, "size", "channels"}:
            raise ValueError(f"this program is too old for its {', '.join(sorted(unknown))}")
        channels = interpreter.get_input_details()[0]["shape"][-1]
        for name in {"mean", "std"} & {name for name, value in record.items() if value is not None}:
            record[name] = np.broadcast_to(np.float32(record[name]), channels)
    except Exception as error:  # A damaged archive can raise anything.
        give_up(f"what {path} says about itself is damaged or not known: {error!r}")
    names = entries["labels.txt"].splitlines() if "labels.txt" in entries else None
    if names and len(names) != classes:
        give_up(f"{path} has {classes} classes, and the names of {len(names)}")
    if not record:
        if takes_pixels is False:
            give_up(f"{path} takes normalised channels: export it with --mean and --std")
        record = {"crop_pct": 1.0, "interpolation": "bicubic", "orientation": "exif"}
        print(
            f"note: {path} does not record its preprocessing; using crop_pct 1, bicubic, turned as EXIF says "
            "(override with --crop-pct, --interpolation, --orientation)",
            file=sys.stderr,
        )
    record = {name: record.get(name) for name in _RECORD}
    record |= {name: value for name, value in wanted.items() if value is not None}
    return interpreter, names, record


def check_network(path, interpreter):
    """Returns how many classes the network has; gives up where it is not of photographs to class scores."""
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    taken = [tuple(map(int, detail["shape_signature"])) for detail in inputs]
    given = [tuple(map(int, detail["shape"])) for detail in outputs]
    fits = [len(taken), len(given), len(taken[0]), len(given[0])] == [1, 1, 4, 2]
    if not fits or min(taken[0][1:]) < 1 or given[0][0] != inputs[0]["shape"][0] or taken[0][3] not in (1, 3):
        give_up(f"{path} must take images and give one score for each class; takes {taken}, gives {given}")
    if inputs[0]["dtype"] not in (np.float32, np.uint8) or outputs[0]["dtype"] != np.float32:
        give_up(f"{path} must take float32 or uint8 and give float32")
    return given[0][1]


def read_entries(path):
    """Returns the texts in the zip archive at the end of a file, by name; none where it has no archive."""
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        return {}
    with archive:
        entries = [entry for entry in archive.infolist() if entry.filename in _ENTRIES]
        if any(entry.file_size > _LARGEST_ENTRY or entry.compress_type > 8 for entry in entries):
            raise ValueError("an entry of its archive is too large, or packed in another way")
        return {entry.filename: archive.read(entry).decode("utf-8-sig") for entry in entries}


def probabilities(path, interpreter, scores):
    """Returns the scores, or their softmax where the file says that they are logits."""
    stated = {
        name for signature in interpreter.get_signature_list().values() for name in signature["outputs"]
    }
    if "features" in stated:
        give_up(f"{path} gives features, and no score for each class")
    if "logits" in stated:
        one = len(scores) == 1  # Of two classes, the other of which has the logit 0.
        scores = np.append(scores, 0) if one else scores
        scores = np.exp(scores - scores.max())
        scores = (scores / scores.sum())[: 1 if one else None]
    elif "probabilities" not in stated:
        slack = 0.001 + len(scores) / 512  # In an int8 file they are rounded to steps of 1/256.
        if scores.min() < 0 or abs(scores.sum() - 1) > slack:
            give_up(
                f"{path} does not say what its scores are, and they do not add up to 1 as probabilities do"
            )
    return scores


def network_input(path, shape, crop_pct, interpolation, orientation, mean=None, std=None):
    """Returns float32 (height, width, channels): turned, resized, the centre cropped, and normalised."""
    height, width, channels = map(int, shape)
    check_file(path)
    try:
        with Image.open(path) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise ValueError(f"it has {image.width} x {image.height} pixels")
            if orientation == "exif":
                image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I;16"):  # Of 16 bits the upper eight.
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            image = image.convert("L" if channels == 1 else "RGB")
    except Exception as error:  # Pillow's readers raise nearly everything on damaged files.
        give_up(f"cannot read {path} as an image: {error}")
    # One side gets the least length, and the longer one is truncated, as in training.
    least_height, least_width = math.floor(height / crop_pct), math.floor(width / crop_pct)
    if image.width * least_height >= image.height * least_width:
        whole = image.width * least_height // image.height, least_height
    else:
        whole = least_width, image.height * least_width // image.width
    method = Image.Resampling[interpolation.upper()]
    left, top = round((whole[0] - width) / 2), round((whole[1] - height) / 2)
    if whole[0] * whole[1] > _MOST_PIXELS:  # Of a long strip, only what the crop shows.
        across, down = image.width / whole[0], image.height / whole[1]
        box = (left * across, top * down, (left + width) * across, (top + height) * down)
        image = image.resize((width, height), method, box)
    else:
        # Across first: within one call, the order and so the rounding depend on Pillow's version.
        image = image.resize((whole[0], image.height), method).resize(whole, method)
        image = image.crop((left, top, left + width, top + height))
    pixels = np.asarray(image, np.float32).reshape(height, width, channels)
    return pixels if mean is None else (pixels / 255 - mean) / std


def check_file(path):
    """Gives up unless a path is a file that can be read: a pipe would wait, and a device never end."""
    if not os.path.exists(path):
        give_up(f"there is no file {path}")
    if not os.path.isfile(path):
        give_up(f"cannot read {path}: it is not a regular file")
    if not os.access(path, os.R_OK):
        give_up(f"cannot read {path}: permission denied")


@contextlib.contextmanager
def standard_error_held_back():
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def give_up(message):
    print(f"error: {printable(message)[:600]}", file=sys.stderr)
    sys.exit(2)


def printable(text):
    """Escapes control characters, which text from a file must not send to the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


if __name__ == "__main__":
    try:
        main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except OSError as error:  # The disk is full, or nobody reads any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        print(f"error: {error.strerror.lower()}", file=sys.stderr)
        sys.exit(1)
