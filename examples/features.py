#!/usr/bin/env python3
"""Finds the images of a folder that look alike, by the features of a network without its classifier.

  python examples/features.py photos/
  python examples/features.py photos/ --model runs/photos/model.keras --save features.npz

Draws some of the images, spread over the folder, each in a frame beside its nearest neighbours: those with
the highest cosine similarity of the features, which stands above each. Prints how often the nearest
neighbour lies in the same subfolder, which tells how well the features separate classes that the network
never had to name.
Took 22 s for 48 photographs with ConvMixer-1024/20, and 7 s for 600 images of 32x32 with a ConvMixer-128/5,
on 4 cores of an AMD EPYC, start-up included.
"""

import os

import numpy as np

from convmixer_keras.commands import flags
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.utils import command_line, progress, streams
from convmixer_keras.utils.errors import InputError
from convmixer_keras.utils.text import one_line

BATCH = 32


def main():
    arguments = parse()
    streams.quiet_start()
    from convmixer_keras.images.listing import image_paths
    from convmixer_keras.utils.files import check_output, make_folder, written_whole

    if not os.path.isdir(arguments.folder):
        raise InputError(f"there is no folder {arguments.folder}")
    paths = image_paths(arguments.folder)
    if len(paths) < 2:
        raise InputError(f"there must be at least two images in {arguments.folder}, found {len(paths)}")
    for path, ending in ((arguments.output, command_line.PICTURES), (arguments.save, ".npz")):
        if path:
            check_output(path, ending, (*paths, arguments.model or ""))
            make_folder(os.path.dirname(path))
    # Around all of the work, which would be lost if the picture could not be written.
    with written_whole(arguments.output) as picture:
        draw_neighbours(paths, arguments, picture)
    print(f"wrote {one_line(arguments.output)}: in each row an image, then its nearest neighbours")


def draw_neighbours(paths, arguments, picture):
    import convmixer_keras as ck
    from convmixer_keras import applications, inference
    from convmixer_keras.utils.figures import image_grid
    from convmixer_keras.utils.files import written_whole

    source = arguments.model or applications.default_builder()
    headless = inference.load(source, False, **flags.given(arguments, Preprocessing))
    model = headless.model
    if arguments.block is not None:
        model = ck.features(model, arguments.block)
    batches = (
        np.stack([headless.read(path) for path in paths[start : start + BATCH]])
        for start in range(0, len(paths), BATCH)
    )
    batches = progress.shown(batches, "computing features", len(paths), "images", amount=len)
    features = np.concatenate([pooled(model.predict_on_batch(batch)) for batch in batches])
    if not np.isfinite(features).all():
        raise InputError(f"{headless.source} gives NaN or infinity for an image: its weights are damaged")
    neighbours, similarities = nearest(features, arguments.neighbours)

    folders = np.array([os.path.dirname(path) for path in paths])
    if len(set(folders)) > 1:
        same = np.mean(folders == folders[neighbours[:, 0]])
        print(f"the nearest neighbour is in the same subfolder for {100 * same:.1f} % of the images")
    if arguments.save:
        with written_whole(arguments.save) as temporary, open(temporary, "wb") as file:
            np.savez(file, paths=paths, features=features)
        print(f"wrote {one_line(arguments.save)}: paths and features {features.shape}")

    queries = np.unique(np.linspace(0, len(paths) - 1, arguments.rows).round().astype(int))
    shown = [i for query in queries for i in (query, *neighbours[query])]
    below = [
        text
        for query in queries
        for text in ("the image", *map("similarity {:.3f}".format, similarities[query]))
    ]
    titles = [
        f"{os.path.relpath(paths[i], arguments.folder)}\n{text}" for i, text in zip(shown, below, strict=True)
    ]
    images = [headless.picture(paths[i]) for i in shown]
    image_grid(images, titles, columns=1 + neighbours.shape[1], apart=True).savefig(picture)


def pooled(maps):
    """Averages feature maps (batch, height, width, channels) over places; vectors stay as they are."""
    return maps.mean((1, 2)) if maps.ndim == 4 else maps


def nearest(features, count):
    """Returns for each row the numbers of the `count` most similar others, and their cosine similarities."""
    directions = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    numbers, similarities = [], []
    for begin in range(0, len(features), 1024):  # All at once would be the square of the images.
        similarity = directions[begin : begin + 1024] @ directions.T
        rows = np.arange(len(similarity))
        similarity[rows, begin + rows] = -np.inf
        numbers.append(np.argsort(-similarity, axis=1, kind="stable")[:, : min(count, len(features) - 1)])
        similarities.append(np.take_along_axis(similarity, numbers[-1], axis=1))
    return np.concatenate(numbers), np.concatenate(similarities)


def parse():
    parser = command_line.parser(__doc__)
    parser.add_argument("folder", metavar="FOLDER", help="images, at any depth")
    parser.add_argument(
        "--model",
        help=".keras file, or a builder (default: one whose weights are here)",
    )
    parser.add_argument(
        "--output",
        type=command_line.picture,
        default="outputs/neighbours.png",
        metavar="FILE",
        help="the picture to write",
    )
    number = command_line.positive
    parser.add_argument("--rows", type=number, default=6, metavar="N", help="images to find neighbours of")
    parser.add_argument("--neighbours", type=number, default=5, metavar="N", help="how many of each")
    parser.add_argument("--block", type=int, metavar="N", help="take the features after block N, from 0")
    parser.add_argument("--save", metavar="FILE", help="write the features too, .npz")
    flags.add_flags(parser, Preprocessing(), show_defaults=False)
    return parser.parse_args()


if __name__ == "__main__":
    command_line.run(main)
