"""Quiet TensorFlow, the images that several tests read, and commands run as their users run them."""

import contextlib
import gc
import os
import pathlib
import signal
import sys
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from convmixer_keras.utils import errors, streams

# PyTorch's CUDA builds load triton when they need it, which ends the process where TensorFlow came first.
with contextlib.suppress(ImportError):
    import triton  # noqa: F401

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# A job that a shell runs in the background ignores Ctrl-C, and so would all processes of the tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tracing makes many objects that stay. Python looks through them so often that it takes a tenth of the time.
gc.set_threshold(100_000, 50, 100)

ROOT = pathlib.Path(__file__).parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs what only Linux has, such as /proc")


@pytest.fixture(autouse=True)
def _clean_keras():
    """Each test starts from Keras' default policy and a fixed seed, whatever the one before did."""
    errors.call_by({})
    streams.in_command = False
    keras = sys.modules.get("keras")
    if keras is None:  # Nothing before used it, and this test may do without.
        return
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(1234)


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """A folder SPLIT/CLASS/FILE: three colours of noisy photographs that anything can learn to tell apart."""
    root = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    colours = {"blue": (40, 60, 200), "green": (40, 190, 60), "red": (210, 50, 40)}
    for split, count in (("train", 12), ("val", 5)):
        for name, colour in colours.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                height, width = random.integers(20, 40, 2)
                pixels = np.clip(random.normal(colour, 40, (height, width, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.{'png' if i % 3 == 0 else 'jpg'}")
    return root


# Files of ../shared/data/imagenet-sample: ImageNet's id of a class, and its name.
SAMPLE = (
    "n01484850_great_white_shark",
    "n01532829_house_finch",
    "n01644900_tailed_frog",
    "n01692333_Gila_monster",
    "n01847000_drake",
    "n02089867_Walker_hound",
    "n02099712_Labrador_retriever",
    "n02342885_hamster",
    "n02410509_bison",
    "n02676566_acoustic_guitar",
    "n02692877_airship",
    "n02730930_apron",
    "n03388183_fountain_pen",
    "n03868242_oxcart",
    "n03924679_photocopier",
    "n07930864_cup",
)
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture(scope="session")
def imagenet_photos(tmp_path_factory):
    """48 photographs of ImageNet; where ../shared/data lacks them, 16 invented ones of such names."""
    folder = SHARED_DATA / "imagenet-sample"
    if not folder.is_dir():
        folder = tmp_path_factory.mktemp("imagenet-sample")
        for seed, name in enumerate(SAMPLE):
            scenery(seed).save(folder / f"{name}.JPEG", quality=90)
    return sorted(folder.glob("*.JPEG"))


def scenery(seed):
    """Smooth shapes of many sizes in random colours: a stand-in for a photograph."""
    random = np.random.default_rng(seed)
    size = tuple(random.integers(300, 501, 2))
    pixels = np.zeros((size[1], size[0], 3))
    for patches in (2, 5, 12, 30, 75):
        grid = Image.fromarray(random.integers(0, 256, (patches, patches, 3), np.uint8))
        pixels += np.subtract(grid.resize(size, Image.Resampling.BICUBIC), 127.5) / patches**0.4
    return Image.fromarray(np.clip(127.5 + pixels, 0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def cifar10_folder(tmp_path_factory):
    """40 training and 10 test images of each class of CIFAR-10; invented where ../shared/data lacks them."""
    root = tmp_path_factory.mktemp("cifar10")
    wanted = {"train": 40, "test": 10}
    archive = SHARED_DATA / "cifar10-jpeg.tar.xz"
    if not archive.is_file():
        invent_cifar10(root, wanted)
        return root
    import tarfile

    found = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            split, *rest = member.name.removeprefix("./").split("/")
            if len(rest) == 2 and found.get((split, rest[0]), 0) < wanted.get(split, 0):
                found[split, rest[0]] = found.get((split, rest[0]), 0) + 1
                tar.extract(member, root, filter="data")
    return root


def invent_cifar10(root, wanted):
    """Writes SPLIT/CLASS/FILE.jpg: noise around a colour of each class."""
    random = np.random.default_rng(0)
    colours = random.integers(30, 226, (10, 3))
    for split, count in wanted.items():
        for name, colour in zip(CIFAR10, colours, strict=True):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(random.normal(colour, 20, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i:04}.jpg")


class Outcome(NamedTuple):
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture
def here(capfd, monkeypatch):
    """Function from a command's `main` and its arguments to its `Outcome`, in this process."""
    from convmixer_keras.utils import command_line

    def run(main, *arguments):
        arguments = [str(argument) for argument in arguments]
        monkeypatch.setattr(sys, "argv", [sys.argv[0], *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            command_line.run(lambda: main(arguments))
        return Outcome(exit_info.value.code, *capfd.readouterr())

    return run


@pytest.fixture
def convmixer_convert(here):
    """Function from the arguments of `convmixer-convert` to its `Outcome`, in this process."""
    from convmixer_keras.commands import convert

    return lambda *arguments: here(convert.main, *arguments)
