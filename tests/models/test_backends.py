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


NEEDS = """
import dataclasses, keras
import convmixer_keras as ck
recipe = dataclasses.replace(ck.recipes.DIGITS, randaugment_ops=1)
model = ck.ConvMixer(8, 1, 3, 2, classes=3, input_shape=(8, 8, 3))
for function, arguments in (
    (ck.training.train, (recipe, "run")),
    (ck.training.fused_twin, (model,)),
    (ck.data.load, (recipe,)),
    (ck.convert.export.tflite.export, (model, "m.tflite")),
    (ck.visualization.depthwise_kernels, (model,)),
):
    try:
        function(*arguments)
    except ValueError as error:
        print(error)
# What needs only tf.data works.
images, labels = next(iter(ck.data.load(ck.recipes.DIGITS).validation))
model = ck.ConvMixer(8, 1, 3, 2, classes=10, input_shape=(8, 8, 1))
model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
model.fit(images.numpy(), labels.numpy(), verbose=0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_what_needs_tensorflow_says_so_in_one_line(backend, tmp_path):
    pytest.importorskip(backend)
    environment = {**os.environ, "KERAS_BACKEND": backend}
    done = subprocess.run(
        [sys.executable, "-c", NEEDS], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    end = f" needs KERAS_BACKEND=tensorflow, set before Keras is imported; it is {backend}"
    assert [line.endswith(end) for line in done.stdout.splitlines()] == [True] * 5
    assert list(tmp_path.iterdir()) == []
