"""Exported files, run in the LiteRT interpreter, against the Keras model."""

import dataclasses
import os
import pathlib
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from PIL import Image
from small_models import build

import convmixer_keras as ck
from convmixer_keras.commands import tflite as tflite_command
from convmixer_keras.convert.export import calibration, onnx, tflite
from convmixer_keras.convert.export.runtime import Classifier
from convmixer_keras.images import preprocessing
from convmixer_keras.images.folder import Folder
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.utils import command_line
from convmixer_keras.utils.errors import Failure, InputError

RECORD = Preprocessing((13, 15), mean=(0.45, 0.4, 0.35), std=(0.25, 0.2, 0.15))
LAYER_NORM = {"normalization": "layer"}
PIXELS = {"input_mean": [120.0, 110.0, 100.0], "input_std": [60.0, 50.0, 40.0]}


def photos(count=12, shape=(13, 15, 3)):
    """Smooth random images of all brightnesses."""
    random = np.random.default_rng(3)
    images = random.uniform(0, 255, (count, 1, 1, shape[-1])) + random.normal(0, 40, (count, *shape))
    return np.clip(images, 0, 255).round().astype(np.float32)


def operations(path):
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    return interpreter, interpreter._get_ops_details()


def assert_all_delegated(path):
    """One delegate takes everything from the file's input to its output."""
    interpreter, steps = operations(path)
    (delegate,) = [step for step in steps if step["op_name"] == "DELEGATE"]
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert source["index"] in delegate["inputs"]
    assert target["index"] in delegate["outputs"]


@pytest.mark.parametrize(
    ("mode", "arguments"),
    [
        ("float32", {"hidden_dim": 450, "depth": 1, **PIXELS}),
        ("dynamic", {"activation": "silu"}),
        *(
            pytest.param(mode, arguments, marks=pytest.mark.slow)
            for mode, arguments in (
                ("dynamic", {"hidden_dim": 450, "depth": 1, **PIXELS}),
                ("float16", {"hidden_dim": 450, "depth": 1, **PIXELS}),
                ("float32", {"activation": "relu", "classifier_activation": "softmax"}),
                ("dynamic", {"normalization": "layer"}),
                ("dynamic", {"hidden_dim": 1056, "depth": 1, "kernel_size": 5}),
                ("dynamic", {"activation": "relu", "classifier_activation": "softmax"}),
                ("float16", {"residual": False}),
                ("float32", {"normalization": "layer"}),
                ("float16", {"pooling": "max"}),
                ("dynamic", {"include_top": False}),
                ("float16", {"kernel_size": 15}),
            )
        ),
    ],
    ids=str,
)
def test_the_delegate_takes_every_operation(arguments, mode, tmp_path):
    tflite.export(build(**arguments), tmp_path / "m.tflite", mode)
    assert_all_delegated(tmp_path / "m.tflite")


def test_operations_of_the_file(tmp_path):
    tflite.export(build(input_shape=(30, 30, 3), **PIXELS), tmp_path / "m.tflite")
    _, steps = operations(tmp_path / "m.tflite")
    names = {step["op_name"] for step in steps}
    assert names == {
        "ADD",
        "CONV_2D",
        "DELEGATE",
        "DEPTHWISE_CONV_2D",
        "GELU",
        "MEAN",
        "MUL",
        "PAD",
        "RESHAPE",
        "SOFTMAX",
        "STRIDED_SLICE",
    }
    taps = [int(np.prod(kernel)) for kernel in kernels(tmp_path / "m.tflite")]
    assert len(taps) == 2 * 4
    assert max(taps) <= 25
    assert sum(taps) == 2 * 81


def kernels(path):
    """Height and width of each depthwise kernel in a file."""
    interpreter, steps = operations(path)
    shapes = {d["index"]: d["shape"] for d in interpreter.get_tensor_details()}
    return [shapes[s["inputs"][1]][1:3] for s in steps if s["op_name"] == "DEPTHWISE_CONV_2D"]


def versions(path):
    """The version of each operation in a file, and the runtime that it says it needs."""
    model = schema.Model.GetRootAs(path.read_bytes())
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    entries = {model.Metadata(i).Name(): model.Metadata(i).Buffer() for i in range(model.MetadataLength())}
    runtime = model.Buffers(entries[b"min_runtime_version"]).DataAsNumpy().tobytes()
    names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    return {names[code.BuiltinCode()]: code.Version() for code in codes}, runtime.rstrip(b"\0")


# Of integers, as LiteRT's op_version.cc and runtime_version.cc have them.
INT8 = {"ADD": 2, "CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "GELU": 2, "MEAN": 2, "PAD": 2}


def test_int8_is_integer_throughout(tmp_path):
    path = tmp_path / "m.tflite"
    tflite.export(build(**PIXELS, classifier_activation="softmax"), path, "int8", calibration=photos())
    interpreter, steps = operations(path)
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert source["dtype"] == np.uint8
    assert source["quantization"] == (1.0, 0)
    assert target["dtype"] == np.float32
    details = {d["index"]: d for d in interpreter.get_tensor_details()}
    for step in steps:
        if step["op_name"] in ("DELEGATE", "DEQUANTIZE", "SOFTMAX"):
            continue
        for index in step["outputs"]:
            assert details[index]["dtype"] == np.int8, (step["op_name"], details[index]["name"])
        if step["op_name"] in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            weights = details[step["inputs"][1]]
            assert weights["dtype"] == np.int8
            channels = weights["shape"][3 if step["op_name"] == "DEPTHWISE_CONV_2D" else 0]
            assert len(weights["quantization_parameters"]["scales"]) == channels
    found, runtime = versions(path)
    assert INT8.items() <= found.items()
    assert runtime == b"2.9.0"  # Of GELU.


def test_dynamic_quantises_what_pays(tmp_path):
    path = tmp_path / "m.tflite"
    tflite.export(build(hidden_dim=256, depth=1), path, "dynamic")
    interpreter, steps = operations(path)
    dtypes = {d["index"]: d["dtype"] for d in interpreter.get_tensor_details()}
    sources = {
        i: step["inputs"][0] for step in steps if step["op_name"] == "DEQUANTIZE" for i in step["outputs"]
    }
    seen = {}
    for step in steps:
        if step["op_name"] in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            weights, bias = step["inputs"][1:]
            seen.setdefault(step["op_name"], set()).add(
                (dtypes[sources.get(weights, weights)], dtypes[sources.get(bias, bias)])
            )
    # Where weights are float16, biases are: LiteRT 1.1 to 1.3 refuse a mixture.
    assert seen["CONV_2D"] == {(np.int8, np.float32)}
    assert (np.float16, np.float16) in seen["DEPTHWISE_CONV_2D"]
    assert (np.float16, np.float32) not in seen["DEPTHWISE_CONV_2D"]
    # Weights with a scale for each channel, and unpacking float16.
    assert {"CONV_2D": 5, "DEQUANTIZE": 3}.items() <= versions(path)[0].items()


def test_a_bias_that_several_operations_share(tmp_path):
    """The converter writes equal constants once: zeros, for a convolution in int8 and for one in float16."""
    model = ck.ConvMixer(16, 1, 9, 3, classes=16, input_shape=(13, 15, 3))
    for weight in model.weights:
        if weight.name == "bias":
            weight.assign(np.zeros(weight.shape))
    report = tflite.export(model, tmp_path / "m.tflite", "dynamic")
    assert report.agreement.difference < 0.05 * report.agreement.largest


def test_weights_are_inside_the_flatbuffer(tmp_path):
    """MediaPipe's tools cut off what stands behind it. Larger weights than 256 KiB once did."""
    path = tmp_path / "m.tflite"
    tflite.export(build(hidden_dim=640, depth=1, kernel_size=3), path, "dynamic")
    model = schema.Model.GetRootAs(path.read_bytes())
    buffers = [model.Buffers(i) for i in range(model.BuffersLength())]
    assert max(buffer.DataLength() for buffer in buffers) == 640 * 640
    assert not any(buffer.Offset() for buffer in buffers)
    for buffer in buffers:
        if buffer.DataLength():
            start = buffer._tab.Vector(buffer._tab.Offset(4))
            assert start % 16 == 0


@pytest.mark.parametrize("mode", ["float32", "int8"])
def test_whole_kernels(mode, tmp_path):
    model, images = build(**PIXELS, hidden_dim=300, depth=1), photos()
    report = tflite.export(model, tmp_path / "m.tflite", mode, calibration=images, whole_kernels=True)
    assert report.agreement.difference < 0.1 * report.agreement.largest
    found = [tuple(kernel) for kernel in kernels(tmp_path / "m.tflite")]
    assert found.count((9, 9)) == 1
    assert set(found) <= {(9, 9), (1, 1)}


@pytest.mark.parametrize(
    ("mode", "tolerance"), [("float32", 1e-5), ("float16", 2e-3), ("dynamic", 0.03), ("int8", 0.1)]
)
def test_file_against_the_model(mode, tolerance, tmp_path):
    model = build(**PIXELS, hidden_dim=64)
    images = photos()
    report = tflite.export(model, tmp_path / "m.tflite", mode, calibration=images, logits=True)
    expected = np.asarray(model(images))
    got = Classifier(tmp_path / "m.tflite").outputs(images)
    difference = np.abs(got - expected).max()
    assert difference <= tolerance * np.abs(expected).max()
    assert report.agreement.difference == pytest.approx(difference, rel=1e-3, abs=1e-6)
    assert report.agreement.same_top1 == np.sum(got.argmax(-1) == expected.argmax(-1))
    assert report.agreement.images == len(images)
    assert report.size == (tmp_path / "m.tflite").stat().st_size


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize(
    ("mode", "arguments", "logits", "name", "scores"),
    [
        ("float32", {}, False, "probabilities", softmax),
        ("float32", {"classifier_activation": "softmax"}, True, "logits", None),
        # One logit says yes or no: a softmax of it would be 1 for every image.
        ("int8", {"classes": 1}, False, "probabilities", sigmoid),
        ("float32", {"classifier_activation": "relu"}, True, "logits", lambda x: np.maximum(x, 0)),
        ("int8", {"include_top": False, "pooling": "avg"}, False, "features", None),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("int8", {}, True, "logits", None),
                ("int8", {"classifier_activation": "softmax"}, False, "probabilities", softmax),
                ("float32", {"classifier_activation": "sigmoid"}, False, "probabilities", sigmoid),
                ("float32", {"classes": 1, "classifier_activation": "sigmoid"}, True, "logits", None),
                ("float32", {"include_top": False, "pooling": "avg"}, False, "features", None),
            )
        ),
    ],
)
def test_what_a_file_gives(mode, arguments, logits, name, scores, tmp_path):
    """Against NumPy, which makes scores of the logits of a network with the same weights."""
    model = build(depth=1, **arguments)
    plain = build(depth=1, **{**arguments, "classifier_activation": None})
    plain.set_weights(model.get_weights())
    x = np.random.default_rng(0).normal(size=(8, 13, 15, 3)).astype(np.float32)
    report = tflite.export(model, tmp_path / "m.tflite", mode, calibration=x, logits=logits)
    interpreter = Interpreter(str(tmp_path / "m.tflite"))
    (signature,) = interpreter.get_signature_list().values()
    assert signature == {"inputs": ["image"], "outputs": [name]}
    assert interpreter.get_input_details()[0]["name"] == "image"
    assert interpreter.get_output_details()[0]["name"] == name == report.output
    expected = np.asarray(plain(x))
    expected = scores(expected) if scores else expected
    got = Classifier(tmp_path / "m.tflite").outputs(x)
    tolerance = 1e-5 if mode == "float32" else 0.15
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("bias", [-3.0, *(pytest.param(b, marks=pytest.mark.slow) for b in (-6.0, 3.0))])
def test_an_int8_file_of_rare_classes_is_not_refused(bias, tmp_path):
    """int8 has steps of 1/256, which is much of a small probability."""
    model = build(classes=1, **PIXELS)
    kernel, _ = model.get_layer("head").get_weights()
    model.get_layer("head").set_weights([kernel, np.array([bias], np.float32)])
    tflite.export(model, tmp_path / "m.tflite", "int8", calibration=photos())


def test_a_head_that_gives_neither_logits_nor_probabilities(tmp_path):
    for activation in ("relu", "tanh"):
        model = build(depth=1, classifier_activation=activation)
        with pytest.raises(InputError, match=f"ends in '{activation}', .*logits=True"):
            tflite.export(model, tmp_path / "m.tflite")
    with pytest.raises(InputError, match="softmax over one class, which is 1 for every image"):
        tflite.export(build(classes=1, classifier_activation="softmax"), tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []


def test_added_normalisation_takes_pixels(tmp_path):
    model = build()
    images = photos()
    report = tflite.export(model, tmp_path / "m.tflite", preprocessing=RECORD, logits=True)
    expected = np.asarray(model((images / 255 - RECORD.mean) / RECORD.std))
    got = Classifier(tmp_path / "m.tflite").outputs(images)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert report.takes_pixels
    assert not tflite.export(model, tmp_path / "m.tflite").takes_pixels


def test_a_crop_alone_does_not_normalise(tmp_path, here):
    """The file would say how photographs are cropped, and take their pixels for normalised channels."""
    build(depth=1, kernel_size=3).save(tmp_path / "m.keras")
    done = here(tflite_command.main, tmp_path / "m.keras", tmp_path / "m.tflite", "--crop-pct", "0.9")
    assert done.code == 2
    assert done.stderr.splitlines()[-1].endswith("and does not say which: give --mean and --std")
    assert not (tmp_path / "m.tflite").exists()


def test_labels_travel_in_the_file(tmp_path):
    path = tmp_path / "m.tflite"
    names = ["Katze", "Hündin", "a b", "4", "5,5"]
    tflite.export(build(**PIXELS), path, labels=names)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.read("labels.txt").decode().splitlines() == names
    assert Classifier(path).class_names == names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "int4"}, "mode must be one of"),
        ({"mode": "int8"}, "needs images"),
        ({"labels": ["a"]}, "must be 5 labels"),
        ({"labels": ["a", "b", "c", "d", "e\nf"]}, "one line"),
        ({"calibration": np.zeros((2, 3, 3, 3))}, "of the shape"),
        ({"calibration": np.zeros((0, 13, 15, 3))}, "at least one image"),
        ({"calibration": "digits"}, "takes normalised channels"),
        ({"batch": 10**7}, "batch must leave at most 134,217,728 values in a batch, got 10000000"),
    ],
    ids=str,
)
def test_wrong_arguments(arguments, message, tmp_path):
    with pytest.raises(InputError, match=message):
        tflite.export(build(depth=1, kernel_size=3), tmp_path / "m.tflite", **arguments)
    assert list(tmp_path.iterdir()) == []


def digits():
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images = (data.images[..., None] * (255 / 16)).round().astype(np.float32)
    return train_test_split(images, data.target, test_size=0.2, stratify=data.target, random_state=0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small ConvMixer that has learnt the digits, as a `.keras` file with class names."""
    keras.utils.set_random_seed(0)
    train_x, _, train_y, _ = digits()
    model = ck.ConvMixer(32, 3, 7, 1, input_mean=78.0, input_std=96.0, input_shape=(8, 8, 1), classes=10)
    model.compile(keras.optimizers.Adam(5e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(train_x, train_y, batch_size=64, epochs=10, verbose=0)
    path = tmp_path_factory.mktemp("digits") / "digits.keras"
    ck.save_model(model, path, [f"digit {i}" for i in range(10)], Preprocessing(8, 1, orientation="stored"))
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "points"), [("float32", 0), ("float16", 0), ("dynamic", 0.2), ("int8", 1)])
def test_accuracy_on_digits(trained, mode, points, tmp_path):
    model = keras.saving.load_model(trained)
    train_x, test_x, _, test_y = digits()
    expected = np.asarray(model(test_x))
    accuracy = np.mean(expected.argmax(-1) == test_y)
    assert accuracy > 0.95
    tflite.export(model, tmp_path / "m.tflite", mode, calibration=train_x[::10], logits=True)
    got = Classifier(tmp_path / "m.tflite").outputs(test_x)
    if mode in ("float32", "float16"):
        second, first = np.sort(expected, -1)[:, -2:].T
        tie = first - second < 1e-2
        assert np.all((got.argmax(-1) == expected.argmax(-1)) | tie)
    # One of these 360 images is more than 0.2 points, and may always be a tie.
    lost = max(points / 100, 1 / len(test_y))
    assert np.mean(got.argmax(-1) == test_y) >= accuracy - lost - 1e-9


def run(*arguments, cwd=None):
    command = pathlib.Path(sys.executable).with_name("convmixer-tflite")
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(
        [command, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, env=environment
    )


@pytest.mark.slow
def test_command(trained, tmp_path):
    done = run(trained, tmp_path / "m.tflite", "--mode", "int8", "--calibrate", "digits")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    size = os.path.getsize(tmp_path / "m.tflite")
    assert f"int8, {size / 1e6:.2f} MB, image -> probabilities" in done.stdout
    assert "takes raw pixels 0..255" in done.stdout
    assert "on 128 images of digits: largest logit difference" in done.stdout
    assert "same top-1 on 1" in done.stdout
    assert Classifier(tmp_path / "m.tflite").class_names == [f"digit {i}" for i in range(10)]


@pytest.mark.slow
def test_command_with_labels_mean_and_folder(image_folder, tmp_path):
    model = build(classes=3, depth=1, kernel_size=3)
    ck.save_model(model, tmp_path / "m.keras")
    (tmp_path / "labels.txt").write_text("blau\ngrün\nrot\n", encoding="utf-8-sig")
    output = tmp_path / "m.tflite"
    done = run(
        tmp_path / "m.keras", output, "--labels", tmp_path / "labels.txt", "--calibrate", image_folder,
        "--mean", 0.5, "--std", 0.2, 0.25, 0.3, "--logits",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert Classifier(output).class_names == ["blau", "grün", "rot"]
    x = photos()
    expected = model.predict((x / 255 - 0.5) / [0.2, 0.25, 0.3], verbose=0)
    np.testing.assert_allclose(Classifier(output).outputs(x), expected, rtol=0, atol=1e-4)

    done = run(tmp_path / "m.keras", output)
    assert done.returncode == 0
    assert "its input is left as it is" in done.stdout


@pytest.mark.parametrize(("own", "mode"), [((13, 15, 3), "int8"), ((None, None, 3), "float32")], ids=str)
def test_another_size(own, mode, tmp_path, here):
    """Against a network that is built for that size, with the same weights."""
    model = build(**PIXELS, input_shape=own, classifier_activation="softmax")
    ck.save_model(model, tmp_path / "m.keras", list("abcde"), Preprocessing((13, 15), crop_pct=0.9))
    pictures = tmp_path / "photos"
    pictures.mkdir()
    for number, image in enumerate(photos(shape=(21, 18, 3)).astype(np.uint8)):
        Image.fromarray(image).save(pictures / f"{number}.png")
    output = tmp_path / "m.tflite"
    options = ("--mode", mode, "--image-size", "21x18", "--crop-pct", 1)
    done = here(tflite_command.main, tmp_path / "m.keras", output, "--calibrate", pictures, *options)
    assert (done.code, done.stderr) == (0, "")
    assert preprocessing.of(output) == Preprocessing((21, 18), crop_pct=1)
    larger = build(**PIXELS, input_shape=(21, 18, 3), classifier_activation="softmax")
    larger.set_weights(model.get_weights())
    files = sorted(pictures.iterdir())
    expected = larger.predict(np.stack([np.asarray(Image.open(file)) for file in files]), verbose=0)
    got = Classifier(output).predict(files)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 if mode == "float32" else 0.1)


@pytest.mark.parametrize(
    "mode",
    ["int8", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("float32", "float16", "dynamic"))],
)
@pytest.mark.parametrize(
    "arguments",
    [{}, *(pytest.param(kind, marks=pytest.mark.slow) for kind in ({"include_top": False}, LAYER_NORM))],
    ids=str,
)
def test_a_batch(mode, arguments, tmp_path):
    """Files that take three images give what files that take one do, to a count that is no multiple of it."""
    model, images = build(depth=1, **PIXELS, **arguments), photos(7)
    for batch in (1, 3):
        tflite.export(model, tmp_path / f"{batch}.tflite", mode, calibration=images, batch=batch)
    several, one = Classifier(tmp_path / "3.tflite"), Classifier(tmp_path / "1.tflite")
    interpreter, _ = operations(tmp_path / "3.tflite")
    assert interpreter.get_input_details()[0]["shape"].tolist() == [3, 13, 15, 3]
    assert interpreter.get_output_details()[0]["shape"][0] == several.batch == 3
    expected = one.outputs(images)
    np.testing.assert_allclose(several.outputs(images), expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with models, and with files that are none."""
    folder = tmp_path_factory.mktemp("inputs")
    small = {"depth": 1, "kernel_size": 3}
    ck.save_model(build(**small, **PIXELS), folder / "m.keras")
    ck.save_model(build(**small), folder / "channels.keras")
    ck.save_model(build(**small, input_shape=(None, None, 3)), folder / "free.keras")
    (folder / "text.keras").write_text("no model")
    (folder / "empty").mkdir()
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.keras", "m.tflite"], "none.keras"),
        (["text.keras", "m.tflite"], "text.keras"),
        (["m.keras", "m.tflite", "--mode", "int8"], "--calibrate"),
        (["m.keras", "m.tflite", "--calibrate", "empty"], "there are no images in empty"),
        (
            ["m.keras", "m.tflite", "--calibrate", "photos/"],
            "must be a folder of images, digits, or",
        ),
        (["channels.keras", "m.tflite", "--calibrate", "digits"], "its --mean and --std"),
        (["m.keras", "it's.tflite", "--snippet", "js"], "without quotes"),
        (["m.keras", "m.tflite", "--labels", "none.txt"], "none.txt"),
        (["m.keras", "m.tflite", "--labels", "text.keras"], "must be 5 labels"),
        (["channels.keras", "m.tflite", "--mean", "124", "--std", "0.2"], "mean must be in units of 0..1"),
        (
            ["channels.keras", "m.tflite", "--mean", "0.5", "0.5", "--std", "0.2"],
            "mean must be one number or 3",
        ),
        (["channels.keras", "m.tflite", "--mean", "0.5", "--std", "0"], "std must be positive"),
        (["channels.keras", "m.tflite", "--mean", "0.5"], "--mean and --std must be given together"),
        (["m.keras", "m.tflite", "--mean", "0.5", "--std", "0.2"], "leave out --mean and --std"),
        (["free.keras", "m.tflite"], "leaves the size of its images open: give --image-size"),
        (["m.keras", "m.tflite", "--image-size", "2"], "at least 3x3, one patch"),
        (["m.keras", "m.tflite", "--image-size", "9x9x3"], "must be N or HxW, got 9x9x3"),
        (["m.keras", "m.tflite", "--image-size", "0"], "must be a positive integer"),
        (["m.keras", "m.tflite", "--batch", "0"], "must be a positive integer"),
        (["m.keras", "none/m.tflite"], "cannot write"),
        (["m.keras", "m.tflite", "--mode", "float8"], "--mode must be one of float32"),
    ],
    ids=str,
)
def test_command_with_wrong_input(arguments, message, inputs, monkeypatch, capfd):
    monkeypatch.chdir(inputs)
    with pytest.raises(SystemExit) as end:
        command_line.run(lambda: tflite_command.main(arguments))
    assert end.value.code == 2
    stderr = capfd.readouterr().err
    assert message in stderr
    assert "Traceback" not in stderr
    assert not (inputs / "m.tflite").exists()


def test_an_unwritable_output_is_found_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(tflite, "_network", None)  # Is not reached.
    with pytest.raises(InputError, match="cannot write"):
        tflite.export(build(depth=1, kernel_size=3), tmp_path / "none" / "m.tflite")


def test_the_command_keeps_the_record_and_says_what_nobody_said(tmp_path, capfd):
    record = Preprocessing((13, 15), 3, 0.9, "lanczos", "stored")
    model = build(classes=3, depth=1, kernel_size=3, **PIXELS)
    ck.save_model(model, tmp_path / "m.keras", list("abc"), record)
    ck.save_model(model, tmp_path / "silent.keras")
    output = tmp_path / "m.tflite"

    def errors_of(*arguments):
        capfd.readouterr()
        assert tflite_command.main([str(argument) for argument in arguments]) == 0
        return [line for line in capfd.readouterr().err.splitlines() if "note:" in line]

    assert errors_of(tmp_path / "m.keras", output) == []
    assert preprocessing.of(output) == record
    assert errors_of(tmp_path / "m.keras", output, "--crop-pct", 0.5) == []
    assert preprocessing.of(output) == dataclasses.replace(record, crop_pct=0.5)
    (line,) = errors_of(tmp_path / "silent.keras", output)
    assert "silent.keras does not record its preprocessing" in line
    assert preprocessing.of(output) == Preprocessing((13, 15))


@pytest.mark.parametrize("layout", ["with a validation split", "named by the user", "divided"])
def test_calibration_images_are_not_those_to_validate_on(layout, image_folder, tmp_path):
    if layout == "divided":
        (tmp_path / "photos").symlink_to(image_folder / "train")
        folder = tmp_path / "photos"
        held_out = Folder(folder, validation_share=0.1).split("validation").paths
    else:
        folder = image_folder if layout == "with a validation split" else image_folder / "val"
        held_out = Folder(image_folder).split("val").paths
    held_out = {path for paths in held_out.values() for path in paths}
    chosen = set(calibration._training_images(folder))
    if layout == "named by the user":
        assert chosen <= held_out
    else:
        assert chosen
        assert not chosen & held_out


def test_a_folder_of_other_splits_is_not_taken_whole(image_folder, tmp_path):
    """What is validated on must not be calibrated on; a folder without classes is taken as it is."""
    for name, split in (("training", "train"), ("validation", "val")):
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / name).symlink_to(image_folder / split)
    with pytest.raises(InputError, match=r"'training' .* To calibrate on a part of .*, name its folder"):
        calibration._training_images(tmp_path / "photos")
    assert calibration._training_images(tmp_path / "photos" / "training" / "red")


def test_preprocessing_that_does_not_fit_is_refused(tmp_path):
    model = build(**PIXELS)
    for record in (Preprocessing(224), Preprocessing((13, 15), 1)):
        for function, file in ((tflite.export, "m.tflite"), (onnx.export, "m.onnx")):
            with pytest.raises(InputError, match="preprocessing must give what the model takes"):
                function(model, tmp_path / file, preprocessing=record)


def test_imagenet_photos(imagenet_photos, tmp_path):
    model = build(input_shape=(32, 32, 3), **PIXELS)
    report = tflite.export(model, tmp_path / "m.tflite", "int8", calibration=imagenet_photos[0].parent)
    assert report.agreement.images == len(imagenet_photos)
    assert Classifier(tmp_path / "m.tflite").outputs(imagenet_photos[:3]).shape == (3, 5)


def test_a_class_that_is_ruled_out_hides_no_difference(tmp_path):
    """In int8, one scale for all logits leaves nothing of the others."""
    model = build(**PIXELS)
    kernel, bias = model.get_layer("head").get_weights()
    bias[4] = -1e4
    model.get_layer("head").set_weights([kernel, bias])
    with pytest.raises(Failure, match="the int8 file and the model differ by"):
        tflite.export(model, tmp_path / "m.tflite", "int8", calibration=photos())
    tflite.export(model, tmp_path / "m.tflite", "float32", calibration=photos())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"author": "me"}, "author and license have no place"),
        ({"license": "MIT"}, "author and license have no place"),
    ],
)
def test_a_map_of_features_has_no_metadata(arguments, message, tmp_path):
    model = build(depth=1, kernel_size=3, include_top=False, pooling=None)
    with pytest.raises(InputError, match=message):
        tflite.export(model, tmp_path / "m.tflite", **arguments)


def test_a_weight_that_float16_cannot_hold_is_named(tmp_path):
    model = build(**PIXELS)
    kernel, bias = model.get_layer("head").get_weights()
    bias[4] = -1e9
    model.get_layer("head").set_weights([kernel, bias])
    with pytest.raises(InputError, match=r"a weight of 1e\+09 is too large for float16"):
        tflite.export(model, tmp_path / "m.tflite", "float16")


def test_a_size_that_a_layer_in_front_refuses(tmp_path):
    network = build(depth=1, kernel_size=3, input_shape=(None, None, 3))
    image = keras.Input((12, 12, 3))
    model = keras.Model(image, network(keras.layers.Reshape((12, 12, 3))(image)))
    for exporter, name in ((tflite, "m.tflite"), (onnx, "m.onnx")):
        with pytest.raises(InputError, match="cannot be run on images of 16x16"):
            exporter.export(model, tmp_path / name, size=(16, 16))
