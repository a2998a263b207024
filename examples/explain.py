#!/usr/bin/env python3
"""Shows what a ConvMixer looks like inside, and how runs went.

  python examples/explain.py runs/digits/model.keras
  python examples/explain.py ConvMixer1024_20                      published weights, here ImageNet's
  python examples/explain.py --curves runs/digits runs/cifar10     several runs in one plot

Writes into --output, by default a folder that is named after the model, and prints what it wrote:
  patches.png      the filters of the patch embedding
  depthwise.png    depthwise kernels by depth, and which part of the image each depth sees: the side of the
                   square that holds 95 % of the gradient, and of the largest square that could matter
  maps.png         the photograph of --photo after some of the blocks: like features in like colours
  curves.png       loss, accuracy and learning rate of the runs named by --curves
  settings.md      the settings in which these runs differ, as a table

Took 7 s for a ConvMixer-128/5 of 32x32 images, and 27 s for ConvMixer-1024/20, whose receptive fields take
most of it, on 2 cores of an AMD EPYC.
"""

import contextlib
import json
import os
import re

from PIL import Image

from convmixer_keras.utils import command_line, streams
from convmixer_keras.utils.errors import InputError
from convmixer_keras.utils.text import one_line

SOURCE = "Source"  # The entry of a picture's metadata that names what it shows.


def main():
    arguments = parse()
    command_line.need_tensorflow()  # For the gradient of the receptive fields.
    streams.quiet_start()
    from convmixer_keras import applications
    from convmixer_keras.utils.files import make_folder, written_whole

    model, runs = arguments.model, arguments.curves or []
    if model and os.path.exists(model):
        model = os.path.normpath(model)
    if not model and (arguments.photo or not runs):
        model = applications.default_builder()
    folder = arguments.output or os.path.join("outputs", "explained", folder_name([model] if model else runs))
    shows = {"patches.png": model, "depthwise.png": model} if model else {}
    if model and arguments.photo:
        shows["maps.png"] = model
    if runs:
        shows["curves.png"] = ", ".join(runs)
    for name, source in shows.items():
        check_free(os.path.join(folder, name), source)

    curves, table = learning_curves(runs) if runs else ({}, None)
    figures = {**curves, **(pictures_of(model, arguments.photo) if model else {})}
    make_folder(folder)
    for name, figure in figures.items():
        path = os.path.join(folder, name)
        with written_whole(path) as temporary:
            figure.savefig(temporary, metadata={SOURCE: shows[name]})
        print(f"wrote {one_line(path)}")
    if table is not None:
        path = os.path.join(folder, "settings.md")
        with written_whole(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.write(table)
        print(f"wrote {one_line(path)}\n\n{table}", end="")


def folder_name(sources):
    """Returns the name of a folder for pictures of a model, or of runs."""
    names = [
        os.path.splitext(os.path.relpath(source) if os.path.exists(source) else source)[0]
        for source in sources
    ]
    return re.sub(r"\W+", "-", " ".join(names)).strip("-")[:100]


def check_free(path, source):
    """Raises InputError where a picture of something else would be overwritten."""
    if not os.path.exists(path):
        return
    with contextlib.suppress(OSError), Image.open(path) as picture:
        if picture.info.get(SOURCE) == source:
            return
    raise InputError(f"{path} is no picture of {source}: choose another --output")


def learning_curves(paths):
    """Returns the curves of runs as a picture, by file name, and a table of their differences, or None."""
    from convmixer_keras.models import visualization
    from convmixer_keras.training.run.run_folder import RunFolder

    runs = {path: RunFolder(path) for path in paths}
    histories = {path: run.read_history() for path, run in runs.items()}
    empty = [path for path, history in histories.items() if not history]
    if empty:
        raise InputError(f"{empty[0]} holds no run with a finished epoch")
    table = differences({path: run.read_config() for path, run in runs.items()}) if len(runs) > 1 else None
    return {"curves.png": visualization.learning_curves(histories)}, table


def differences(configs):
    """Returns a Markdown table of the settings in which runs differ, given what they recorded."""
    settings = [{**config.get("recipe", {}), **config.get("settings", {})} for config in configs.values()]
    rows = [["setting", *configs], ["---"] * (1 + len(configs))]
    for name in dict.fromkeys(name for known in settings for name in known):
        values = [json.dumps(known[name], ensure_ascii=False) if name in known else "" for known in settings]
        if len(set(values)) > 1:
            rows.append([name, *values])
    if len(rows) == 2:
        return "No setting differs.\n"
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (" | ".join(map(str.ljust, row, widths)) for row in rows)
    return "".join(f"| {line} |\n" for line in lines)


def pictures_of(source, photo):
    """Returns pictures of a model's inside, by their file names."""
    from convmixer_keras import inference
    from convmixer_keras.models import visualization

    opened = inference.load(source, include_top=False)
    figures = {
        "patches.png": visualization.patch_embeddings(opened.model),
        "depthwise.png": visualization.depthwise_kernels(opened.model),
    }
    if photo:
        figures["maps.png"] = feature_maps(opened, photo)
    return figures


def feature_maps(opened, photo):
    """Draws what a photograph is after a third, two thirds and all of the blocks."""
    import numpy as np

    import convmixer_keras as ck
    from convmixer_keras.models import parts
    from convmixer_keras.models.visualization import image_grid, principal_colors

    model, pixels = opened.model, opened.read(photo)
    depth = len(parts.of(model).blocks)
    blocks = sorted({(depth - 1) // 3, 2 * (depth - 1) // 3, depth - 1})
    maps = [ck.features(model, block)(pixels[None])[0] for block in blocks]
    titles = ["the photograph", *(f"after block {block}" for block in blocks)]
    picture = opened.picture(photo).astype("uint8")
    size = picture.shape[1::-1]
    coloured = [Image.fromarray(principal_colors(found)) for found in maps]
    enlarged = [np.asarray(image.resize(size, Image.Resampling.NEAREST)) for image in coloured]
    if picture.shape[-1] == 1:
        picture = picture.repeat(3, axis=-1)
    return image_grid([picture, *enlarged], titles, columns=len(titles))


def parse():
    parser = command_line.parser(__doc__)
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help=".keras file, or a builder (default: one whose weights are here)",
    )
    parser.add_argument(
        "--curves", nargs="+", type=os.path.normpath, metavar="RUN", help="folders that train_keras.py wrote"
    )
    parser.add_argument("--photo", metavar="FILE", help="draw the feature maps of this photograph")
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="folder for the pictures (default: outputs/explained/NAME-OF-THE-MODEL)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    command_line.run(main)
