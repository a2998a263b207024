"""How a model does on each class: two tables and a picture."""

import csv
import os

import numpy as np

from convmixer_keras.utils import figures
from convmixer_keras.utils.errors import InputError
from convmixer_keras.utils.files import make_folder, written_whole
from convmixer_keras.utils.text import one_line


def write_report(folder, scores):
    """Writes per-class accuracies and the confusion matrix into a folder."""
    make_folder(folder)
    names = scores.class_names
    classes, matrix, picture = (
        os.path.join(folder, name) for name in ("classes.csv", "confusion.csv", "confusion.png")
    )
    rows = zip(names, scores.confusion.sum(1).tolist(), scores.accuracy_of_class.tolist(), strict=True)
    _write_csv(classes, [("class", "images", "accuracy"), *rows])
    counts = zip(names, scores.confusion.tolist(), strict=True)
    _write_csv(matrix, [("is, taken for", *names), *((name, *row) for name, row in counts)])
    with written_whole(picture) as path:
        confusion_matrix(scores.confusion, names).savefig(path)
    print(one_line(f"wrote {classes}, {matrix} and {picture}"))


def _write_csv(path, rows):
    with written_whole(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def confusion_matrix(counts, class_names):
    """Draws which class is taken for which.

    Args:
        counts: Integers (classes, classes): images of class i (row) that were taken for class j (column).
        class_names: Sequence of `classes` strings.

    Returns:
        A `matplotlib.figure.Figure`. Each row's shade is a share of its class.
    """
    counts = np.asarray(counts)
    classes = len(class_names)
    if counts.shape != (classes, classes):
        raise InputError(f"counts must have the shape {(classes, classes)}, got {counts.shape}")
    side = min(3 + 0.35 * classes, 16)
    figure = figures.new_figure(side, side)
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xlabel("taken for")
    axes.set_ylabel("is")
    if classes <= 40:
        labels = [one_line(name)[:20].replace("$", r"\$") for name in class_names]
        axes.set_xticks(range(classes), labels, rotation=90)
        axes.set_yticks(range(classes), labels)
    if classes <= 20:
        for i, j in np.argwhere(counts):
            colour = "white" if shares[i, j] > 0.5 else "black"
            axes.text(j, i, str(counts[i, j]), ha="center", va="center", color=colour, fontsize=7)
    return figure
