"""Exports whatever Keras' settings and the model's wrapping are, or a refusal in one line."""

import json
import os
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter
from processes import started
from small_models import build

from convmixer_keras.convert.export import onnx, tflite
from convmixer_keras.convert.weights import to_torch
from convmixer_keras.utils.errors import Failure, InputError

SMALL = {"hidden_dim": 16, "depth": 1, "kernel_size": 3}
IMAGES = np.random.default_rng(0).normal(size=(4, 13, 15, 3)).astype(np.float32)


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def check_files(folder, expected):
    """What the two files in a folder give, each in its own runtime."""
    session = onnxruntime.InferenceSession(folder / "m.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"image": IMAGES})[0], expected, rtol=0, atol=1e-5)
    run = Interpreter(str(folder / "m.tflite")).get_signature_runner()
    found = [run(image=image[None])["probabilities"] for image in IMAGES]
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=0, atol=1e-5)


def export_both(model, folder):
    tflite.export(model, folder / "m.tflite")
    onnx.export(model, folder / "m.onnx")


@pytest.mark.parametrize("policy", ["mixed_float16", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("built", ["before", "under it"])
def test_dtype_policies(policy, built, tmp_path):
    exact = build(**SMALL)
    expected = softmax(np.asarray(exact(IMAGES)))
    keras.config.set_dtype_policy(policy)
    try:
        model = exact
        if built == "under it":
            model = build(**SMALL)
            model.set_weights(exact.get_weights())
        export_both(model, tmp_path)
    finally:
        keras.config.set_dtype_policy("float32")
    check_files(tmp_path, expected)


@pytest.mark.slow
def test_settings_of_keras_in_a_file(tmp_path):
    settings = {"floatx": "float16", "image_data_format": "channels_first", "backend": "tensorflow"}
    (tmp_path / "keras.json").write_text(json.dumps(settings | {"epsilon": 1e-7}))
    model = build(**SMALL)
    model.save(tmp_path / "m.keras")
    program = (
        "from convmixer_keras.commands import onnx, tflite;"
        "tflite.main(['m.keras', 'm.tflite']); onnx.main(['m.keras', 'm.onnx'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "KERAS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    check_files(tmp_path, softmax(np.asarray(model(IMAGES))))


def fixed_batch(body):
    image = keras.Input(batch_shape=(4, 13, 15, 3))
    return keras.Model(image, body(image))


def dropout_in_front_of_a_softmax(body):
    image = keras.Input((13, 15, 3))
    return keras.Model(image, keras.layers.Softmax()(keras.layers.Dropout(0.5)(body(image))))


def regularized_before_the_head(body):
    x = body.get_layer("pool").output
    for kind in ("Dropout", "AlphaDropout", "GaussianDropout", "GaussianNoise"):
        x = getattr(keras.layers, kind)(0.5)(x)
    return keras.Model(body.input, body.get_layer("head")(x))


def softmax_behind_a_reshape(body):
    return keras.Model(body.input, keras.ops.softmax(keras.layers.Reshape((5,))(body.output)))


def sequential(body):
    return keras.Sequential([keras.Input((13, 15, 3)), body, keras.layers.Activation("softmax")])


@pytest.mark.parametrize(
    "wrap",
    [
        fixed_batch,
        dropout_in_front_of_a_softmax,
        regularized_before_the_head,
        softmax_behind_a_reshape,
        sequential,
    ],
)
def test_wrapped_models(wrap, tmp_path):
    body = build(**SMALL)
    expected = softmax(np.asarray(body(IMAGES)))
    export_both(wrap(body), tmp_path)
    check_files(tmp_path, expected)
    for name, array in to_torch.to_state_dict(wrap(body)).items():
        np.testing.assert_array_equal(array, to_torch.to_state_dict(body)[name])


def quantized():
    model = build(**SMALL)
    model.quantize("int8")
    return model


def with_lora():
    model = build(**SMALL)
    model.get_layer("head").enable_lora(2)
    return model


def with_nan():
    model = build(**SMALL)
    model.get_layer("stem_conv").bias.assign([np.nan] * 16)
    return model


def with_nan_in_bfloat16():
    keras.config.set_dtype_policy("bfloat16")
    try:
        return with_nan()
    finally:
        keras.config.set_dtype_policy("float32")


def free_channels():
    image = keras.Input((13, 15, None))
    return keras.Model(image, build(**SMALL)(image))


def pooled_with_its_sides():
    model = build(**SMALL)
    x = keras.layers.GlobalAveragePooling2D(keepdims=True)(model.get_layer("pool").input)
    return keras.Model(model.input, keras.layers.Dense(5)(keras.layers.Flatten()(x)))


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (quantized, "quantised"),
        (with_lora, "LoRA"),
        (with_nan, "NaN or infinite"),
        (with_nan_in_bfloat16, "NaN or infinite"),
        (free_channels, "number of its channels open"),
        (pooled_with_its_sides, "keepdims"),
    ],
)
def test_what_is_refused(make, message, tmp_path):
    model = make()
    for export, file in ((tflite.export, "m.tflite"), (onnx.export, "m.onnx")):
        with pytest.raises(InputError, match=message) as error:
            export(model, tmp_path / file)
        assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_perturbed_onnx_file_is_not_verified(tmp_path, monkeypatch):
    """With 1,000 classes probabilities hardly differ where logits do."""
    model = build(**{**SMALL, "classes": 1000})
    weight = onnx._Graph.weight

    def wrong(graph, name, array):
        array = keras.ops.convert_to_numpy(array)
        return weight(graph, name, -array if name == "head.weight" else array)

    monkeypatch.setattr(onnx._Graph, "weight", wrong)
    with pytest.raises(Failure, match=r"ONNX Runtime and Keras differ by .* same top-1 on 0 of 4"):
        onnx.export(model, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("command", ["tflite", "onnx"])
@pytest.mark.parametrize("share", [0.03, 0.2, 0.5, 0.8, 0.95])
def test_ctrl_c_at_any_moment(command, share, tmp_path, how_long):
    build(**SMALL).save(tmp_path / "m.keras")
    arguments = [sys.executable, "-m", f"convmixer_keras.commands.{command}", "m.keras", f"m.{command}"]
    with started(arguments, tmp_path) as process:
        time.sleep(max(share * how_long(command), 3))  # Before, it is Python that starts.
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
    written = (tmp_path / f"m.{command}").exists()
    if not written:
        assert process.returncode == 130
        assert [line for line in errors.splitlines() if "note:" not in line] == ["interrupted"]
    assert sorted(os.listdir(tmp_path)) == ["m.keras", *([f"m.{command}"] if written else [])]


@pytest.fixture(scope="module")
def how_long(tmp_path_factory):
    """Function from a command to the seconds that it takes on this machine now."""
    folder, known = tmp_path_factory.mktemp("timed"), {}

    def measured(command):
        if command not in known:
            build(**SMALL).save(folder / "m.keras")
            began = time.monotonic()
            arguments = ["-m", f"convmixer_keras.commands.{command}", "m.keras", f"m.{command}"]
            subprocess.run([sys.executable, *arguments], cwd=folder, check=True, capture_output=True)
            known[command] = time.monotonic() - began
        return known[command]

    return measured
