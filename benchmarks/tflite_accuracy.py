#!/usr/bin/env python3
"""Accuracy of the `.tflite` files of a trained run, mode by mode, on the image files of its validation split.

  python train_keras.py --kernel-size 7 --output runs/digits7
  python benchmarks/tflite_accuracy.py runs/digits7

Prints a table: loss, accuracy and the size of the file. Files are calibrated on 128 training images.
"""

import os
import tempfile

from convmixer_keras.utils import command_line, streams


def main():
    parser = command_line.parser(__doc__)
    parser.add_argument("run", metavar="RUN", help="folder that train_keras.py wrote")
    arguments = parser.parse_args()
    streams.quiet_start()
    from convmixer_keras.convert.export import tflite, tflite_evaluation
    from convmixer_keras.images import preprocessing
    from convmixer_keras.models.saving import load_class_names, load_model
    from convmixer_keras.recipes import from_saved
    from convmixer_keras.training.run import evaluation, run_folder

    folder = run_folder.RunFolder(arguments.run)
    recipe, best = from_saved(folder.read_config()["recipe"]), folder[run_folder.BEST_MODEL]
    model, names, record = load_model(best), load_class_names(best), preprocessing.of(best)
    if record is None:  # A run of before the record was written.
        record = recipe.preprocessing(model.input_shape[-1])
    scores = evaluation.evaluate(best, recipe)
    rows = [f"| Keras | {scores.loss:.4f} | {100 * scores.top1:.2f} % | |"]
    for mode in tflite.MODES:
        with tempfile.TemporaryDirectory() as temporary:
            path = os.path.join(temporary, "m.tflite")
            report = tflite.export(
                model, path, mode, calibration=recipe.dataset, labels=names, preprocessing=record
            )
            scores = tflite_evaluation.evaluate(path, recipe)
        rows.append(f"| {mode} | {scores.loss:.4f} | {100 * scores.top1:.2f} % | {report.size / 1e6:.2f} |")
    print(f"\n{scores.images} images of {recipe.dataset}\n")
    print("| | loss | top-1 | MB |\n| --- | ---: | ---: | ---: |")
    print("\n".join(rows))


if __name__ == "__main__":
    command_line.run(main)
