"""How a model does on each class, and its most confident mistakes: tables and pictures."""

import contextlib
import csv
import os

import numpy as np

from convmixer_keras.utils import figures
from convmixer_keras.utils.files import written_whole
from convmixer_keras.utils.text import one_line


def write_report(folder, scores, opened):
    """Writes scores of classes, the confusion matrix and the most confident mistakes into a folder.

    Args:
        folder: The folder, which exists.
        scores: A `Scores` with the names of its classes and its images.
        opened: The `Predictor` that it is of.
    """
    names = scores.class_names
    of_classes = scores.of_classes()
    tables = {
        "classes.csv": [
            ("class", "images", "precision", "recall", "f1"),
            *zip(names, scores.confusion.sum(1).tolist(), *(c.tolist() for c in of_classes), strict=True),
        ],
        "confusion.csv": [
            ("is, taken for", *names),
            *((name, *row) for name, row in zip(names, scores.confusion.tolist(), strict=True)),
        ],
    }
    pictures = {"confusion.png": confusion_matrix(scores.confusion, names)}
    if scores.mistakes:
        images = scores.named_images([mistake.image for mistake in scores.mistakes])
        rows = [
            (images[m.image][0], names[m.truth], names[m.taken_for], m.probability) for m in scores.mistakes
        ]
        tables["mistakes.csv"] = [("image", "is", "taken for", "probability"), *rows]
        photos = [opened.picture(images[mistake.image][1]) for mistake in scores.mistakes]
        pictures["mistakes.png"] = figures.image_grid(photos, list(map(_title, rows)), columns=6)
    for name in {"mistakes.csv", "mistakes.png"} - {*tables, *pictures}:  # An earlier report's.
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(folder, name))
    for name, rows in tables.items():
        _write_csv(os.path.join(folder, name), rows)
    for name, figure in pictures.items():
        with written_whole(os.path.join(folder, name)) as path:
            figure.savefig(path)
    means = zip(("precision", "recall", "F1"), map(np.nanmean, of_classes), strict=True)
    print("mean over the classes: " + ", ".join(f"{name} {100 * mean:.2f} %" for name, mean in means))
    print(one_line(f"wrote {', '.join(os.path.join(folder, name) for name in (*tables, *pictures))}"))


def _title(row):
    name, truth, taken_for, probability = row
    lines = (os.path.basename(name), f"is {truth[:22]}", f"{taken_for[:18]} {100 * probability:.0f} %")
    return "\n".join(map(one_line, lines))


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
    classes = len(class_names)
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
