"""A file that computes something else than its model is not written."""

import numpy as np
import pytest
import small_models

from convmixer_keras.commands import tflite as command
from convmixer_keras.convert.export import tflite
from convmixer_keras.convert.export.agreement import check_agreement
from convmixer_keras.models.saving import save_model
from convmixer_keras.utils.errors import Failure, InputError


@pytest.mark.parametrize(("mode", "right", "wrong"), [("float32", 1e-4, 0.01), ("int8", 0.1, 1.0)])
@pytest.mark.parametrize("size", [1e-2, 1.0, 9400.0])
def test_what_a_mode_explains(mode, right, wrong, size):
    random = np.random.default_rng(0)
    expected, noise = size * random.normal(size=(8, 50)), size * random.normal(size=(8, 50))
    check_agreement(expected + right * noise, expected, mode)
    with pytest.raises(Failure, match=f"the {mode} file disagrees with the model: outputs differ by"):
        check_agreement(expected + wrong * noise, expected, mode)
    with pytest.raises(Failure, match="NaN or infinite"):
        check_agreement(expected * np.nan, expected, mode)


def test_nothing_is_written(tmp_path, monkeypatch):
    """Where the rewrite goes wrong, here on purpose, the old file stays."""
    model = small_models.build()
    other = small_models.build(seed=1)
    for layer in other.layers:
        layer.set_weights([w + 0.3 for w in layer.get_weights()])
    from convmixer_keras.convert.export import mobile

    rewritten = mobile.mobile(other)
    monkeypatch.setattr(mobile, "mobile", lambda *_, **__: rewritten)
    (tmp_path / "out.tflite").write_text("the old file")
    with pytest.raises(Failure, match="disagrees with the model"):
        tflite.export(model, tmp_path / "out.tflite")
    assert (tmp_path / "out.tflite").read_text() == "the old file"


def test_numbers_that_are_none(tmp_path):
    model = small_models.build()
    images = np.zeros((2, *small_models.SHAPE), np.float32)
    images[1, 2, 3, 0] = np.nan
    with pytest.raises(InputError, match="calibration must be finite numbers"):
        tflite.export(model, tmp_path / "out.tflite", "int8", calibration=images)
    kernel, bias = model.get_layer("head").get_weights()
    model.get_layer("head").set_weights([kernel * np.nan, bias])
    with pytest.raises(InputError, match=r"head/kernel of .* NaN"):
        tflite.export(model, tmp_path / "out.tflite")
    assert not list(tmp_path.iterdir())


def test_the_model_is_not_written_over(tmp_path):
    save_model(small_models.build(), tmp_path / "m.keras")
    (tmp_path / "m.tflite").symlink_to("m.keras")
    before = (tmp_path / "m.keras").read_bytes()
    for output, message in (("m.keras", r"must end in \.tflite"), ("m.tflite", "is the input")):
        with pytest.raises(InputError, match=message):
            command.main([str(tmp_path / "m.keras"), str(tmp_path / output)])
    assert (tmp_path / "m.keras").read_bytes() == before
