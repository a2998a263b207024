"""A file that computes something else than its model is not written."""

import numpy as np
import pytest
import small_models

from convmixer_keras.commands import tflite as command
from convmixer_keras.convert.export import tflite
from convmixer_keras.convert.export.runtime import Classifier
from convmixer_keras.models.saving import save_model
from convmixer_keras.utils.errors import Failure, InputError


@pytest.mark.parametrize(
    "mode", ["float32", "dynamic", *(pytest.param(m, marks=pytest.mark.slow) for m in ("float16", "int8"))]
)
def test_nothing_is_written(mode, tmp_path, monkeypatch):
    """Where the rewrite goes wrong, here on purpose, the old file stays."""
    model = small_models.build()
    other = small_models.build(seed=1)
    for layer in other.layers:
        layer.set_weights([w + 0.3 for w in layer.get_weights()])
    rewritten = tflite.mobile(other)
    monkeypatch.setattr(tflite, "mobile", lambda *_, **__: rewritten)
    (tmp_path / "out.tflite").write_text("the old file")
    images = np.random.default_rng(0).normal(size=(8, *small_models.SHAPE)).astype(np.float32)
    with pytest.raises(Failure, match=f"the {mode} file and the model differ by"):
        tflite.export(model, tmp_path / "out.tflite", mode, calibration=images, logits=True)
    assert (tmp_path / "out.tflite").read_text() == "the old file"


def test_probabilities_are_those_of_the_logits(tmp_path, monkeypatch):
    """A file whose scores are another function of its logits is refused."""
    outputs = Classifier.outputs

    def squared(file, images):
        found = outputs(file, images)
        return found**2 if file.output_name == "probabilities" else found

    monkeypatch.setattr(Classifier, "outputs", squared)
    with pytest.raises(Failure, match="the float32 file's probabilities and those of its logits differ by"):
        tflite.export(small_models.build(), tmp_path / "out.tflite")
    assert not list(tmp_path.iterdir())


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
