"""The examples under Keras' other backends, as a user runs them."""

import re
import sys

import numpy as np
import pytest
from small_models import build
from test_examples import example, run

import convmixer_keras as ck
from convmixer_keras.images.listing import image_paths
from convmixer_keras.images.preprocessing import Preprocessing


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_every_door_opens(backend, image_folder, tmp_path):
    pytest.importorskip(backend)
    model = build(
        kernel_size=3, patch_size=4, classes=3, input_shape=(16, 16, 3), input_mean=100, input_std=50
    )
    path, record = tmp_path / "m.keras", Preprocessing(16)
    ck.save_model(model, path, ["blue", "green", "red"], record)
    photos = image_folder / "val"
    first = image_paths(photos)[0]

    def printed(name, *arguments, note=""):
        done = example(name, *arguments, KERAS_BACKEND=backend)
        assert (done.returncode, done.stderr) == (0, note), done.stderr
        return done.stdout

    module = ["-m", "convmixer_keras.commands.predict"]
    done = run(sys.executable, *module, first, "--model", path, KERAS_BACKEND=backend)
    assert (done.returncode, done.stderr) == (0, "")
    shown = done.stdout
    logits = model.predict(record(first)[None], verbose=0)[0].astype(np.float64)
    expected = 100 * np.exp(logits.max()) / np.exp(logits).sum()
    assert float(re.search(r"([\d.]+) %", shown)[1]) == pytest.approx(expected, abs=0.051)

    saved = tmp_path / "features.npz"
    printed("features", photos, "--model", path, "--output", tmp_path / "n.png", "--save", saved)
    body = ck.features(model, 1)
    pixels = np.stack([record(file) for file in image_paths(photos)])
    with np.load(saved) as found:
        np.testing.assert_allclose(
            found["features"], body.predict(pixels, verbose=0).mean((1, 2)), rtol=1e-3, atol=1e-4
        )

    note = f"note: this command needs TensorFlow; KERAS_BACKEND={backend} is ignored\n"
    printed("explain", path, "--photo", first, "--output", tmp_path / "explained", note=note)
    done = run(
        sys.executable, "train_keras.py", "--evaluate", path, "--dataset", image_folder, KERAS_BACKEND=backend
    )
    assert done.stderr == note
    assert "15 images of 'val'" in done.stdout
