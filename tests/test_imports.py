"""What a process loads: this package nothing heavy until it is needed; a saved model needs no package."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from small_models import randomize

import convmixer_keras as ck

EXTRAS = {"keras_cv", "tensorflow_datasets", "torch", "matplotlib", "sklearn"}
# In one process, as it takes seconds to load TensorFlow.
SCRIPT = """
import json, sys
import keras, numpy as np
model = keras.saving.load_model("m.keras")
np.save("logits.npy", model.predict(np.load("images.npy"), verbose=0))
stages = [sorted(sys.modules)]
import convmixer_keras as ck
ck.ConvMixer256_8()
stages.append(sorted(sys.modules))
ck.ConvMixer768_32
import convmixer_keras.convert.weights.to_keras, convmixer_keras.commands.convert
import convmixer_keras.convert.weights.verification, convmixer_keras.pretrained
stages.append(sorted(sys.modules))
print(json.dumps(stages))
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model, images, the logits of a process that loads it, and what that process had loaded when."""
    folder = tmp_path_factory.mktemp("alone")
    model = ck.ConvMixer(8, 2, 3, 2, classes=3, input_shape=(8, 8, 3), input_mean=127.5, input_std=50)
    randomize(model)
    images = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype(np.float32)
    model.save(folder / "m.keras")
    np.save(folder / "images.npy", images)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=folder, capture_output=True, text=True, check=True
    )
    stages = [set(names) for names in json.loads(done.stdout.splitlines()[-1])]
    return model, images, np.load(folder / "logits.npy"), stages


@pytest.mark.slow
def test_saved_model_loads_without_this_package(saved):
    model, images, logits, (keras_alone, _, _) = saved
    assert not any(name.startswith("convmixer") for name in keras_alone)
    np.testing.assert_allclose(logits, model.predict(images, verbose=0), rtol=1e-5, atol=1e-6)


def test_building_loads_nothing_heavy(saved):
    _, _, _, (keras_alone, after_building, _) = saved
    added = after_building - keras_alone
    assert "convmixer_keras.models.convmixer" in added
    assert not added & EXTRAS


def test_the_builders_and_the_converter_do_without_torch_until_it_is_needed(saved):
    _, _, _, (keras_alone, _, converter) = saved
    assert not (converter - keras_alone) & {"torch", "tensorflow_datasets", "keras_cv"}


def test_importing_loads_no_keras():
    program = "import sys, convmixer_keras; convmixer_keras.convert.export.runtime.Classifier; "
    program += "print('keras' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_only_the_files_of_weights_import_torch():
    for folder in ("convmixer_keras", "convert"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.parent == ROOT / "convert" / "weights":
                continue
            assert not re.search(r"^\s*(import|from) torch\b", path.read_text(), re.MULTILINE), path


def test_every_public_name_is_there_at_first_use():
    """Each in a package that has loaded nothing else yet."""
    program = """
import importlib, sys
names = importlib.import_module("convmixer_keras").__all__
for name in names:
    for module in [module for module in sys.modules if module.startswith("convmixer_keras")]:
        del sys.modules[module]
    getattr(importlib.import_module("convmixer_keras"), name)
print(*names)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {"convert", "preprocessing", "presets", "visualization", "ConvMixer"} <= set(done.stdout.split())
