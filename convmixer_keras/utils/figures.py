"""Pictures of a run and of images, as matplotlib figures."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from convmixer_keras.utils import extras
from convmixer_keras.utils.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WRONG = "#c0261c"  # Red that colour-blind readers tell from black; what is wrong also has a frame.
LONGEST_TITLE = 26  # Letters in a line above an image.


def new_figure(width: float, height: float) -> "Figure":
    """Returns an empty `matplotlib.figure.Figure`, its sides in inches, that lays out its axes by itself."""
    extras.require("matplotlib")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=120)


def learning_curves(history: list[dict] | dict[str, list[dict]]) -> "Figure":
    """Draws loss, accuracy and learning rate over the epochs of one or several runs.

    Args:
        history: What `training.train` returns: a list with a dictionary for each epoch. For several runs, a
            dictionary from the name of each to its history.

    Returns:
        A `matplotlib.figure.Figure` with three axes.

    Raises:
        InputError: If there is no run, or one without an epoch.
    """
    several = isinstance(history, dict)
    runs = history if several else {None: history}
    if not runs or not all(runs.values()):
        raise InputError("learning curves need at least one run, with at least one epoch each")
    figure = new_figure(10, 3.4)
    loss, accuracy, rate = figure.subplots(1, 3)
    for number, epochs in enumerate(runs.values()):
        # One run has a colour for each curve; several have a colour for each run.
        colours = [f"C{number % 10}"] * 3 if several else ["C0", "C1", "C2"]
        for axes, column, scale in ((loss, "loss", 1), (accuracy, "accuracy", 100)):
            _curve(axes, epochs, column, scale, colours[0], "training", linestyle=":" if several else "-")
            _curve(axes, epochs, f"val_{column}", scale, colours[1], "validation")
        _curve(rate, epochs, "learning_rate", 1, colours[2])
    for axes, title in ((loss, "loss"), (accuracy, "top-1, %"), (rate, "learning rate")):
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
    if several:
        names = [f"{name}, training dotted".replace("$", r"\$") for name in runs]  # Not mathematics.
        columns = max(1, min(3, 150 // max(map(len, names))))  # A line has room for some 150 letters.
        figure.legend(rate.lines, names, loc="outside lower center", ncols=columns, frameon=False)
    else:
        loss.legend(frameon=False)
        accuracy.legend(frameon=False)
    return figure


def _curve(axes, epochs, column, scale, colour, label=None, linestyle="-"):
    # A line through one point is invisible.
    marker = "o" if len(epochs) == 1 else None
    numbers, values = [row["epoch"] for row in epochs], [scale * row[column] for row in epochs]
    axes.plot(numbers, values, label=label, color=colour, linestyle=linestyle, marker=marker)


def image_grid(
    images: Iterable, titles: Sequence[str], columns: int = 8, wrong: Sequence[int] = (), apart: bool = False
) -> "Figure":
    """Draws images in a grid, each under its title.

    Args:
        images: n images (height, width, 1 or 3) of any size, 0..255; values outside are shown as the
            nearest inside.
        titles: n strings of any number of lines; of a line that is too long the end is left out.
        columns: How many images stand side by side.
        wrong: Numbers of the images to mark as wrong, by a red frame and a red title.
        apart: Whether to set the first column apart, as what the others are compared with.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    images = [np.clip(image, 0, 255).astype(np.uint8) for image in map(np.asarray, images)]
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    titles = ["\n".join(map(_beginning, title.split("\n"))) for title in titles]
    lines = max(1 + title.count("\n") for title in titles)
    figure = new_figure(1.6 * columns, (1.75 + 0.13 * lines) * rows)
    figure.get_layout_engine().set(h_pad=0.08)  # Titles of several lines reach to the edge otherwise.
    all_axes = figure.subplots(rows, columns, squeeze=False)
    for axes in all_axes.flat:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    for number, (axes, image, title) in enumerate(zip(all_axes.flat, images, titles, strict=False)):
        axes.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
        colour = WRONG if number in wrong else "black"
        axes.set_title(title, fontsize=7, color=colour, parse_math=False)
        if number in wrong:
            _frame(axes, WRONG)
        elif apart and number % columns == 0:
            _frame(axes, "black")
    return figure


def _beginning(line):
    """Returns as much of a line as there is room for above an image."""
    return line if len(line) <= LONGEST_TITLE else f"{line[: LONGEST_TITLE - 3]}..."


def _frame(axes, colour):
    axes.spines[:].set(visible=True, color=colour, linewidth=2.5)
