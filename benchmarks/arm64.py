"""The Python part of arm64.sh: writes the files, runs them on either machine, and reports.

arm64.py write FOLDER           on this machine: exports a small network and blocks of ConvMixer-1024/20
arm64.py run FOLDER NAME        on the emulated one, which has NumPy and LiteRT alone
arm64.py report FOLDER COUNTS   on this machine: compares scores, and prints the instructions as a table
"""

import os
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter

MODES = ("float32", "float16", "dynamic", "int8")
COUNTED = ("float32", "dynamic", "int8")  # float16 computes as float32 does.
IMAGES = 50


def write(folder):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    from tflite_latency import stock_export, take_statistics

    import convmixer_keras as ck
    from convmixer_keras.convert.export import tflite

    os.makedirs(folder, exist_ok=True)
    random = np.random.default_rng(0)
    images = random.uniform(0, 255, (IMAGES, 1, 1, 3)) + random.normal(0, 40, (IMAGES, 32, 32, 3))
    images = np.clip(images, 0, 255).round().astype(np.float32)
    np.save(f"{folder}/images.npy", images)
    keras.utils.set_random_seed(0)
    # 300 channels are two groups.
    small = ck.ConvMixer(300, 4, 9, 4, input_mean=120.0, input_std=60.0, input_shape=(32, 32, 3), classes=10)
    take_statistics(small, images)  # Else it names one class for all images.
    answers = len(set(small.predict(images, verbose=0).argmax(-1)))
    if answers < 6:
        raise SystemExit(f"error: {IMAGES} images get {answers} different answers: to agree says nothing")
    for mode in MODES:
        tflite.export(small, f"{folder}/small_{mode}.tflite", mode, calibration=images)
    image = random.normal(size=(1, 224, 224, 3)).astype(np.float32)
    for depth in (1, 2):
        block = ck.ConvMixer(1024, depth, 9, 14, input_shape=(224, 224, 3), classes=10)
        for mode in COUNTED:
            with open(f"{folder}/stock_{mode}_{depth}.tflite", "wb") as file:
                file.write(stock_export(block, image, mode))
            tflite.export(block, f"{folder}/ours_{mode}_{depth}.tflite", mode, calibration=image)


def run(folder, name):
    images = np.load(f"{folder}/images.npy")
    for mode in MODES:
        np.save(f"{folder}/{name}_{mode}.npy", scores(f"{folder}/small_{mode}.tflite", images))
    for file in counted_files():
        interpreter = Interpreter(f"{folder}/{file}.tflite", num_threads=1)
        interpreter.allocate_tensors()
        (source,) = interpreter.get_input_details()
        interpreter.set_tensor(source["index"], np.ones(source["shape"], source["dtype"]))
        interpreter.invoke()
        # What the plugin listens to.
        os.getppid()
        interpreter.invoke()
        os.getppid()


def counted_files():
    return [f"{who}_{mode}_{depth}" for who in ("stock", "ours") for mode in COUNTED for depth in (1, 2)]


def scores(path, images):
    interpreter = Interpreter(path, num_threads=1)
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    found = []
    for image in images:
        interpreter.set_tensor(source["index"], image[None].astype(source["dtype"]))
        interpreter.invoke()
        found.append(interpreter.get_tensor(target["index"])[0])
    return np.array(found)


def report(folder, counts):
    counted = read_counts(counts)
    images = np.load(f"{folder}/images.npy")
    print(f"Agreement with this machine on {IMAGES} images: same highest score, largest difference\n")
    print("| | " + " | ".join(MODES) + " |\n| --- |" + " ---: |" * len(MODES))
    here = {mode: scores(f"{folder}/small_{mode}.tflite", images) for mode in MODES}
    for name in counted:
        cells = []
        for mode, expected in here.items():
            got = np.load(f"{folder}/{name}_{mode}.npy")
            same = np.sum(got.argmax(-1) == expected.argmax(-1))
            difference = np.abs(got - expected).max() / np.abs(expected).max()
            cells.append(f"{same}, {100 * difference:.2g} %")
        print(f"| {name} | " + " | ".join(cells) + " |")
    print("\nMillions of instructions for one block of ConvMixer-1024/20, stock / ours\n")
    print("| | " + " | ".join(COUNTED) + " |\n| --- |" + " ---: |" * len(COUNTED))
    for name, numbers in counted.items():
        cells = []
        for mode in COUNTED:
            blocks = [numbers[f"{who}_{mode}_2"] - numbers[f"{who}_{mode}_1"] for who in ("stock", "ours")]
            cells.append(" / ".join(f"{block / 1e6:.1f}" for block in blocks))
        print(f"| {name} | " + " | ".join(cells) + " |")


def read_counts(path):
    """Returns for each processor the instructions that one inference of each file takes."""
    found, name = {}, None
    with open(path) as file:
        for line in file:
            if line.startswith("== "):
                name = line.split()[1]
                found[name] = []
            elif line.startswith("instructions "):
                found[name].append(int(line.split()[1]))
    return {
        name: {file: marks[2 * i + 1] - marks[2 * i] for i, file in enumerate(counted_files())}
        for name, marks in found.items()
    }


if __name__ == "__main__":
    {"write": write, "run": run, "report": report}[sys.argv[1]](*sys.argv[2:])
