#!/usr/bin/env python3
"""Shows what a ConvMixer looks like inside, and how runs went.

  python examples/explain.py runs/digits/model.keras
  python examples/explain.py ConvMixer1024_20                      published weights, here ImageNet's
  python examples/explain.py --curves runs/digits runs/cifar10     several runs in one plot

Writes into --output, and prints what it wrote:
  patches.png      the filters of the patch embedding
  depthwise.png    depthwise kernels by depth, and which part of the image each depth sees: the side of the
                   square that holds 95 % of the gradient, and of the largest square that could matter
  maps.png         the photograph of --photo after some of the blocks: like features in like colours
  curves.png       loss, accuracy and learning rate of the runs named by --curves

Took 7 s for a ConvMixer-128/5 of 32x32 images, and 27 s for ConvMixer-1024/20, whose receptive fields take
most of it, on 2 cores of an AMD EPYC.
"""

import os

from convmixer_keras.utils import command_line, streams
from convmixer_keras.utils.errors import InputError


def main():
    arguments = parse()
    command_line.need_tensorflow()  # For the gradient of the receptive fields.
    streams.quiet_start()
    from convmixer_keras import applications, inference
    from convmixer_keras.models import visualization
    from convmixer_keras.training.run.run_folder import RunFolder
    from convmixer_keras.utils.files import make_folder, written_whole

    figures = {}
    if arguments.curves:
        runs = {path: RunFolder(path).read_history() for path in arguments.curves}
        empty = [path for path, history in runs.items() if not history]
        if empty:
            raise InputError(f"{empty[0]} holds no run with a finished epoch")
        figures["curves.png"] = visualization.learning_curves(runs)
    if arguments.model or not arguments.curves:
        opened = inference.load(arguments.model or applications.default_builder(), include_top=False)
        model = opened.model
        figures["patches.png"] = visualization.patch_embeddings(model)
        figures["depthwise.png"] = visualization.depthwise_kernels(model)
        if arguments.photo:
            figures["maps.png"] = feature_maps(opened, arguments.photo)
    make_folder(arguments.output)
    for name, figure in figures.items():
        path = os.path.join(arguments.output, name)
        with written_whole(path) as temporary:
            figure.savefig(temporary)
        print(f"wrote {path}")


def feature_maps(opened, photo):
    """Draws what a photograph is after a third, two thirds and all of the blocks."""
    import numpy as np
    from PIL import Image

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
    parser.add_argument("--curves", nargs="+", metavar="RUN", help="folders that train_keras.py wrote")
    parser.add_argument("--photo", metavar="FILE", help="draw the feature maps of this photograph")
    parser.add_argument(
        "--output", default="outputs/explained", metavar="DIR", help="folder for the pictures"
    )
    return parser.parse_args()


if __name__ == "__main__":
    command_line.run(main)
