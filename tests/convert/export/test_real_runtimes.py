"""Exported files in the runtimes that phones have: old and new LiteRT, and MediaPipe Tasks.

Each in a virtual environment of its own, from pip. A file is right there or refused; all of these are right.
"""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from small_models import build

from convmixer_keras.convert.export import tflite
from convmixer_keras.convert.export.runtime import Classifier

pytestmark = pytest.mark.real

PROGRAM = pathlib.Path(__file__).parent / "run_tflite.py"
LITERT = {
    "tflite-runtime 2.14": ["tflite-runtime==2.14.0", "numpy<2"],
    "LiteRT 1.0": ["ai-edge-litert==1.0.1", "numpy<2"],
    "LiteRT 1.3": ["ai-edge-litert==1.3.0", "numpy"],
    "LiteRT 2.1": ["ai-edge-litert==2.1.0", "numpy"],
    "newest LiteRT": ["ai-edge-litert", "numpy"],
}
# Largest difference to the LiteRT that is installed, as a share of the largest score. Runtimes round in their
# own ways where they quantise; one that takes wrong scales is off by more than 1.
TOLERANCES = {"float32": 1e-5, "float16": 1e-5, "dynamic": 0.1, "int8": 0.1}
NAMES = ["cat", "Hündin", "a b", "4", "5,5"]
KINDS = {
    "classifier": {"classifier_activation": "softmax"},
    "embedder": {"include_top": False, "pooling": "avg"},
    "map": {"include_top": False},
}


class Files:
    """One file of each kind and mode, with the images to run and the scores that they have to give."""

    def __init__(self, folder):
        random = np.random.default_rng(3)
        images = random.uniform(0, 255, (12, 1, 1, 3)) + random.normal(0, 40, (12, 24, 24, 3))
        self.images = np.clip(images, 0, 255).round().astype(np.uint8)
        self.images_path, self.folder = folder / "images.npy", folder
        np.save(self.images_path, self.images)
        for kind, arguments in KINDS.items():
            # 300 channels are two groups, which are cut apart and joined.
            shape = {"hidden_dim": 300, "input_shape": (24, 24, 3)}
            model = build(**shape, **arguments, input_mean=120.0, input_std=50.0)
            for mode in tflite.MODES:
                labels = NAMES if kind == "classifier" else None
                tflite.export(model, self.path(kind, mode), mode, calibration=self.images, labels=labels)

    def path(self, kind, mode):
        return self.folder / f"{kind}_{mode}.tflite"

    def expected(self, kind, mode):
        return Classifier(self.path(kind, mode)).predict(self.images)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return Files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def environment(request, tmp_path_factory):
    """The Python of a new virtual environment with the packages that the test names."""
    packages = request.param
    python = sys.executable
    if any("numpy<2" in package for package in packages):
        # The last wheels for NumPy 1 are of Python 3.11.
        found = [shutil.which(name) for name in ("python3.11", "python3.10", "python3.9")]
        python = next(filter(None, found), None)
        if python is None:
            pytest.skip("needs Python 3.11, 3.10 or 3.9")
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([python, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin" / "pip", "install", "--quiet", *packages], check=True)
    return folder / "bin" / "python"


def run(environment, task, path, images_path):
    command = [environment, PROGRAM, task, path, images_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("environment", LITERT.values(), ids=LITERT.keys(), indirect=True)
def test_every_mode_is_right(environment, files):
    for kind in KINDS:
        for mode in tflite.MODES:
            answer = run(environment, "litert", files.path(kind, mode), files.images_path)
            assert "refused" not in answer, (kind, mode, answer)
            expected = files.expected(kind, mode)
            difference = np.abs(np.array(answer["scores"]) - expected).max() / np.abs(expected).max()
            print(f"{kind} {mode}: {difference:.2g}")
            assert difference <= TOLERANCES[mode], (kind, mode)


@pytest.mark.parametrize("environment", [["mediapipe"]], ids=["MediaPipe"], indirect=True)
def test_mediapipe(environment, files):
    """Scores equal `Classifier`'s on photographs of exactly the model's size."""
    for mode in tflite.MODES:
        answer = run(environment, "classifier", files.path("classifier", mode), files.images_path)
        assert "refused" not in answer, (mode, answer)
        assert answer["names"] == NAMES
        expected = files.expected("classifier", mode)
        np.testing.assert_allclose(answer["scores"], expected, rtol=0, atol=1e-6)

        answer = run(environment, "embedder", files.path("embedder", mode), files.images_path)
        assert "refused" not in answer, (mode, answer)
        expected = files.expected("embedder", mode)
        np.testing.assert_allclose(answer["scores"], expected, rtol=1e-5, atol=1e-6)

        answer = run(environment, "embedder", files.path("map", mode), files.images_path)
        assert "NormalizationOptions" in answer["refused"]
