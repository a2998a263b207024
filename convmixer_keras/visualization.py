"""Pictures. Each function returns a matplotlib figure."""

import math

import numpy as np
from matplotlib.figure import Figure


def learning_curves(history):
    """Draws loss, accuracy and learning rate over the epochs of a run.

    Args:
        history: What `training.train` returns: a list with a dictionary for each epoch.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(10, 3.4), layout="constrained", dpi=120)
    loss, accuracy, rate = figure.subplots(1, 3)
    for axes, column, title, scale in ((loss, "loss", "loss", 1), (accuracy, "accuracy", "top-1, %", 100)):
        axes.plot(epochs, [scale * row[column] for row in history], label="training", color="C0")
        axes.plot(epochs, [scale * row[f"val_{column}"] for row in history], label="validation", color="C1")
        axes.set_title(title)
        axes.legend(frameon=False)
    rate.plot(epochs, [row["learning_rate"] for row in history], color="C2")
    rate.set_title("learning rate")
    for axes in (loss, accuracy, rate):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
        if len(epochs) == 1:  # A line needs two points to be seen.
            for line in axes.lines:
                line.set_marker("o")
    return figure


def image_grid(images, titles):
    """Draws images in a grid, each under its title.

    Args:
        images: (n, height, width, 1 or 3), 0..255; values outside are shown as the nearest inside.
        titles: n strings.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    images = np.clip(np.asarray(images), 0, 255).astype(np.uint8)
    columns = min(8, len(images))
    rows = math.ceil(len(images) / columns)
    figure = Figure(figsize=(1.6 * columns, 1.9 * rows), layout="constrained", dpi=120)
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.axis("off")
    for axes, image, title in zip(figure.axes, images, titles, strict=False):
        axes.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
        axes.set_title(title, fontsize=7)
    return figure
