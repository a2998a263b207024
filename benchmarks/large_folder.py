#!/usr/bin/env python3
"""Seconds until a folder of many small JPEG files trains, images/s and memory of its pipeline.

  python benchmarks/large_folder.py                    10,000, 100,000 and 1,280,000 files in 1,000 classes
  python benchmarks/large_folder.py --files 2000       only so many

Makes each folder out of hard links under --folder, and removes it. Each size has a process of its own.
"""

import argparse
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time

LINKS = 50_000  # To one file; ext4 allows 65,000.
BATCHES = 200


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--files", type=int, nargs="+", default=[10_000, 100_000, 1_280_000], metavar="N")
    parser.add_argument("--classes", type=int, default=1000, metavar="N")
    parser.add_argument("--folder", metavar="DIR", help="where to make them (default: among temporary files)")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        return measure(arguments.measure)
    print("    files  to list, s  to first batch, s  images/s  memory, GB", flush=True)
    for files in arguments.files:
        root = pathlib.Path(tempfile.mkdtemp(dir=arguments.folder))
        try:
            make_folder(root, files, arguments.classes)
            quiet = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
            subprocess.run([sys.executable, __file__, "--measure", root / "images"], check=True, env=quiet)
        finally:
            shutil.rmtree(root)
    return 0


def make_folder(root, files, classes):
    """Fills root/images/CLASS with links to a few JPEG files of noise."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    sources = [root / f"{i}.jpg" for i in range(-(-files // LINKS))]
    for source in sources:
        Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(source, quality=75)
    for c in range(classes):
        folder = root / "images" / f"class{c:04}"
        folder.mkdir(parents=True)
        for i in range(c, files, classes):
            (folder / f"class{c:04}_{i:08}.jpg").hardlink_to(sources[i % len(sources)])


def measure(folder):
    import dataclasses

    import convmixer_keras as ck

    recipe = dataclasses.replace(ck.recipes.PHOTOS, dataset=folder, image_size=32, batch_size=256)
    began = time.perf_counter()
    data = ck.data.load(recipe)
    loaded = time.perf_counter()
    batches = iter(data.train.repeat())
    next(batches)
    first = time.perf_counter()
    for _ in range(BATCHES):
        next(batches)
    speed = BATCHES * recipe.batch_size / (time.perf_counter() - first)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    files, listing = data.train_size + data.validation_size, loaded - began  # Builds the pipeline, too.
    print(f"{files:9,}  {listing:10.1f}  {first - loaded:17.1f}  {speed:8.0f}  {memory:10.2f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
