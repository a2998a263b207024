"""Every command in a process of its own, under conditions that only a process has: see `corpus.py`."""

import random
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import torch
from conftest import ROOT
from PIL import Image
from processes import environment

import convmixer_keras as ck
from convmixer_keras.convert.export import tflite
from convmixer_keras.convert.weights import to_torch
from convmixer_keras.images.preprocessing import Preprocessing

PLACE = "größe"  # Of all files: the locale may lack its letters.
NAMES = ["grün", "rot"]
# What each command is given; "@" stands for the folder of the files that `prepare` makes.
TRAIN = "--dataset @photos --output @run --epochs 1 --batch-size 2 --hidden-dim 64 --depth 1 --image-size 16"
COMMANDS = {
    "convmixer-tflite": "@m.keras @out.tflite --mode int8 --calibrate @photos",
    "convmixer-onnx": "@m.keras @out.onnx",
    "convmixer-publish": "@m.keras @page",
    "convmixer-convert": "@m.pth @out.keras --activation gelu",
    "convmixer-convert --to": "@m.keras @out.safetensors --to timm",
    "convmixer-train": TRAIN,
    "convmixer-train --evaluate": "--evaluate @m.keras --dataset @photos --report @report",
    "convmixer-train --evaluate x.tflite": "--evaluate @m.tflite --dataset @photos",
    "convmixer-train --preview": "--preview @p.png --dataset @photos --batch-size 2",
    "convmixer-predict": "@a.png --model @m.keras --csv @out.csv --sheet @sheet.png",
    "features.py": "@photos --model @m.keras --output @features.png",
    "explain.py": "@m.keras --photo @a.png --output @pictures",
    "on_device.py": "@a.png --model @m.tflite",
}
WITHOUT_FILES = ("convmixer-train --evaluate x.tflite", "on_device.py")  # They write none.


def prepare(root):
    """Makes the small files that the commands read, and returns their folder."""
    folder = root / PLACE
    pixels = np.random.default_rng(0)
    for split, name, number in ((s, n, i) for s in ("train", "val") for n in NAMES for i in range(2)):
        path = folder / "photos" / split / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.integers(0, 256, (24, 20, 3), np.uint8)).save(path)
    (folder / "a.png").write_bytes(path.read_bytes())
    sizes = {"kernel_size": 3, "patch_size": 2, "classes": 2, "input_shape": (16, 16, 3)}
    model = ck.ConvMixer(128, 2, input_mean=127, input_std=60, **sizes)  # Larger than the limit below.
    ck.save_model(model, folder / "m.keras", NAMES, Preprocessing(16))
    tflite.export(model, folder / "m.tflite", labels=NAMES, preprocessing=Preprocessing(16))
    state = to_torch.to_state_dict(ck.ConvMixer(128, 2, **sizes), "timm")
    torch.save({name: torch.tensor(array) for name, array in state.items()}, folder / "m.pth")
    return folder


def start(command, folder, more="", largest_file=None, stdout=subprocess.DEVNULL, **variables):
    """Starts a command on the files of a folder, with further flags; returns its process."""
    program = command.split()[0]
    if program.endswith(".py"):
        words = [sys.executable, ROOT / "examples" / program]
    else:
        words = [sys.executable, "-m", f"convmixer_keras.commands.{program.removeprefix('convmixer-')}"]

    def limit():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if largest_file:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    return subprocess.Popen(
        [*words, *COMMANDS[command].replace("@", f"{PLACE}/").split(), *more.split()],
        cwd=folder.parent,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(PYTHONPATH=str(ROOT), **variables),
        preexec_fn=limit,
    )


def complaint(process, expected, words="", seconds=600):
    """Returns what is wrong with how a process ends, or None.

    Args:
        process: A process from `start`.
        expected: Its exit code. With 0 it says nothing of an error, with another one line, the last.
        words: What that line must hold.
        seconds: After which it hangs.
    """
    try:
        errors = process.communicate(timeout=seconds)[1].splitlines()
    except subprocess.TimeoutExpired:
        process.kill()
        return "hangs"
    said = [line for line in errors if "error: " in line or "Traceback" in line]
    if expected in (1, 2) and said == errors[-1:] and said and words in said[0]:
        said = []
    if process.returncode == expected and not said and (expected != 130 or "interrupted" in "".join(errors)):
        return None
    return f"exit {process.returncode}: " + " | ".join(errors)[-600:]


def interrupt(process, seed):
    """Presses Ctrl-C at a moment of the work, once the libraries are there."""
    draws = random.Random(seed)
    while process.poll() is None:
        with open(f"/proc/{process.pid}/maps") as file:
            if "tensorflow" in (maps := file.read()) or "litert" in maps:
                break
        time.sleep(0.05)
    time.sleep(draws.uniform(0, 6))
    process.send_signal(signal.SIGINT)
