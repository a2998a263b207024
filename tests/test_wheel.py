"""The wheel in an empty environment outside of the checkout, and the source archive."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile

import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow

USE = """
import keras, numpy as np, safetensors.numpy, sys
import convmixer_keras as ck
from convmixer_keras.convert.weights import to_torch

sizes = dict(hidden_dim=8, depth=1, kernel_size=3, patch_size=2, classes=2, input_shape=(16, 16, 3))
model = ck.ConvMixer(**sizes, input_mean=120, input_std=60)
model.save_weights("m.weights.h5")
images = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3))
same = ck.ConvMixer(**sizes, input_mean=120, input_std=60, weights="m.weights.h5")
np.testing.assert_array_equal(same.predict(images, verbose=0), model.predict(images, verbose=0))
ck.save_model(model, "m.keras", ["cat", "dog"])
assert ck.inference.load("m.keras").class_names == ["cat", "dog"]
assert ck.inference.load("ConvMixer256_8_P2").class_names[9] == "truck"
safetensors.numpy.save_file(to_torch.to_state_dict(model, "timm"), "m.safetensors")
extras = {"keras_cv", "tensorflow_datasets", "torch", "matplotlib", "sklearn", "ai_edge_quantizer"}
assert not extras & set(sys.modules)
print(ck.__file__)
"""
RUN = """
import numpy as np
from PIL import Image
from convmixer_keras.convert.export.runtime import Classifier

Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save("a.png")
print(Classifier("m.tflite").top("a.png", k=2))
"""
TINY = ("--epochs", "1", "--hidden-dim", "8", "--depth", "1")


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """A folder with the source archive, and the wheel, which `build` makes from that archive."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, ROOT], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def unpacked(archives, tmp_path_factory):
    """The folder that the source archive unpacks to."""
    (path,) = archives.glob("*.tar.gz")
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
    (root,) = folder.iterdir()
    return root


def test_the_source_archive_is_complete(unpacked):
    """It holds every file of the checkout, as it is there."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = [name for name in listed.splitlines() if (ROOT / name).exists()]
    assert [name for name in names if not (unpacked / name).exists()] == [".gitignore"]
    names.remove(".gitignore")
    changed = [name for name in names if (unpacked / name).read_bytes() != (ROOT / name).read_bytes()]
    assert changed == ["setup.cfg"]  # setuptools adds [egg_info].


def test_an_index_takes_the_archives(archives):
    """Their description is shown as it is, and no link in it is relative."""
    pytest.importorskip("twine")
    paths = [path for path in archives.iterdir() if path.suffix in (".gz", ".whl")]
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *paths], check=True)
    (wheel,) = archives.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        text = archive.read(name).decode()
    assert "Project-URL: Documentation, https://" in text
    known = pytest.importorskip("trove_classifiers").classifiers  # An index refuses any other.
    assert set(re.findall(r"^Classifier: (.*)$", text, re.MULTILINE)) <= known
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 20
    assert all(link.startswith("https://") for link in links)


def test_the_source_archive_works(unpacked):
    """Its own package trains, and all of its tests and their helpers can be imported."""
    where = "import convmixer_keras as ck, convmixer_keras.convert as c; print(ck.__file__, c.__file__)"
    printed = subprocess.check_output([sys.executable, "-c", where], cwd=unpacked, text=True)
    assert printed.split() == [
        str(unpacked / name / "__init__.py") for name in ("convmixer_keras", "convert")
    ]
    subprocess.run([sys.executable, "train_keras.py", *TINY], cwd=unpacked, check=True, capture_output=True)
    assert (unpacked / "runs" / "digits" / "model.keras").is_file()
    collect = ["pytest", "--collect-only", "-qq", "-p", "no:cacheprovider", "-m", ""]
    done = subprocess.run([sys.executable, "-m", *collect], cwd=unpacked, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def empty(archives, tmp_path_factory):
    """A folder, and the `bin` of an environment with the wheel and what it asks for."""
    place = tmp_path_factory.mktemp("empty")
    venv.create(place / "venv", with_pip=True)
    bin = place / "venv" / "bin"
    (wheel,) = archives.glob("*.whl")
    subprocess.run([bin / "python", "-m", "pip", "install", "--quiet", wheel], check=True)
    return place, bin


@pytest.fixture(scope="module")
def with_everything(archives, tmp_path_factory):
    """As `empty`, but what the wheel asks for comes from the environment of the tests.

    Only its packages: the `.pth` files in it, which lead to the checkout, are not read.
    """
    place = tmp_path_factory.mktemp("everything")
    venv.create(place / "venv")
    bin = place / "venv" / "bin"
    (wheel,) = archives.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", bin / "python", "install", "--quiet", "--no-deps", wheel]
    subprocess.run(pip, check=True)
    (packages,) = (place / "venv" / "lib").glob("python*/site-packages")
    paths = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    (packages / "tests.pth").write_text("\n".join(paths))
    return place, bin


def run(environment, *command, code=0):
    place, bin = environment
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    done = subprocess.run(
        [bin / command[0], *command[1:]],
        cwd=place,
        env={**kept, "PATH": f"{bin}:/usr/bin:/bin", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    return done


def test_the_wheel_is_enough(empty):
    place, bin = empty
    assert str(place) in run(empty, "python", "-c", USE).stdout
    commands = sorted(path.name for path in bin.glob("convmixer-*"))
    assert {"convmixer-convert", "convmixer-tflite", "convmixer-train"} <= set(commands)
    for command in commands:
        assert re.match(rf"usage: {command} ", run(empty, command, "--help").stdout)
    run(empty, "convmixer-convert", "m.safetensors", "c.keras", "--activation", "gelu")
    run(empty, "convmixer-tflite", "m.keras", "m.tflite")
    assert "'dog'" in run(empty, "python", "-c", RUN).stdout


def test_a_missing_extra_is_one_line(empty):
    run(empty, "python", "-c", USE)
    for command, extra in (
        (["convmixer-train"], "train"),
        (["convmixer-tflite", "m.keras", "out.tflite", "--mode", "dynamic"], "export"),
    ):
        last_line = run(empty, *command, code=2).stderr.splitlines()[-1]
        assert re.fullmatch(
            rf"error: \w+ is not installed: pip install 'convmixer-keras\[{extra}\]' "
            rf"\(in a checkout: pip install -e '\.\[{extra}\]'\)",
            last_line,
        )


def test_the_wheel_trains(with_everything):
    place, _ = with_everything
    where = "import convmixer_keras as ck; print(ck.__file__)"
    assert run(with_everything, "python", "-c", where).stdout.startswith(str(place))
    printed = run(with_everything, "convmixer-train", *TINY).stdout
    assert (place / "runs" / "digits" / "model.keras").is_file()
    # What a run prints to do next works where it was started.
    (following,) = re.findall(r"^ *(convmixer-train .*)$", printed, re.MULTILINE)
    run(with_everything, *following.split())
