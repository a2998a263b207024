"""Models opened to be shown photographs."""

import concurrent.futures
import dataclasses
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from small_models import build, randomize

import convmixer_keras as ck
from convmixer_keras import applications, inference
from convmixer_keras.convert.export import tflite
from convmixer_keras.convert.weights import to_keras
from convmixer_keras.images import reading
from convmixer_keras.images.predictor import Predictor
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.utils.errors import InputError

PIXELS = {"input_mean": [120.0, 110.0, 100.0], "input_std": [60.0, 50.0, 40.0]}


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).uniform(0, 255, (3, 13, 15, 3)).astype(np.float32)


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_probabilities_and_names(activation, pixels, tmp_path):
    model = build(classifier_activation=activation, **PIXELS)
    ck.save_model(model, tmp_path / "m.keras", list("abcde"))
    opened = inference.load(str(tmp_path / "m.keras"))
    outputs = model.predict(pixels, verbose=0)
    expected = outputs if activation else softmax(outputs)
    np.testing.assert_allclose(opened.model.predict(pixels, verbose=0), expected, rtol=0, atol=1e-6)
    assert opened.class_names == list("abcde")


def test_names_that_nobody_gave(tmp_path):
    build(**PIXELS).save(tmp_path / "m.keras")
    assert inference.load(tmp_path / "m.keras").class_names == ["0", "1", "2", "3", "4"]
    build(hidden_dim=4, classes=1000, **PIXELS).save(tmp_path / "m.keras")
    assert inference.load(tmp_path / "m.keras").class_names[207] == "207"


@pytest.mark.parametrize(
    "arguments", [{}, {"include_top": False, "pooling": "avg"}, {"include_top": False}], ids=str
)
def test_features(arguments, pixels, tmp_path):
    model = build(**arguments, **PIXELS)
    model.save(tmp_path / "m.keras")
    opened = inference.load(tmp_path / "m.keras", include_top=False)
    last = keras.Model(model.inputs, model.get_layer("block1_pointwise_bn").output)
    expected = last.predict(pixels, verbose=0).mean((1, 2))
    np.testing.assert_allclose(opened.model.predict(pixels, verbose=0), expected, rtol=0, atol=1e-5)
    assert opened.class_names is None


def test_an_opened_model_says_what_it_is(tmp_path):
    """Of a file with a record and names, of one without, of features, and of a file for devices."""
    path = tmp_path / "m.keras"
    ck.save_model(build(**PIXELS), path, list("abcde"), Preprocessing((13, 15), crop_pct=0.9))
    takes, gives = "13x15, crop_pct 0.9, bicubic, turned as EXIF says", "probabilities of 5 classes"
    assert repr(inference.load(path)) == f"<KerasPredictor of {path}: {takes} -> {gives}: a, b, c, ...>"
    assert repr(inference.load(path, False)) == f"<KerasPredictor of {path}: {takes} -> features (24,)>"
    tflite.export(path, tmp_path / "m.tflite")
    known = inference.load(tmp_path / "m.tflite")
    assert repr(known) == f"<Classifier of {tmp_path}/m.tflite: {takes} -> {gives}: a, b, c, ...>"
    build(**PIXELS).save(path)
    takes = "13x15x3, preparation not recorded"
    assert repr(inference.load(path)) == f"<KerasPredictor of {path}: {takes} -> {gives}>"


def test_a_free_size_becomes_224(tmp_path):
    model = build(depth=1, kernel_size=3, input_shape=(None, None, 3), **PIXELS)
    model.save(tmp_path / "m.keras")
    opened = inference.load(tmp_path / "m.keras")
    assert opened.model.input_shape == (None, 224, 224, 3)
    images = np.random.default_rng(0).uniform(0, 255, (1, 224, 224, 3)).astype(np.float32)
    expected = softmax(model.predict(images, verbose=0))
    np.testing.assert_allclose(opened.model.predict(images, verbose=0), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.slow
def test_models_of_mixed_precision_run_in_float32(policy, pixels, tmp_path):
    """Half precision is slow on a CPU, and fine-tuning in it needs its loss scaled."""
    plain = build(**PIXELS)
    keras.config.set_dtype_policy(policy)
    build(**PIXELS).save(tmp_path / "m.keras")
    keras.config.set_dtype_policy("float32")
    opened = inference.load(tmp_path / "m.keras")
    assert {layer.compute_dtype for layer in opened.model.layers} == {"float32"}
    opened_features = inference.load(tmp_path / "m.keras", include_top=False)
    assert opened_features.model.output.dtype == "float32"
    plain.set_weights(keras.saving.load_model(tmp_path / "m.keras").get_weights())
    expected = softmax(plain.predict(pixels, verbose=0))
    np.testing.assert_allclose(opened.model.predict(pixels, verbose=0), expected, rtol=0, atol=1e-6)


def test_a_network_of_normalised_channels_gets_them(tmp_path):
    """As convmixer-convert leaves it without --include-preprocessing."""
    model = ck.ConvMixer(8, 2, 3, 2, activation="relu", classes=6, input_shape=(None, None, 3))
    randomize(model)
    record = Preprocessing(32, 3, 0.96, "bicubic", "stored", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    ck.save_model(model, tmp_path / "m.keras", preprocessing=record)
    opened = inference.load(tmp_path / "m.keras")
    assert opened.preprocessing == record
    assert opened.model.input_shape == (None, 32, 32, 3)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    pixels = Preprocessing(32, 3, 0.96, orientation="stored")(photo)
    np.testing.assert_array_equal(opened.picture(photo), pixels)
    normalised = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    expected = softmax(model.predict(normalised[None], verbose=0))
    got = opened.model.predict(opened.read(photo)[None], verbose=0)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_what_the_file_says_and_what_the_caller_changes(tmp_path, capsys):
    record = Preprocessing((13, 15), 3, 0.9, "lanczos", "stored")
    ck.save_model(build(**PIXELS), tmp_path / "m.keras", preprocessing=record)
    assert inference.load(tmp_path / "m.keras").preprocessing == record
    changed = inference.load(tmp_path / "m.keras", orientation="exif", crop_pct=0.5).preprocessing
    assert changed == dataclasses.replace(record, orientation="exif", crop_pct=0.5)
    with pytest.raises(InputError, match="normalises by itself"):
        inference.load(tmp_path / "m.keras", mean=0.5, std=0.5)
    assert capsys.readouterr().err == ""


def test_what_nobody_says_is_said_once(tmp_path, capsys):
    """Not guessed from a folder or from sizes."""
    (tmp_path / "config.json").write_text(json.dumps({"recipe": {"crop_pct": 0.9}}))
    build(**PIXELS).save(tmp_path / "model.keras")
    opened = inference.load(tmp_path / "model.keras")
    assert capsys.readouterr().err == ""
    assert opened.preprocessing == opened.preprocessing == Preprocessing((13, 15))
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "model.keras does not record its preprocessing" in error
    build().save(tmp_path / "normalised.keras")
    opened = inference.load(tmp_path / "normalised.keras")
    with pytest.raises(
        InputError, match="takes normalised channels, and does not say which: give mean and std"
    ):
        opened.read(tmp_path / "photo.jpg")
    given = inference.load(tmp_path / "normalised.keras", mean=0.5, std=0.25).preprocessing
    assert given == Preprocessing((13, 15), mean=0.5, std=0.25)


def test_a_record_that_does_not_fit(tmp_path):
    with pytest.raises(InputError, match=r"preprocessing must give what the model takes, \(13, 15, 3\)"):
        ck.save_model(build(), tmp_path / "m.keras", preprocessing=Preprocessing(16))
    with pytest.raises(InputError, match="class_names must be 5, one for each output, got 3"):
        ck.save_model(build(), tmp_path / "m.keras", list("abc"))


@pytest.mark.parametrize("channels", [1, 3])
def test_read_gives_what_the_model_takes(channels, image_folder, tmp_path):
    model = build(depth=1, kernel_size=3, input_shape=(9, 12, channels), input_mean=120, input_std=60)
    model.save(tmp_path / "m.keras")
    pixels = inference.load(tmp_path / "m.keras").read(image_folder / "train" / "red" / "0.png")
    assert pixels.shape == (9, 12, channels)
    assert pixels.dtype == np.float32
    assert pixels.max() > 100


def test_the_default_is_what_needs_no_network(tmp_path, monkeypatch, capsys):
    """CIFAR-10's weights until ImageNet's have been fetched."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert applications.default_builder() == "ConvMixer256_8_P2"
    note = capsys.readouterr().err
    assert note.count("\n") == 1
    assert "CIFAR-10, ten classes" in note
    opened = inference.load("ConvMixer256_8_P2")
    path = ROOT / "examples" / "photos" / "horse" / "0000.jpg"
    np.testing.assert_array_equal(opened.read(path), np.asarray(Image.open(path), np.float32))
    scores = opened.model.predict(opened.read(path)[None], verbose=0)
    assert opened.class_names[scores[0].argmax()] == "horse"
    assert scores.sum() == pytest.approx(1, abs=1e-5)

    folder = tmp_path / "models" / "convmixer_keras"
    folder.mkdir(parents=True)
    (folder / "convmixer_1024_20_ks9_p14.in1k.safetensors").write_bytes(b"put there by hand")
    assert applications.default_builder() == "ConvMixer1024_20"
    assert capsys.readouterr().err == ""


def nested(**options):
    inner, image = build(**options, **PIXELS), keras.Input((13, 15, 3))
    return keras.Model(image, inner(image))


def of_two_outputs():
    image = keras.Input((8, 8, 3))
    flat = keras.layers.Flatten()(image)
    return keras.Model(image, [keras.layers.Dense(10)(flat), keras.layers.Dense(3)(flat)])


def ending_in_relu():
    image = keras.Input((8, 8, 3))
    return keras.Model(image, keras.layers.Dense(3, "relu")(keras.layers.Flatten()(image)))


def plain():
    image = keras.Input((8, 8, 3))
    return keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(image)))


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (of_two_outputs, {}, "must have one output, and has 2"),
        (of_two_outputs, {"include_top": False}, "must have one output, and has 2"),
        (plain, {"include_top": False}, "is not a ConvMixer"),
        (ending_in_relu, {}, r"scores must say 'logits' or 'probabilities'"),
        (plain, {"scores": "probabilities"}, "gives logits, and scores says 'probabilities'"),
        (plain, {"size": 16}, r"cannot be run in float32 on images of 16x16"),
        (plain, {"crop_pct": 0}, "crop_pct must be over 0"),
    ],
)
def test_what_cannot_be_opened_is_said_with_the_files_name(model, options, message, tmp_path):
    model().save(tmp_path / "odd.keras")
    with pytest.raises(InputError, match=rf"(odd\.keras.*)?{message}") as error:
        inference.load(tmp_path / "odd.keras", **options)
    assert "\n" not in str(error.value)


def test_nested_models_are_opened(pixels, tmp_path):
    model = nested()
    model.save(tmp_path / "m.keras")
    found = inference.load(tmp_path / "m.keras").predict(pixels)
    np.testing.assert_allclose(found, softmax(model.predict(pixels, verbose=0)), rtol=0, atol=1e-6)
    # Its size is open: it is built again for one.
    inner, image = build(input_shape=(None, None, 3), **PIXELS), keras.Input((None, None, 3))
    keras.Model(image, inner(image)).save(tmp_path / "open.keras")
    opened = inference.load(tmp_path / "open.keras", size=(13, 15))
    expected = softmax(inner.predict(pixels, verbose=0))
    np.testing.assert_allclose(opened.predict(pixels), expected, rtol=0, atol=1e-5)
    features = inference.load(tmp_path / "m.keras", include_top=False)
    last = keras.Model(model.layers[1].inputs, model.layers[1].get_layer("pool").output)
    np.testing.assert_allclose(features.predict(pixels), last.predict(pixels, verbose=0), rtol=0, atol=1e-5)


def test_one_kind_of_object_for_both_files(pixels, tmp_path):
    """The same methods give the same, from paths, bytes and arrays, and from several threads."""
    from convmixer_keras.convert.export import tflite

    model, record = build(**PIXELS), Preprocessing((13, 15), 3, 0.9)
    ck.save_model(model, tmp_path / "m.keras", list("abcde"), record)
    tflite.export(model, tmp_path / "m.tflite", labels=list("abcde"), preprocessing=record)
    ours, theirs = (inference.load(tmp_path / f"m.{ending}") for ending in ("keras", "tflite"))
    photo = tmp_path / "p.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(photo)
    expected = softmax(model.predict(record(photo)[None], verbose=0))
    for opened in (ours, theirs):
        assert isinstance(opened, Predictor)
        assert opened.class_names == list("abcde")
        assert opened.preprocessing == record
        np.testing.assert_array_equal(opened.read(photo), record(photo))
        for given in (photo, photo.read_bytes(), Image.open(photo), record(photo), record(photo)[None]):
            np.testing.assert_allclose(opened.predict(given), expected, rtol=0, atol=1e-5)
        assert opened.predict([]).shape == (0, 5)
        best = opened.top(photo, 2)[0]
        assert [entry[0] for entry in best] == np.argsort(-expected[0])[:2].tolist()
        alone = [opened.predict(image) for image in pixels]
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            together = list(pool.map(opened.predict, [*pixels] * 20))
        np.testing.assert_allclose(together, alone * 20, rtol=0, atol=1e-6)
        with pytest.raises(InputError, match="finite numbers"):
            opened.predict(np.full((13, 15, 3), np.nan))
    with pytest.raises(InputError, match=r"features come from a \.keras file"):
        inference.load(tmp_path / "m.tflite", include_top=False)


def test_a_tflite_file_is_opened_without_keras(tmp_path):
    """In a process in which neither Keras nor a backend can be imported."""
    from convmixer_keras.convert.export import tflite

    tflite.export(build(classes=2, **PIXELS), tmp_path / "m.tflite", labels=["cat", "dog"])
    program = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("keras", "tensorflow", "torch", "jax", "h5py"):
            raise ImportError("blocked " + name)
sys.meta_path.insert(0, Blocked())
import numpy as np
import convmixer_keras as ck
opened = ck.inference.load(sys.argv[1])
print(sorted(name for _, name, _ in opened.top(np.zeros((13, 15, 3)))[0]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "m.tflite"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "['cat', 'dog']\n"


@pytest.mark.parametrize("name", ["a.jpg", "m.keras", "m.tflite", "m.safetensors", "m.weights.h5"])
def test_a_pointer_of_git_lfs_is_named_as_what_it_is(name, tmp_path):
    """By whatever opens such a file, image or model."""
    path = tmp_path / name
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 1234\n")
    readers = {
        ".jpg": reading.read,
        ".keras": inference.load,
        ".tflite": inference.load,
        ".safetensors": to_keras.convert_checkpoint,
        ".h5": lambda path: ck.ConvMixer(8, 1, 3, 2, classes=2, weights=path),
    }
    with pytest.raises(InputError, match=rf"{name} is only a pointer of Git LFS.*git lfs pull"):
        readers[path.suffix](str(path))
