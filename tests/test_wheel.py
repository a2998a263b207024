"""The wheel in an empty environment outside of the checkout, and the source archive."""

import os
import re
import subprocess
import sys
import tarfile
import venv

import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow

USE = """
import keras, numpy as np, safetensors.numpy, sys
import convmixer_keras as ck
from convmixer_keras.convert import torch_weights

sizes = dict(hidden_dim=8, depth=1, kernel_size=3, patch_size=2, classes=2, input_shape=(16, 16, 3))
model = ck.ConvMixer(**sizes, input_mean=120, input_std=60)
model.save_weights("m.weights.h5")
images = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3))
same = ck.ConvMixer(**sizes, input_mean=120, input_std=60, weights="m.weights.h5")
np.testing.assert_array_equal(same.predict(images, verbose=0), model.predict(images, verbose=0))
ck.save_model(model, "m.keras", ["cat", "dog"])
assert ck.inference.load("m.keras").class_names == ["cat", "dog"]
assert ck.inference.load("ConvMixer256_8_P2").class_names[9] == "truck"
safetensors.numpy.save_file(torch_weights.to_state_dict(model, "timm"), "m.safetensors")
extras = {"keras_cv", "tensorflow_datasets", "torch", "matplotlib", "sklearn", "ai_edge_quantizer"}
assert not extras & set(sys.modules)
print(ck.__file__)
"""
RUN = """
import numpy as np
from PIL import Image
from convmixer_keras.convert.runtime import Classifier

Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save("a.png")
print(Classifier("m.tflite").top("a.png", k=2))
"""


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, ROOT], check=True, capture_output=True)
    return folder


def test_the_source_archive_is_complete(archives):
    """It holds what the checkout does; the tests, the training script and the examples run from it."""
    (path,) = archives.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    missing = set(listed.splitlines()) - inside - {".gitignore"}
    assert not missing


@pytest.fixture(scope="module")
def empty(archives, tmp_path_factory):
    """A folder, and the `bin` of an environment with the wheel and what it asks for."""
    place = tmp_path_factory.mktemp("empty")
    venv.create(place / "venv", with_pip=True)
    bin = place / "venv" / "bin"
    (wheel,) = archives.glob("*.whl")
    subprocess.run([bin / "python", "-m", "pip", "install", "--quiet", wheel], check=True)
    return place, bin


def run(empty, *command, code=0):
    place, bin = empty
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
            rf"error: \w+ is not installed: pip install 'convmixer-keras\[{extra}\]'", last_line
        )
