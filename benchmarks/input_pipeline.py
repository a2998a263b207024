"""Images/s of the training input, from JPEG files to augmented, mixed batches of 64 at 224x224.

Compared are this package's pipeline for the ImageNet recipe and timm's transform of the same recipe under a
PyTorch DataLoader with as many workers as cores (where timm is installed); then the stages of ours, each with
all before it, and the CIFAR-10 recipes at 32x32 on one core. The first batches of a pass do not count; only
one of the contenders works at a time.

  pip install -e ".[bench]" && python benchmarks/input_pipeline.py [FOLDER] [--rounds 5] [--images 4608]

FOLDER holds .jpg files, which are repeated; without it noise of the size of a photograph is made.
"""

import argparse
import dataclasses
import functools
import importlib.util
import os
import pathlib
import tempfile
import time

from side_by_side import print_images_per_second, seconds_per_step
from timm_package import import_timm

BATCH = 64
CIFAR_IMAGES = 40_960
WARM_UP = 16  # Batches that may lie ready before the first one is taken.
OFF = {
    "flip": False,
    "randaugment_ops": 0,
    "mixup_alpha": 0.0,
    "cutmix_alpha": 0.0,
    "erasing_probability": 0.0,
}
STAGES = {
    "decode, crop, resize": (),
    "+ flip": ("flip",),
    "+ RandAugment": ("randaugment_ops",),
    "+ mixing": ("mixup_alpha", "cutmix_alpha"),
    "+ erasing (all)": ("erasing_probability",),
}


def seconds_per_image(batches, size_of):
    """Runs through batches and returns the time per image, once the pipeline has run in."""
    batches = iter(batches)
    for _ in range(WARM_UP):
        next(batches)
    began, images = time.perf_counter(), 0
    for batch in batches:
        images += size_of(batch)
    return (time.perf_counter() - began) / images


def read_only(root):
    import tensorflow as tf

    paths = [str(path) for path in pathlib.Path(root).glob("train/*/*")]
    dataset = tf.data.Dataset.from_tensor_slices(paths)
    dataset = dataset.map(tf.io.read_file, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH)
    return lambda: seconds_per_image(dataset, len)


def ours(root, recipe_name, changes, cores=None):
    if cores:
        os.sched_setaffinity(0, cores)
    import convmixer_keras as ck

    recipe = dataclasses.replace(ck.recipes.RECIPES[recipe_name], dataset=root, **changes)
    train = ck.data.load(recipe).train
    return lambda: seconds_per_image(train, lambda batch: len(batch[0]))


def timm(root):
    import torch
    from PIL import Image

    import_timm()
    from timm.data import Mixup, create_transform

    transform = create_transform(
        224,
        is_training=True,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="random",
        re_prob=0.25,
        re_mode="pixel",
    )
    mix = Mixup(0.5, 0.5, label_smoothing=0.1, num_classes=1000)

    class Folder(torch.utils.data.Dataset):
        paths = sorted(pathlib.Path(root).glob("train/*/*"))

        def __len__(self):
            return len(self.paths)

        def __getitem__(self, i):
            with Image.open(self.paths[i]) as image:
                return transform(image.convert("RGB")), i % 1000

    def collate(examples):
        return mix(*torch.utils.data.default_collate(examples))

    loader = torch.utils.data.DataLoader(
        Folder(),
        BATCH,
        shuffle=True,
        drop_last=True,
        collate_fn=collate,
        num_workers=len(os.sched_getaffinity(0)),
        multiprocessing_context="fork",
    )
    return lambda: seconds_per_image(loader, lambda batch: len(batch[0]))


def make_folder(root, photographs, images):
    """Lays out photographs, again and again, as a data set of two classes."""
    for split, count in (("train", images), ("val", 2)):
        for i in range(count):
            folder = root / split / "ab"[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            photograph = photographs[i % len(photographs)].resolve()
            (folder / f"{i}{photograph.suffix.lower()}").symlink_to(photograph)
    return str(root)


def make_photographs(folder, count=48):
    """JPEG files of 500x375 pixels, about as many bytes as ImageNet's."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for i in range(count):
        coarse = random.integers(0, 256, (38, 50, 3), np.uint8)
        coarse = np.asarray(Image.fromarray(coarse).resize((500, 375)))
        noise = random.normal(0, 12, (375, 500, 3))
        Image.fromarray(np.clip(coarse + noise, 0, 255).astype(np.uint8)).save(
            folder / f"{i}.jpg", quality=90
        )
    return sorted(folder.glob("*.jpg"))


def make_small(folder, photographs):
    """The photographs at 32x32, as PNG files."""
    from PIL import Image

    for i, path in enumerate(photographs):
        with Image.open(path) as image:
            image.convert("RGB").resize((32, 32)).save(folder / f"{i}.png")
    return sorted(folder.glob("*.png"))


def stages(root):
    """Contenders that do more and more of the recipe."""
    found = {"read": functools.partial(read_only, root)}
    off = dict(OFF)
    for name, fields in STAGES.items():
        off = {field: value for field, value in off.items() if field not in fields}
        found[name] = functools.partial(ours, root, "imagenet", {"batch_size": BATCH, **off})
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", nargs="?", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=4608, help="images in a pass")
    arguments = parser.parse_args()
    if arguments.images <= WARM_UP * BATCH:
        parser.error(f"--images must be more than {WARM_UP * BATCH}, the first of which do not count")

    def measure(contenders, reference):
        seconds = seconds_per_step(contenders, arguments.rounds, repeats=1, own_clock=True)
        print_images_per_second(seconds, 1, reference)
        print(flush=True)
        return seconds

    with tempfile.TemporaryDirectory() as temporary:
        temporary = pathlib.Path(temporary)
        for name in ("made", "small", "photographs", "cifar"):
            (temporary / name).mkdir()
        if arguments.folder is None:
            photographs = make_photographs(temporary / "made")
        else:
            files = sorted(arguments.folder.rglob("*"))
            photographs = [path for path in files if path.suffix.lower() in (".jpg", ".jpeg")]
            if not photographs:
                parser.error(f"{arguments.folder} holds no .jpg files")
        root = make_folder(temporary / "photographs", photographs, arguments.images)
        small = make_folder(temporary / "cifar", make_small(temporary / "small", photographs), CIFAR_IMAGES)

        cores = os.sched_getaffinity(0)
        print(f"ImageNet recipe, batches of {BATCH} at 224x224, {len(cores)} cores")
        contenders = {"this package": functools.partial(ours, root, "imagenet", {"batch_size": BATCH})}
        reference = "this package"
        if importlib.util.find_spec("timm"):
            contenders["timm, DataLoader"] = functools.partial(timm, root)
            reference = "timm, DataLoader"
        else:
            print('(timm is not installed: pip install -e ".[bench]")')
        measure(contenders, reference)

        print("its stages, each with all before it")
        measure(stages(root), "+ erasing (all)")

        print("CIFAR-10 recipes at 32x32, on one core")
        one = {min(cores)}
        measure(
            {name: functools.partial(ours, small, name, {}, one) for name in ("cifar10_fast", "cifar10")},
            "cifar10_fast",
        )


if __name__ == "__main__":
    main()
