#!/usr/bin/env python3
"""Top-1 of the `.tflite` files of a trained run, mode by mode, on all images of its validation split.

  python train_keras.py --kernel-size 7 --output runs/digits7
  python benchmarks/tflite_accuracy.py runs/digits7

Prints a table: accuracy, on how many images the top-1 is the Keras model's, and the size of the file. Files
are calibrated on 128 training images.
"""

import os
import tempfile

import numpy as np

from convmixer_keras.utils import command_line


def main():
    parser = command_line.parser(__doc__)
    parser.add_argument("run", metavar="RUN", help="folder that train_keras.py wrote")
    arguments = parser.parse_args()
    command_line.quiet_start()
    from convmixer_keras.convert import runtime, tflite
    from convmixer_keras.data import pipeline as data
    from convmixer_keras.models.saving import load_model
    from convmixer_keras.recipes import Recipe
    from convmixer_keras.training import run_folder
    from convmixer_keras.utils import progress

    folder = run_folder.RunFolder(arguments.run)
    saved = folder.read_config()["recipe"]
    recipe = Recipe(**{k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()})
    model = load_model(folder[run_folder.BEST_MODEL])
    batches = [(x.numpy(), y.numpy()) for x, y in data.load_validation(recipe).images]
    images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    labels = labels.argmax(1)
    expected = model.predict(images, verbose=0).argmax(1)
    source = recipe.dataset
    if os.path.isdir(source):
        source = os.path.join(source, recipe.train_split or "train")

    rows = [f"| Keras | {100 * np.mean(expected == labels):.2f} % | | |"]
    for mode in tflite.MODES:
        with tempfile.TemporaryDirectory() as temporary:
            path = os.path.join(temporary, "m.tflite")
            report = tflite.export(model, path, mode, calibration=source)
            with command_line.silence():
                classifier = runtime.Classifier(path)
            shown = progress.shown(images, mode, unit="images")
            got = np.array([classifier.predict(image)[0].argmax() for image in shown])
        rows.append(
            f"| {mode} | {100 * np.mean(got == labels):.2f} % | {np.sum(got == expected)} "
            f"| {report.size / 1e6:.2f} |"
        )
    print(f"\n{len(images)} images of {recipe.dataset}\n")
    print("| | top-1 | same as Keras | MB |\n| --- | ---: | ---: | ---: |")
    print("\n".join(rows))


if __name__ == "__main__":
    command_line.run(main)
