#!/usr/bin/env python3
"""Names what is on photographs, with NumPy, Pillow and LiteRT alone: copy this file to the device.

  pip install numpy pillow ai-edge-litert
  python on_device.py dog.jpg cat.jpg --model out.tflite

`out.tflite` is a file that convmixer-tflite wrote, with class names in it and raw pixels as its input. Prints
the likeliest classes of each photograph with their probabilities, and the time that the network took: 29 ms
for ConvMixer-1024/20 (--mode dynamic) on one core of an AMD EPYC.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import sys
import time
import zipfile

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps, UnidentifiedImageError


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    versions = " ".join(f"{n} {importlib.metadata.version(n)}" for n in ("numpy", "pillow", "ai-edge-litert"))
    parser.add_argument("--version", action="version", version=versions, help="show the versions and exit")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument("--model", required=True, metavar="FILE", help="a .tflite file")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads to use (default: 1)")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="classes to name (default: 5)")
    arguments = parser.parse_args()
    if arguments.threads < 1 or arguments.top < 1:
        parser.error("--threads and --top must be at least 1")

    interpreter, names = load(arguments.model, arguments.threads)
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    for path in arguments.images:
        pixels = read_image(path, source["shape"][1:])
        start = time.perf_counter()
        # An int8 file takes the bytes of the image as they are, any other one float32.
        interpreter.set_tensor(source["index"], pixels.astype(source["dtype"])[None])
        interpreter.invoke()
        scores = probabilities(interpreter, interpreter.get_tensor(target["index"])[0])
        print(f"{path} ({1e3 * (time.perf_counter() - start):.0f} ms)")
        for i in np.argsort(-scores, kind="stable")[: arguments.top]:
            print(f"  {scores[i]:8.4f}  {names[i] if names else i}")


def load(path, threads):
    """Returns the interpreter, and the class names that travel in the file or None."""
    try:
        with standard_error_held_back():  # LiteRT says there that it has begun.
            interpreter = Interpreter(path, num_threads=threads)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        give_up(f"cannot run {path} as a TFLite model: {error}")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {name: archive.read(name).decode() for name in archive.namelist()}
    except zipfile.BadZipFile:
        return interpreter, None
    if json.loads(entries.get("input.json", "{}")).get("takes_pixels") is False:
        give_up(f"{path} takes normalised channels: export it with --mean and --std")
    return interpreter, entries["labels.txt"].splitlines() if "labels.txt" in entries else None


def probabilities(interpreter, scores):
    """Returns the scores, or their softmax where the file says that they are logits."""
    if any("logits" in signature["outputs"] for signature in interpreter.get_signature_list().values()):
        scores = np.exp(scores - scores.max())
        scores /= scores.sum()
    return scores


def read_image(path, shape):
    """Returns uint8 pixels of the shape (height, width, channels): resized, and the centre cropped."""
    height, width, channels = map(int, shape)
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
    except (UnidentifiedImageError, OSError) as error:
        give_up(f"cannot read {path} as an image: {error}")
    image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(height, width, channels)


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
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
