"""ONNX files give Keras' numbers in ONNX Runtime and in OpenVINO."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from small_models import build

import convmixer_keras as ck
from convmixer_keras.commands import onnx as command
from convmixer_keras.convert.export import onnx as export_module
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.utils.errors import InputError

PIXELS = {"input_mean": [120.0, 110.0, 100.0], "input_std": [60.0, 50.0, 40.0]}


def ran(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images})[0]


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        PIXELS,
        {"kernel_size": 8, "activation": "relu"},
        {"kernel_size": 2, "normalization": "layer", "residual": False},
        {"include_top": False},
        {"include_top": False, "pooling": "max", "input_shape": (None, None, 3)},
        {"pooling": "max", "activation": "silu"},
        {"classes": 1, "classifier_activation": "sigmoid", "activation": "relu6"},
        {"classifier_activation": "softmax", "input_shape": (None, 15, 3), "activation": "hard_silu"},
        *({"activation": name, "depth": 1} for name in ("elu", "selu", "mish", "tanh", "leaky_relu")),
    ],
    ids=str,
)
def test_same_outputs(arguments, tmp_path):
    model = build(**arguments)
    logits = "classifier_activation" not in arguments
    report = export_module.export(model, tmp_path / "m.onnx", logits=logits)
    assert report.agreement.difference < 1e-4
    for batch in (1, 3):
        images = np.random.default_rng(1).normal(size=(batch, 13, 15, 3)).astype(np.float32)
        images = 128 + 60 * images if "input_mean" in arguments else images
        found = ran(tmp_path / "m.onnx", images)
        np.testing.assert_allclose(found, keras.ops.convert_to_numpy(model(images)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("own", [(13, 15, 3), (None, None, 3)], ids=str)
def test_another_size(own, tmp_path, here):
    model = build(**PIXELS, input_shape=own)
    ck.save_model(model, tmp_path / "m.keras", preprocessing=Preprocessing((13, 15)))
    output = tmp_path / "m.onnx"
    assert here(command.main, tmp_path / "m.keras", output, "--image-size", 21, "--logits").code == 0
    larger = build(**PIXELS, input_shape=(21, 21, 3))
    larger.set_weights(model.get_weights())
    images = np.random.default_rng(1).uniform(0, 255, (2, 21, 21, 3)).astype(np.float32)
    np.testing.assert_allclose(ran(output, images), larger.predict(images, verbose=0), rtol=0, atol=1e-4)
    session = onnxruntime.InferenceSession(output, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 21, 21, 3]
    assert json.loads(session.get_modelmeta().custom_metadata_map["preprocessing"])["size"] == [21, 21]
    done = here(command.main, tmp_path / "m.keras", output, "--image-size", 2)
    assert (done.code, "at least 3x3, one patch" in done.stderr) == (2, True)


def test_probabilities_names_and_operations(tmp_path):
    model = build(**PIXELS)
    names = ["a", "b", "c", "d", "größer"]
    report = export_module.export(
        model, tmp_path / "m.onnx", class_names=names, preprocessing=Preprocessing((13, 15))
    )
    assert report.output == "probabilities"
    images = np.random.default_rng(1).uniform(0, 255, (2, 13, 15, 3)).astype(np.float32)
    expected = softmax(keras.ops.convert_to_numpy(model(images)))
    np.testing.assert_allclose(ran(tmp_path / "m.onnx", images), expected, rtol=0, atol=1e-5)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    properties = session.get_modelmeta().custom_metadata_map
    assert json.loads(properties["class_names"]) == names
    assert json.loads(properties["preprocessing"])["size"] == [13, 15]
    assert session.get_inputs()[0].shape == ["batch", 13, 15, 3]
    operations = [node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node]
    assert operations.count("Gelu") == 5
    assert "Erf" not in operations


@pytest.mark.parametrize("opset", [13, 17, 19])
@pytest.mark.parametrize("arguments", [PIXELS, {"activation": "silu", "include_top": False}], ids=str)
def test_older_opsets_give_the_same(opset, arguments, tmp_path):
    model = build(**arguments)
    for name, version in (("old", opset), ("new", 20)):
        export_module.export(model, tmp_path / f"{name}.onnx", logits=True, opset=version)
    old = onnx.load(tmp_path / "old.onnx")
    assert [(entry.domain, entry.version) for entry in old.opset_import] == [("", opset)]
    assert old.ir_version <= (7 if opset < 15 else 9)  # What runtimes of that time read.
    assert "Gelu" not in [node.op_type for node in old.graph.node]
    images = np.random.default_rng(1).normal(120, 60, (2, 13, 15, 3)).astype(np.float32)
    expected = keras.ops.convert_to_numpy(model(images))
    for name in ("old", "new"):
        np.testing.assert_allclose(
            ran(tmp_path / f"{name}.onnx", images), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()
        )


@pytest.mark.parametrize(
    ("arguments", "opset", "message"),
    [
        ({}, 12, "opset must be 13 to 20, got 12"),
        ({}, 21, "opset must be 13 to 20, got 21"),
        ({"normalization": "layer"}, 16, "opset must be at least 17 for LayerNormalization, got 16"),
        ({"activation": "mish"}, 17, "opset must be at least 18 for Mish, got 17"),
    ],
)
def test_opsets_that_are_refused(arguments, opset, message, tmp_path):
    with pytest.raises(InputError, match=message):
        export_module.export(build(**arguments), tmp_path / "m.onnx", opset=opset)
    assert list(tmp_path.iterdir()) == []


def test_openvino_opens_it(tmp_path):
    openvino = pytest.importorskip("openvino")
    model = build(kernel_size=8, **PIXELS)
    export_module.export(model, tmp_path / "m.onnx", logits=True)
    images = np.random.default_rng(1).uniform(0, 255, (2, 13, 15, 3)).astype(np.float32)
    compiled = openvino.Core().compile_model(
        str(tmp_path / "m.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    np.testing.assert_allclose(
        compiled(images)[0], keras.ops.convert_to_numpy(model(images)), rtol=0, atol=1e-3
    )


def test_what_is_refused(tmp_path):
    with pytest.raises(InputError, match="'hard_shrink'"):
        export_module.export(build(activation="hard_shrink"), tmp_path / "m.onnx")
    with pytest.raises(InputError, match="not a ConvMixer"):
        export_module.export(
            keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), tmp_path / "m.onnx"
        )
    with pytest.raises(InputError, match="5 labels, one for each class, got 2"):
        export_module.export(build(), tmp_path / "m.onnx", class_names=["a", "b"])
    with pytest.raises(InputError, match=r"\.onnx"):
        export_module.export(build(), tmp_path / "m.onxn")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_command_under_another_backend(tmp_path):
    ck.save_model(build(**PIXELS), tmp_path / "m.keras", list("abcde"))
    done = subprocess.run(
        [sys.executable, "-m", "convmixer_keras.commands.onnx", "m.keras", "m.onnx"],
        cwd=tmp_path,
        env={**os.environ, "KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    check_command(done.stdout, tmp_path)


def test_the_command(tmp_path, here):
    ck.save_model(build(**PIXELS), tmp_path / "m.keras", list("abcde"))
    outcome = here(command.main, tmp_path / "m.keras", tmp_path / "m.onnx", "--opset", 17)
    assert outcome.code == 0, outcome.stderr
    check_command(outcome.stdout, tmp_path)
    assert onnx.load(tmp_path / "m.onnx").opset_import[0].version == 17
    outcome = here(command.main, tmp_path / "m.keras", tmp_path / "m.onnx", "--opset", 5)
    assert (outcome.code, outcome.stderr) == (2, "error: --opset must be 13 to 20, got 5\n")


def check_command(printed, folder):
    assert "verified in ONNX Runtime on 4 random images: largest logit difference" in printed
    assert "m.onnx: image -> probabilities" in printed
    assert (folder / "m.onnx").is_file()
