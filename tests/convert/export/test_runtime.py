"""Running exported files without Keras and TensorFlow."""

import concurrent.futures
import json
import os
import pathlib
import struct
import subprocess
import sys
import zipfile
import zlib

import keras
import numpy as np
import pytest
from conftest import on_linux
from PIL import Image

from convmixer_keras.convert.export import tflite
from convmixer_keras.convert.export.runtime import Classifier
from convmixer_keras.images import preprocessing
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.utils.errors import InputError

ROOT = pathlib.Path(__file__).parents[3]
NAMES = ["red", "green", "blue"]
ON_DEVICE = ROOT / "examples" / "on_device.py"

# Run by the interpreter under test: any import of something that a device does not have fails.
BLOCKED = """
import sys, runpy
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "keras", "convmixer_keras", "torch", "jax", "tf_keras"):
            raise ImportError("blocked " + name)
sys.meta_path.insert(0, Blocker())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def colour_model():
    """A ConvMixer whose three classes are the three colours, so that every answer is known."""
    import convmixer_keras as ck

    model = ck.ConvMixer(
        3, 1, 3, 4, activation="linear", residual=False, input_mean=127.5, input_std=127.5,
        input_shape=(16, 20, 3), classes=3, classifier_activation="softmax",
    )  # fmt: skip
    identity = np.eye(3, dtype=np.float32)
    model.get_layer("stem_conv").set_weights([np.broadcast_to(identity / 16, (4, 4, 3, 3)), np.zeros(3)])
    centre = np.zeros((3, 3, 3, 1))
    centre[1, 1] = 1
    model.get_layer("block0_depthwise").set_weights([centre, np.zeros(3)])
    model.get_layer("block0_pointwise").set_weights([identity[None, None], np.zeros(3)])
    model.get_layer("head").set_weights([3 * identity, np.zeros(3)])
    return model


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Path by mode."""
    folder = tmp_path_factory.mktemp("colours")
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 1, 3)) * np.ones((1, 16, 20, 1))
    paths = {mode: folder / f"{mode}.tflite" for mode in tflite.MODES}
    for mode, path in paths.items():
        tflite.export(colour_model(), path, mode, calibration=images, labels=NAMES)
    return paths


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A file of each colour, of another size than the model's."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, colour in zip(NAMES, ((230, 20, 10), (20, 200, 30), (0, 30, 240)), strict=True):
        Image.new("RGB", (64, 41), colour).save(folder / f"{name}.png")
    return [folder / f"{name}.png" for name in NAMES]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("mode", tflite.MODES)
def test_names_of_colours(files, pictures, mode, threads):
    classifier = Classifier(files[mode], threads=threads)
    assert classifier.input_shape == (16, 20, 3)
    assert classifier.output_name == "probabilities"
    assert classifier.class_names == NAMES
    assert classifier.takes_pixels is True
    found = classifier.top(pictures, k=2)
    assert [best[0] for best, _ in found] == [0, 1, 2]
    assert [best[1] for best, _ in found] == NAMES
    for row in found:
        assert row[0][2] > 0.8
        assert row[0][2] >= row[1][2]


def test_arrays_of_every_kind(files):
    classifier = Classifier(files["float32"])
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 20, 3), dtype=np.uint8)
    expected = np.asarray(colour_model()(images.astype(np.float32)))
    for given in (images, images.astype(np.float64), list(images), images.astype(np.int32)):
        got = classifier.predict(given)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(classifier.predict(images[1]), expected[1:2], rtol=0, atol=1e-5)
    assert classifier.predict([]).shape == (0, 3)


def test_bytes_reach_an_int8_file_as_they_are(files):
    classifier = Classifier(files["int8"])
    extremes = np.zeros((2, 16, 20, 3), np.uint8)
    extremes[1] = 255
    np.testing.assert_array_equal(classifier.predict(extremes), classifier.predict(extremes.astype(float)))
    # Out of range is the end of the range, and does not wrap around.
    np.testing.assert_array_equal(
        classifier.predict(extremes), classifier.predict(extremes.astype(float) * 3 - 100)
    )


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((16, 20)),
        np.zeros((2, 20, 16, 3)),
        np.zeros((16, 20, 4)),
        np.zeros((1, 1, 16, 20, 3)),
        [np.zeros((8, 8, 3))],
        np.full((1, 16, 20, 3), "a"),
        np.zeros((1, 16, 20, 3), complex),
    ],
    ids=lambda images: str(np.shape(images)),
)
def test_wrong_shape(files, images):
    with pytest.raises(InputError, match=r"shape \(16, 20, 3\), got"):
        Classifier(files["float32"]).predict(images)


def test_unreadable_images(files, tmp_path):
    classifier = Classifier(files["float32"])
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(InputError, match=r"cannot read .*text\.png as an image"):
        classifier.predict(tmp_path / "text.png")
    with pytest.raises(InputError, match="there is no file"):
        classifier.predict([tmp_path / "none.png"])
    with pytest.raises(InputError, match="cannot read"):
        classifier.predict(str(tmp_path))


def test_files_that_are_no_models(files, tmp_path):
    path = tmp_path / "m.tflite"
    with pytest.raises(InputError, match="there is no file"):
        Classifier(path)
    with pytest.raises(InputError, match="cannot read"):
        Classifier(tmp_path)
    whole = files["float32"].read_bytes()
    for content in (b"", b"TFL3", b"no model at all", b"\0\0\0\0TFL3" + b"\0" * 40, whole[:1000]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="is not a TFLite model"):
            Classifier(path)


@pytest.mark.parametrize("threads", [0, -1, 1.5, "two", None])
def test_wrong_threads(files, threads):
    with pytest.raises((InputError, TypeError), match="threads must be a positive integer"):
        Classifier(files["float32"], threads=threads)


def test_wrong_k(files):
    with pytest.raises(InputError, match="k must be at least 1"):
        Classifier(files["float32"]).top(np.zeros((16, 20, 3)), k=0)


def test_normalised_channels_need_arrays(tmp_path, pictures):
    from small_models import build

    tflite.export(build(), tmp_path / "m.tflite")
    classifier = Classifier(tmp_path / "m.tflite")
    assert classifier.takes_pixels is False
    assert not classifier.has_names
    with pytest.raises(InputError, match="give mean and std"):
        classifier.predict(pictures)
    assert classifier.top(np.zeros((13, 15, 3)), k=1)[0][0][1] in "01234"


def test_a_file_of_the_stock_converter(tmp_path):
    import tensorflow as tf

    model = colour_model()
    image = keras.Input(batch_shape=(1, 16, 20, 3))
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(image, model(image)))
    (tmp_path / "m.tflite").write_bytes(converter.convert())
    classifier = Classifier(tmp_path / "m.tflite")
    x = np.random.default_rng(0).integers(0, 256, (2, 16, 20, 3))
    assert classifier.class_names == ["0", "1", "2"]
    assert classifier.output_name is classifier.takes_pixels is None
    expected = np.asarray(model(x.astype(np.float32)))
    np.testing.assert_allclose(classifier.predict(x), expected, rtol=0, atol=1e-5)


RECORDS = (
    Preprocessing((16, 20), 3, 0.8, "bilinear", "exif"),
    Preprocessing((16, 20), 3, 1.0, "bicubic", "stored"),
    Preprocessing((16, 20), 3, 0.6, "lanczos", "exif"),
    Preprocessing((16, 20), 3, 0.9, "nearest", "exif"),
)


@pytest.fixture(scope="module")
def turned(tmp_path_factory):
    """Photographs whose corners differ, to be shown turned and mirrored in every way."""
    folder = tmp_path_factory.mktemp("turned")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = Image.fromarray(pixels).resize((97, 61), Image.Resampling.BICUBIC)
        image.save(folder / f"{orientation}.png", exif=exif)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("record", RECORDS, ids=str)
def test_the_record_in_the_file_is_obeyed(record, turned, tmp_path):
    """By `Classifier` and `on_device.py`, whose probabilities are the same."""
    model, path = colour_model(), tmp_path / "m.tflite"
    tflite.export(model, path, labels=NAMES, preprocessing=record)
    assert preprocessing.of(path) == record
    classifier = Classifier(path)
    assert classifier.preprocessing == record
    expected = np.asarray(model(np.stack([record(photo) for photo in turned])))
    np.testing.assert_allclose(classifier.predict(turned), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(classifier.predict(Image.open(turned[3])), expected[3:4], rtol=0, atol=1e-6)
    np.testing.assert_allclose(classifier.predict(turned[2].read_bytes()), expected[2:3], rtol=0, atol=1e-6)
    done = on_device(sys.executable, path, *turned)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    printed = [line.split() for line in done.stdout.splitlines() if not line.endswith("ms)")]
    scores = np.zeros((8, 3))
    for i, (score, name) in enumerate(printed):
        scores[i // 3, NAMES.index(name)] = float(score)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)


def test_logits_become_probabilities_in_the_file_or_where_they_are_shown(turned, tmp_path):
    model, record = colour_model(), RECORDS[0]
    model.get_layer("head").activation = keras.activations.linear
    logits = tmp_path / "logits.tflite"
    assert tflite.export(model, logits, labels=NAMES, preprocessing=record, logits=True).output == "logits"
    images = np.stack([record(photo) for photo in turned])
    raw = keras.Model(model.inputs, model.outputs).predict(images, verbose=0)
    np.testing.assert_allclose(Classifier(logits).outputs(turned), raw, rtol=0, atol=1e-5)
    expected = np.exp(raw) / np.exp(raw).sum(1, keepdims=True)
    np.testing.assert_allclose(Classifier(logits).predict(turned), expected, rtol=0, atol=1e-6)
    for mode in tflite.MODES:
        report = tflite.export(
            model, tmp_path / f"{mode}.tflite", mode, calibration=images, labels=NAMES, preprocessing=record
        )
        assert report.output == "probabilities"
        got = Classifier(tmp_path / f"{mode}.tflite").predict(turned)
        np.testing.assert_allclose(got.sum(1), 1, rtol=0, atol=1e-3)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6 if mode == "float32" else 0.05)
    of_logits = Classifier(logits).top(turned, 3)
    of_softmax = Classifier(tmp_path / "float32.tflite").top(turned, 3)
    for ours, theirs in zip(of_logits, of_softmax, strict=True):
        assert [entry[1] for entry in ours] == [entry[1] for entry in theirs]
        np.testing.assert_allclose([e[2] for e in ours], [e[2] for e in theirs], rtol=0, atol=1e-6)
    done = on_device(sys.executable, logits, turned[0])
    for line, (_, name, score) in zip(done.stdout.splitlines()[1:], of_softmax[0], strict=True):
        printed, printed_name = line.split()
        assert float(printed) == pytest.approx(score, abs=1e-6)
        assert printed_name == name


def test_what_a_file_does_not_say_is_said_once(files, pictures, capsys):
    classifier = Classifier(files["float32"])
    assert capsys.readouterr().err == ""
    classifier.predict(pictures)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "float32.tflite does not record its preprocessing; using 16x20, crop_pct 1" in error
    changed = Classifier(files["float32"], crop_pct=0.5)
    changed.predict(pictures)
    assert changed.preprocessing == Preprocessing((16, 20), 3, 0.5)
    assert capsys.readouterr().err == ""
    with pytest.raises(InputError, match=r"takes images of the shape \(16, 20, 3\), and .* \(16, 16, 3\)"):
        Classifier(files["float32"], size=16)


def test_a_record_with_normalisation_becomes_part_of_the_network(pictures, tmp_path):
    import convmixer_keras as ck

    record = Preprocessing((16, 20), 3, 0.9, "bicubic", "exif", (0.4, 0.5, 0.6), (0.2, 0.3, 0.1))
    model = ck.ConvMixer(8, 1, 3, 4, classes=3, input_shape=(16, 20, 3), classifier_activation="softmax")
    tflite.export(model, tmp_path / "m.tflite", preprocessing=record)
    classifier = Classifier(tmp_path / "m.tflite")
    assert classifier.takes_pixels is True
    assert classifier.preprocessing.mean is None
    expected = np.asarray(model(np.stack([record(path) for path in pictures])))
    np.testing.assert_allclose(classifier.predict(pictures), expected, rtol=0, atol=1e-5)


def with_entries(path, **entries):
    """A copy of an exported file with another archive at its end."""
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        kept = {name: archive.read(name) for name in archive.namelist()}
        network = content[: min(info.header_offset for info in archive.infolist())]
    copy = path.with_name("other.tflite")
    copy.write_bytes(network)
    with zipfile.ZipFile(copy, "a") as archive:
        for name, text in {**kept, **{k.replace("_", "."): v for k, v in entries.items()}}.items():
            archive.writestr(name, text)
    return copy


def test_labels_with_a_byte_order_mark_and_of_a_wrong_number(files, pictures):
    named = with_entries(files["float32"], labels_txt="\ufeffr\u00f6d\ngr\u00fcn\nblau\n".encode())
    assert Classifier(named).class_names == ["r\u00f6d", "gr\u00fcn", "blau"]
    assert "r\u00f6d" in on_device(sys.executable, named, pictures[0]).stdout
    few = with_entries(files["float32"], labels_txt="a\nb\n")
    with pytest.raises(InputError, match="has 3 classes, and the names of 2"):
        Classifier(few)
    done = on_device(sys.executable, few, pictures[0])
    assert done.returncode == 2
    assert "has 3 classes, and the names of 2" in done.stderr
    for name, text in (("input_json", "{"), ("input_json", "[]"), ("preprocessing_json", '{"size": 3}')):
        with pytest.raises(InputError, match=r"damaged|takes images"):
            Classifier(with_entries(files["float32"], **{name: text}))


def test_runtime_needs_no_keras(files, pictures):
    code = (
        "import sys; from convmixer_keras.convert.export.runtime import Classifier; "
        "print(Classifier(sys.argv[1]).top(sys.argv[2])[0][0][1]); "
        "print(sorted(m for m in ('keras', 'tensorflow', 'torch', 'jax') if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, files["int8"], pictures[2]], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["blue", "[]"]


def on_device(python, files, *arguments):
    return subprocess.run(
        [python, "-c", BLOCKED, ON_DEVICE, *arguments, "--model", files], capture_output=True, text=True
    )


def check_on_device(python, files, pictures):
    for mode in ("float32", "dynamic", "int8"):
        done = on_device(python, files[mode], *pictures, "--threads", "2", "--top", "2")
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert len(lines) == 9
        assert [line.split()[-1] for line in lines[1::3]] == NAMES
        assert all(float(line.split()[0]) > 0.8 for line in lines[1::3])


def test_on_device(files, pictures):
    check_on_device(sys.executable, files, pictures)


def damaged_images(folder):
    """Files that make Pillow's readers raise in many ways."""
    Image.new("RGB", (20, 20), "red").save(folder / "whole.png")
    chunk = b"zTXtComment\0\0" + zlib.compress(bytes(2**27))
    bomb = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    whole = (folder / "whole.png").read_bytes()
    contents = {
        "text.png": b"no image",
        "bomb.png": whole[:33] + bomb + whole[33:],
        "chunk.png": whole[:33] + b"\xff" * 30,
        "short.qoi": b"qoif" + struct.pack(">IIBB", 9, 9, 3, 0) + b"\xfe",
        "short.tga": bytes([0, 1, 9, 0, 0, 255, 255, 24]) + bytes(10) + b"\0" * 3,
        "short.blp": b"BLP2" + bytes(30),
        "short.sgi": struct.pack(">HBBHHHH", 474, 1, 1, 3, 9, 9, 3) + bytes(600),
        "short.wmf": b"\xd7\xcd\xc6\x9a" + bytes(40),
        "short.gif": b"GIF89a" + b"\xff" * 20,
        "short.tif": b"II*\0" + struct.pack("<I", 8) + b"\xff" * 40,
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


def test_on_device_with_wrong_input(files, pictures, tmp_path):
    """One line and exit code 2, whatever is wrong with an image or a model."""
    image, model = pictures[0], files["int8"]
    (tmp_path / "text").write_text("no model")
    os.mkfifo(tmp_path / "pipe")
    newer = tmp_path / "newer.tflite"
    newer.write_bytes(model.read_bytes())
    with zipfile.ZipFile(newer, "a") as archive:
        record = json.loads(Preprocessing((16, 20)).to_json())
        archive.writestr("preprocessing.json", json.dumps(record | {"mirror": True}))
    cases = [
        ((newer, image), "this program is too old for its mirror"),
        ((tmp_path / "text", image), "cannot run"),
        ((tmp_path / "none", image), "there is no file"),
        ((tmp_path / "pipe", image), "not a regular file"),
        ((tmp_path, image), "not a regular file"),
        ((model, tmp_path / "none.png"), "there is no file"),
        ((model, tmp_path / "pipe"), "not a regular file"),
        ((model, image, "--threads", "0"), "at least 1"),
    ]
    check_refusals(cases)


@pytest.mark.slow
def test_on_device_with_damaged_images(files, tmp_path):
    check_refusals(((files["int8"], path), "as an image") for path in damaged_images(tmp_path))


def check_refusals(cases):
    for arguments, message in cases:
        done = on_device(sys.executable, *arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert message in done.stderr.splitlines()[-1]
        assert done.stderr.count("error: ") == 1, done.stderr
        assert "Traceback" not in done.stderr


@on_linux
def test_archives_that_unpack_to_gigabytes_are_not_unpacked(files, pictures, tmp_path):
    """On the device and here; and entries that nobody asked for are left alone."""
    content = files["float32"].read_bytes()
    for name, method in (("labels.txt", zipfile.ZIP_DEFLATED), ("input.json", zipfile.ZIP_LZMA)):
        path = tmp_path / f"{name}.tflite"
        path.write_bytes(content)
        with zipfile.ZipFile(path, "a", method) as archive:
            archive.writestr(name, bytes(2**25))
        limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30,) * 2)\n"
        done = subprocess.run(
            [sys.executable, "-c", limit + BLOCKED, ON_DEVICE, pictures[0], "--model", path],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2, done.stderr
        assert "too large, or packed in another way" in done.stderr
        with pytest.raises(InputError, match=r"has over|packed in a way that is not supported"):
            Classifier(path)
    path.write_bytes(content)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("other.bin", bytes(2**25))
    assert on_device(sys.executable, path, pictures[0]).returncode == 0


@pytest.mark.slow
def test_on_device_takes_a_file_of_several_images(pictures, tmp_path):
    tflite.export(colour_model(), tmp_path / "m.tflite", batch=3, preprocessing=Preprocessing((16, 20)))
    done = on_device(sys.executable, tmp_path / "m.tflite", pictures[0], "--top", "3")
    found = {int(name): float(score) for score, name in map(str.split, done.stdout.splitlines()[1:])}
    expected = Classifier(tmp_path / "m.tflite").predict(pictures[0])[0]
    np.testing.assert_allclose([found[i] for i in range(3)], expected, rtol=0, atol=1e-6)


def test_on_device_refuses_networks_of_another_kind(pictures, tmp_path):
    import tensorflow as tf

    def stock(shape, *outputs):
        image = keras.Input(batch_shape=shape)
        flat = keras.layers.Flatten()(image) if None not in shape else None
        kinds = {
            "scores": lambda: keras.layers.Dense(3)(flat),
            "map": lambda: keras.layers.Conv2D(3, 1)(image),
            "nan": lambda: keras.layers.Dense(3, bias_initializer=keras.initializers.Constant(np.nan))(flat),
        }
        model = keras.Model(image, [kinds[output]() for output in outputs])
        return tf.lite.TFLiteConverter.from_keras_model(model).convert()

    for content, message in (
        (stock((1, None, None, 3), "map"), "must take images"),
        (stock((1, 16, 20, 3), "scores", "scores"), "must take images"),
        (stock((1, 16, 20, 5), "scores"), "must take images"),
        (stock((1, 16, 20, 3), "nan"), "gives NaN or infinity"),
    ):
        (tmp_path / "m.tflite").write_bytes(content)
        done = on_device(sys.executable, tmp_path / "m.tflite", pictures[0])
        assert done.returncode == 2, done.stderr
        assert message in done.stderr.splitlines()[-1]


def test_on_device_and_here_a_strip_is_the_same(files, tmp_path):
    """A picture so long that it is not resized whole."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (1, 60_000, 3), dtype=np.uint8)).save(
        tmp_path / "strip.png"
    )
    expected = Classifier(files["float32"], crop_pct=0.05).predict(tmp_path / "strip.png")[0]
    done = on_device(sys.executable, files["float32"], tmp_path / "strip.png", "--crop-pct", "0.05")
    found = {name: float(score) for score, name in map(str.split, done.stdout.splitlines()[1:])}
    np.testing.assert_allclose([found[name] for name in NAMES], expected, rtol=0, atol=1e-6)


def test_on_device_refuses_files_for_normalised_channels(pictures, tmp_path):
    import convmixer_keras as ck

    tflite.export(ck.ConvMixer(4, 1, 3, 4, classes=2, input_shape=(16, 20, 3)), tmp_path / "m.tflite")
    done = on_device(sys.executable, tmp_path / "m.tflite", pictures[0])
    assert done.returncode != 0
    assert "takes normalised channels: export it with --mean and --std" in done.stderr


@pytest.mark.slow
def test_on_device_in_a_bare_environment(files, pictures, tmp_path):
    """Installs NumPy, Pillow and LiteRT, and nothing else, into a new virtual environment."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "bare"], check=True)
    python = tmp_path / "bare" / "bin" / "python"
    packages = ["numpy", "pillow", "ai-edge-litert"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    check_on_device(python, files, pictures)


def test_labels_are_read_by_any_zip_tool(files):
    with zipfile.ZipFile(files["dynamic"]) as archive:
        assert archive.testzip() is None
        assert archive.read("labels.txt").decode() == "red\ngreen\nblue\n"


def test_several_threads_share_a_file(files):
    """Results equal those of one thread after the other, and no call fails."""
    classifier = Classifier(files["float32"])
    images = np.random.default_rng(0).integers(0, 256, (64, 16, 20, 3), dtype=np.uint8)
    expected = [classifier.predict(image) for image in images]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        got = list(pool.map(classifier.predict, [*images] * 8))
    np.testing.assert_array_equal(got, expected * 8)


def test_one_logit_is_a_sigmoid(turned, tmp_path):
    """On the device and here, where a softmax would say 1 of every image."""
    from small_models import build

    model = build(classes=1, input_shape=(16, 20, 3), input_mean=120, input_std=60)
    tflite.export(model, tmp_path / "m.tflite", labels=["cat"], preprocessing=RECORDS[1], logits=True)
    images = np.stack([RECORDS[1](photo) for photo in turned[:2]])
    expected = 1 / (1 + np.exp(-np.asarray(model(images)).astype(np.float64)))
    found = Classifier(tmp_path / "m.tflite").predict(turned[:2])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    done = on_device(sys.executable, tmp_path / "m.tflite", *turned[:2])
    printed = [float(line.split()[0]) for line in done.stdout.splitlines() if line.endswith(" cat")]
    np.testing.assert_allclose(printed, expected[:, 0], rtol=0, atol=1e-5)
