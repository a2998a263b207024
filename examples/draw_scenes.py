#!/usr/bin/env python3
"""Draws scenes of a few shapes, each with the mask that says what is where, to try segment.py on.

python examples/draw_scenes.py scenes/     600 scenes: scenes/images/*.png and scenes/masks/*.png
"""

import os

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from convmixer_keras.utils import command_line
from convmixer_keras.utils.files import make_folder


def draw_scenes(folder, count=600, size=96):
    """Draws discs (1), squares (2) and triangles (3) of similar colours on a noisy background (0)."""
    random = np.random.default_rng(0)
    for part in ("images", "masks"):
        make_folder(os.path.join(folder, part))
    for number in range(count):
        ground = Image.fromarray(random.integers(0, 256, (12, 12, 3)).astype(np.uint8)).resize((size, size))
        mask = Image.new("L", (size, size))
        for _ in range(random.integers(2, 6)):
            x, y, r = *random.integers(8, size - 8, 2), random.integers(7, 20)
            kind, colour = random.integers(1, 4), tuple(int(c) for c in random.integers(0, 256, 3))
            for picture, fill in ((ground, colour), (mask, int(kind))):
                pen = ImageDraw.Draw(picture)
                if kind == 1:
                    pen.ellipse((x - r, y - r, x + r, y + r), fill)
                elif kind == 2:
                    pen.rectangle((x - r, y - r, x + r, y + r), fill)
                else:
                    pen.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill)
        pixels = np.asarray(ground.filter(ImageFilter.GaussianBlur(0.7)), np.float32)
        pixels = np.clip(pixels + random.normal(0, 12, pixels.shape), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(os.path.join(folder, "images", f"{number:03}.png"))
        mask.save(os.path.join(folder, "masks", f"{number:03}.png"))
    print(f"wrote {count} scenes to {folder}")


def main():
    parser = command_line.parser(__doc__)
    parser.add_argument("folder", metavar="FOLDER", help="where to write the scenes")
    draw_scenes(parser.parse_args().folder)


if __name__ == "__main__":
    command_line.run(main)
