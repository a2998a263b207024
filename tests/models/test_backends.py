"""The network gives the same logits and feature maps under Keras' other backends."""

import os
import subprocess
import sys

import numpy as np
import pytest
from small_models import randomize

import convmixer_keras as ck

SCRIPT = """
import sys, keras, numpy as np
import convmixer_keras as ck
pixels = {"input_mean": 120, "input_std": 60}
model = ck.ConvMixer(12, 2, 4, 3, classes=5, input_shape=(14, 13, 3), weights="w.weights.h5", **pixels)
images = np.load("images.npy")
maps = ck.features(model, (0, 1)).predict(np.load("large.npy"), verbose=0)
np.savez("outputs.npz", keras.ops.convert_to_numpy(model(images)), *maps)
print(keras.backend.backend())
assert "tensorflow" not in sys.modules
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_backends_agree(backend, tmp_path):
    """One process each, as it takes seconds to start. An even kernel, which each pads in its own way."""
    pytest.importorskip(backend)
    model = ck.ConvMixer(12, 2, 4, 3, classes=5, input_shape=(14, 13, 3), input_mean=120, input_std=60)
    randomize(model)
    model.save_weights(tmp_path / "w.weights.h5")
    random = np.random.default_rng(0)
    images = random.uniform(0, 255, (3, 14, 13, 3)).astype(np.float32)
    large = random.uniform(0, 255, (2, 17, 19, 3)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "large.npy", large)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == backend
    expected = [model.predict(images, verbose=0), *ck.features(model, (0, 1)).predict(large, verbose=0)]
    with np.load(tmp_path / "outputs.npz") as found:
        for name, array in zip(found.files, expected, strict=True):
            np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-4)
