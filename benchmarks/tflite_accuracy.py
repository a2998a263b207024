#!/usr/bin/env python3
"""Accuracy of the `.tflite` files of a trained run, mode by mode, on the image files of its validation split.

  python train_keras.py --kernel-size 7 --output runs/digits7
  python benchmarks/tflite_accuracy.py runs/digits7

Writes RUN/MODE.tflite, calibrated on 128 training images, and prints loss, accuracy and size of each.
"""

import argparse
import json
import pathlib
import subprocess


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", metavar="RUN", type=pathlib.Path, help="folder that train_keras.py wrote")
    run = parser.parse_args().run
    dataset = json.loads((run / "config.json").read_text())["recipe"]["dataset"]
    best = run / "model.keras"
    evaluate(best)
    for mode in ("float32", "float16", "dynamic", "int8"):
        path = run / f"{mode}.tflite"
        options = ["--mode", mode, "--calibrate", dataset]
        subprocess.run(["convmixer-tflite", best, path, *options], check=True, stdout=subprocess.DEVNULL)
        evaluate(path)


def evaluate(path):
    subprocess.run(["convmixer-train", "--evaluate", path], check=True)
    print(f"{path.stat().st_size / 1e6:.2f} MB", flush=True)


if __name__ == "__main__":
    main()
