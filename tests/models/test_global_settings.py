"""Whatever Keras is set to, an opened model computes in float32 and says what it said."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from small_models import build

import convmixer_keras as ck

SHAPE = (13, 15, 3)
SCRIPT = """
import keras, numpy as np
import convmixer_keras as ck
assert (keras.config.floatx(), keras.config.image_data_format()) == ("float16", "channels_first")
images = np.load("images.npy")
found = {}
for name in ("logits", "softmax"):
    found[name] = ck.inference.load(f"{name}.keras").model.predict_on_batch(images)
found["features"] = ck.inference.load("logits.keras", include_top=False).model.predict_on_batch(images)
found["map"] = ck.features(ck.inference.load("logits.keras").model, 0).predict_on_batch(images)
fresh = ck.ConvMixer(8, 1, 3, 2, classes=4, input_shape=(13, 15, 3), input_mean=120, input_std=60)
assert fresh.inputs[0].dtype == fresh.output.dtype == "float32"
fresh.save("fresh.keras")
found["fresh"] = ck.inference.load("fresh.keras").model.predict_on_batch(images)
np.savez("found.npz", **found)
"""


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float16", "mixed_float16", "mixed_bfloat16"])
def test_a_process_with_a_keras_json(policy, tmp_path):
    images = np.random.default_rng(0).uniform(0, 255, (3, *SHAPE)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    for name, activation in (("logits", None), ("softmax", "softmax")):
        model = build(classifier_activation=activation, input_mean=120, input_std=60)
        model.save(tmp_path / f"{name}.keras")
    settings = {"floatx": "float16", "image_data_format": "channels_first"}
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    script = SCRIPT.replace("found = {}", f"found = {{}}\nkeras.config.set_dtype_policy({policy!r})")
    environment = {**os.environ, "KERAS_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True)

    with np.load(tmp_path / "found.npz") as found:
        close = {"rtol": 0, "atol": 1e-5}
        for name in ("logits", "softmax"):
            expected = ck.inference.load(tmp_path / f"{name}.keras").model.predict_on_batch(images)
            np.testing.assert_allclose(found[name], expected, **close)
        for name in ("logits", "softmax", "fresh"):
            np.testing.assert_allclose(found[name].sum(1), 1, rtol=0, atol=1e-6)
        headless = ck.inference.load(tmp_path / "logits.keras", include_top=False).model
        np.testing.assert_allclose(found["features"], headless.predict_on_batch(images), rtol=0, atol=1e-4)
        maps = ck.features(ck.inference.load(tmp_path / "logits.keras").model, 0)
        np.testing.assert_allclose(found["map"], maps.predict_on_batch(images), rtol=0, atol=1e-4)
