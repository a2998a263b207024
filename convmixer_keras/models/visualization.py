"""Pictures of a network, as matplotlib figures. The public name is `convmixer_keras.visualization`."""

import math
from typing import TYPE_CHECKING

import numpy as np

from convmixer_keras.models import parts as anatomy
from convmixer_keras.models.receptive_field import effective_receptive_field
from convmixer_keras.utils import checks
from convmixer_keras.utils.errors import InputError
from convmixer_keras.utils.figures import WRONG, image_grid, learning_curves, new_figure

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure

__all__ = [
    "WRONG",
    "depthwise_kernels",
    "image_grid",
    "learning_curves",
    "new_figure",
    "patch_embeddings",
    "principal_colors",
]


def patch_embeddings(model: "keras.Model", limit: int = 256) -> "Figure":
    """Draws the filters of a ConvMixer's patch embedding as small images, as the paper's figure does.

    Grey is a weight of 0; each filter is scaled by its own largest weight.

    Args:
        model: A `keras.Model` made by `convmixer_keras.ConvMixer`, of 1 or 3 channels.
        limit: The most filters to draw, at least 1; of more, those with the largest weights are drawn.

    Returns:
        A `matplotlib.figure.Figure` with one image, in which the filters stand in a square grid.

    Raises:
        InputError: If the model is not a ConvMixer, or has another number of channels.
    """
    limit = checks.positive_int("limit", limit)
    parts = anatomy.of(model)
    channels = parts.sizes.channels
    if channels not in (1, 3):
        raise InputError(f"filters are drawn for 1 or 3 channels, and this model takes {channels}")
    filters = _kernel(parts.stem).transpose(3, 0, 1, 2)
    shown = filters[_strongest(filters)[:limit]]
    largest = np.abs(shown).max((1, 2, 3), keepdims=True)
    grid = _grid(0.5 + shown / (2 * np.where(largest, largest, 1)))
    figure = new_figure(6, 6)
    axes = figure.subplots()
    axes.imshow(grid.squeeze(-1) if channels == 1 else grid, cmap="gray", vmin=0, vmax=1)
    axes.set_title(f"patch embedding: {len(shown)} of {len(filters)} filters", fontsize=9)
    axes.axis("off")
    return figure


def depthwise_kernels(model: "keras.Model", kernels: int = 8, rows: int = 8) -> "Figure":
    """Draws depthwise kernels by depth, and beside each row how far its block sees.

    Kernels are red where negative and blue where positive, each on its own scale. How far a block sees is
    what `effective_receptive_field` gives, on the scale of its square root; the text beside it gives the side
    of the square that holds 95 % of it, and the side of the largest square that could matter.

    Args:
        model: A `keras.Model` made by `convmixer_keras.ConvMixer`.
        kernels: How many kernels of a block to draw: those with the largest weights.
        rows: How many blocks to draw at most, evenly from the first to the last.

    Returns:
        A `matplotlib.figure.Figure` with `kernels` + 1 axes for each block.

    Raises:
        InputError: If the model is not a ConvMixer.
    """
    kernels, rows = checks.positive_int("kernels", kernels), checks.positive_int("rows", rows)
    parts = anatomy.of(model)
    blocks = np.unique(np.linspace(0, len(parts.blocks) - 1, rows).round().astype(int))
    kernels = min(kernels, parts.sizes.hidden_dim)
    figure = new_figure(0.9 * kernels + 3.0, 1.05 * len(blocks) + 0.9)
    widths = [1] * kernels + [1.6]
    all_axes = figure.subplots(len(blocks), kernels + 1, squeeze=False, width_ratios=widths)
    for row, block in zip(all_axes, blocks, strict=True):
        weights = _kernel(parts.blocks[block].depthwise)[..., 0].transpose(2, 0, 1)
        for axes, kernel in zip(row[:-1], weights[_strongest(weights)[:kernels]], strict=True):
            bound = np.abs(kernel).max() or 1
            drawn = axes.imshow(kernel / bound, cmap="RdBu", vmin=-1, vmax=1)
        field, side, largest = effective_receptive_field(model, block)
        seen = row[-1].imshow(np.sqrt(field / (field.max() or 1)), cmap="Blues", vmin=0, vmax=1)
        text = f"95 % within {side} px,\nat most {largest} px"
        row[-1].set_ylabel(text, fontsize=7, rotation=0, ha="left", va="center")
        row[-1].yaxis.set_label_coords(1.08, 0.5)
        row[0].set_ylabel(f"block {block}", fontsize=7)
    for axes in all_axes.flat:
        axes.set_xticks([])
        axes.set_yticks([])
    all_axes[0, 0].set_title("depthwise kernels", fontsize=8, loc="left")
    all_axes[0, -1].set_title("what the block's centre sees", fontsize=8, loc="left")
    _colour_key(figure, drawn, all_axes[:, :-1], (-1, 0, 1), ("-largest", "0", "+largest weight"))
    _colour_key(figure, seen, all_axes[:, -1], (0, 1), ("nothing", "most"))
    return figure


def _colour_key(figure, drawn, axes, ticks, labels):
    key = figure.colorbar(drawn, ax=list(axes.flat), location="bottom", ticks=ticks, shrink=0.5, aspect=30)
    key.set_ticklabels(labels, fontsize=7)
    key.outline.set_visible(False)


def principal_colors(maps: np.ndarray) -> np.ndarray:
    """Draws a feature map in colours: its three principal components over places as red, green and blue.

    Args:
        maps: Array (height, width, channels), such as `features` gives for one image and block.

    Returns:
        A uint8 array (height, width, 3).
    """
    places = np.asarray(maps, np.float64).reshape(-1, maps.shape[-1])
    places = places - places.mean(0)
    _, _, directions = np.linalg.svd(places, full_matrices=False)
    components = np.zeros((len(places), 3))
    components[:, : len(directions[:3])] = places @ directions[:3].T
    low, high = np.percentile(components, (2, 98), axis=0)
    shown = np.clip((components - low) / np.maximum(high - low, 1e-12), 0, 1)
    return (255 * shown).astype(np.uint8).reshape(*maps.shape[:2], 3)


def _kernel(convolution):
    return np.asarray(convolution.layer.get_weights()[0], np.float32)


def _strongest(kernels):
    """Returns the numbers of kernels (n, ...) by the size of their weights, the largest first."""
    return np.argsort(-np.square(kernels).reshape(len(kernels), -1).sum(1), kind="stable")


def _grid(images):
    """Returns images (n, height, width, channels) as one, in a square grid with thin white lines between."""
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    zoom = math.ceil(16 / images.shape[1])
    images = images.repeat(zoom, axis=1).repeat(zoom, axis=2)
    missing = rows * columns - len(images)
    images = np.pad(images, ((0, missing), (1, 0), (1, 0), (0, 0)), constant_values=1)
    _, height, width, channels = images.shape
    grid = images.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    grid = grid.reshape(rows * height, columns * width, channels)
    return np.pad(grid, ((0, 1), (0, 1), (0, 0)), constant_values=1)
