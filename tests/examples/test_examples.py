"""The examples, as a user runs them: real processes from the repository root."""

import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from PIL import Image
from small_models import randomize

import convmixer_keras as ck
from convmixer_keras.commands import predict
from convmixer_keras.convert.export import runtime, tflite
from convmixer_keras.images.preprocessing import Preprocessing

PIXELS = {"input_mean": [120.0, 110.0, 100.0], "input_std": [60.0, 50.0, 40.0]}
TFLITE = pathlib.Path(sys.executable).with_name("convmixer-tflite")
PREDICT = (sys.executable, "-m", "convmixer_keras.commands.predict")
EXAMPLES = ("finetune", "features", "explain", "tweet")


def run(*command, **environment):
    """Runs a command from the repository root, with TensorFlow as talkative as it is by default."""
    kept = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env=kept | environment,
        capture_output=True,
        text=True,
    )


def example(name, *arguments, **environment):
    return run(sys.executable, f"examples/{name}.py", *arguments, **environment)


def good(done):
    """Asserts that a command succeeded without any noise, and returns what it printed."""
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "\r" not in done.stdout  # Plain lines, as this is no terminal.
    return done.stdout


def module(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def in_process(monkeypatch, capfd):
    """Function from an example's name and arguments to (exit code, stdout, stderr), in this process."""
    from convmixer_keras.utils import command_line

    def call(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            command_line.run(module(name).main)
        return exit_info.value.code, *capfd.readouterr()

    return call


@pytest.fixture(scope="module")
def photos(image_folder):
    """FOLDER/CLASS/*.jpg: three colours."""
    return image_folder / "train"


@pytest.fixture(scope="module")
def body(tmp_path_factory):
    """A small ConvMixer of two classes that takes raw pixels, as a `.keras` file."""
    keras.utils.set_random_seed(0)
    model = ck.ConvMixer(16, 2, 3, 4, classes=2, input_shape=(16, 16, 3), **PIXELS)
    path = tmp_path_factory.mktemp("body") / "body.keras"
    ck.save_model(model, path, ["day", "night"], Preprocessing(16, orientation="stored"))
    return path


@pytest.mark.slow
def test_from_finetuning_to_the_device(cifar10_or_colours, tmp_path):
    folder, names, photo = cifar10_or_colours
    model = tmp_path / "run/model.keras"
    words = ("--dataset", folder, "--init-from", "ConvMixer256_8_P2", "--output", tmp_path / "run")
    printed = good(run(sys.executable, "train_keras.py", *words, "--epochs", 1))
    assert "3 classes" in printed
    accuracy = float(re.search(r"validation accuracy (\d+\.\d\d) % \(best epoch", printed)[1])
    assert accuracy > 40
    assert ck.load_class_names(model) == names
    saved = keras.saving.load_model(model)
    assert all(layer.trainable for layer in saved.layers)

    words = ("--model", model, "--top", 2, "--sheet", tmp_path / "s.png")
    printed = good(run(*PREDICT, photo, *words))
    scores = {name: float(score) for score, name in re.findall(r"(\d+\.\d) %  (\w+)", printed)}
    assert len(scores) == 2
    assert scores.keys() < set(names)
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.size[0] > 100

    file = tmp_path / "m.tflite"
    printed = good(run(TFLITE, model, file, "--mode", "int8", "--calibrate", folder))
    assert re.search(r"^calibrating: (\d+) of \1 images$", printed, re.MULTILINE)
    assert "image -> probabilities" in printed
    printed = good(example("on_device", photo, "--model", file, "--top", 2))
    on_device = {name: float(score) for score, name in re.findall(r"(0\.\d+)  (\w+)", printed)}
    assert on_device.keys() == scores.keys()
    for name, score in scores.items():
        assert on_device[name] == pytest.approx(score / 100, abs=0.05)


@pytest.fixture
def cifar10_or_colours(request, tmp_path):
    """A folder of three classes, their names and one photograph: of CIFAR-10 where it is there."""
    try:
        source, names = request.getfixturevalue("cifar10_folder") / "train", ["cat", "dog", "truck"]
    except pytest.skip.Exception:
        source, names = request.getfixturevalue("image_folder") / "train", ["blue", "green", "red"]
    folder = tmp_path / "three"
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to(source / name)
    return folder, names, next((source / names[-1]).glob("*.jpg"))


@pytest.mark.slow
def test_the_body_moves_in_the_second_half_alone(photos, tmp_path, monkeypatch, in_process):
    seen, fit = [], keras.Model.fit

    def watched(self, *arguments, **keywords):
        history = fit(self, *arguments, **keywords)
        seen.append({layer.name: layer.get_weights() for layer in self.layers})
        return history

    monkeypatch.setattr(keras.Model, "fit", watched)
    monkeypatch.chdir(tmp_path)
    code, printed, errors = in_process("finetune", photos, "--epochs", 1)
    assert code == 0, errors
    before = ck.ConvMixer256_8_P2(weights="cifar10", include_preprocessing=True, include_top=False)
    for layer in before.layers:
        if not layer.weights or layer.name == "input_normalization":
            continue
        kept, trained = (
            [np.array_equal(old, new) for old, new in zip(layer.get_weights(), half[layer.name], strict=True)]
            for half in seen
        )
        assert all(kept), layer.name
        if isinstance(layer, keras.layers.BatchNormalization):  # Statistics included.
            assert all(trained), layer.name
        else:
            assert not any(trained), layer.name
    assert "wrote outputs/finetuned.keras, which knows blue, green, red" in printed
    assert ck.load_class_names("outputs/finetuned.keras") == ["blue", "green", "red"]


def test_features(photos, body, tmp_path, in_process):
    picture, file = tmp_path / "n.png", tmp_path / "f.npz"
    code, printed, errors = in_process(
        "features", photos, "--model", body, "--output", picture, "--save", file, "--neighbours", 2
    )
    assert code == 0, errors
    assert re.search(r"same subfolder for \d+\.\d % of the images", printed)
    with np.load(file) as saved:
        paths, features = saved["paths"], saved["features"]
    assert len(paths) == 36
    whole = keras.saving.load_model(body)
    pooled = keras.Model(whole.inputs, whole.get_layer("pool").output)
    pixels = np.stack([ck.preprocessing.load_image(path, 16, 1.0) for path in paths])
    np.testing.assert_allclose(features, pooled.predict(pixels, verbose=0), rtol=0, atol=1e-4)
    with Image.open(picture) as image:
        assert len(image.convert("RGB").getcolors(1 << 24)) > 100

    arguments = ("--model", body, "--block", 0, "--output", picture, "--save", file)
    code, _, errors = in_process("features", photos, *arguments)
    assert code == 0, errors
    first = keras.Model(whole.inputs, whole.get_layer("block0_pointwise_bn").output)
    expected = first.predict(pixels, verbose=0).mean((1, 2))
    with np.load(file) as saved:
        np.testing.assert_allclose(saved["features"], expected, rtol=0, atol=0.1)


PHOTOS = sorted((ROOT / "examples" / "photos").glob("*/*.jpg"))


def test_examples_work_at_the_first_try(tmp_path, in_process, here, monkeypatch):
    """Without a model, a download or a file of one's own."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code, printed, errors = here(predict.main, *PHOTOS, "--sheet", tmp_path / "sheet.png", "--top", 1)
    assert code == 0, errors
    assert errors.startswith("note: using ConvMixer256_8_P2")
    answers = [line.split("%  ")[1] for line in printed.splitlines() if "%  " in line]
    right = sum(name == path.parent.name for name, path in zip(answers, PHOTOS, strict=True))
    assert right >= 17
    assert f"accuracy: {5 * right:.2f} %, {right} of the 20 photographs" in printed
    folder, picture = ROOT / "examples" / "photos", tmp_path / "neighbours.png"
    code, printed, errors = in_process("features", folder, "--output", picture)
    assert code == 0, errors
    assert "the nearest neighbour is in the same subfolder" in printed
    code, printed, errors = in_process("explain", "--photo", PHOTOS[0], "--output", tmp_path / "inside")
    assert code == 0, errors
    assert {path.name for path in (tmp_path / "inside").iterdir()} == {
        "depthwise.png",
        "maps.png",
        "patches.png",
    }


def test_the_file_for_devices_is_the_network_of_the_package():
    opened = ck.inference.load("ConvMixer256_8_P2")
    expected = opened.model.predict(np.stack([opened.read(path) for path in PHOTOS]), verbose=0)
    classifier = runtime.Classifier(ROOT / "examples" / "cifar10.tflite")
    got = classifier.predict(PHOTOS)
    assert (got.argmax(-1) == expected.argmax(-1)).sum() >= 18  # Of 20: its numbers have eight bits.
    assert np.abs(got - expected).mean() < 0.02
    printed = good(example("on_device", PHOTOS[0], "--top", 1))
    assert printed.splitlines()[1].split()[1] == classifier.class_names[got[0].argmax()]


def test_nearest_neighbours():
    from sklearn.neighbors import NearestNeighbors

    features = np.random.default_rng(0).normal(size=(1100, 7)).astype(np.float32)
    distances, expected = NearestNeighbors(n_neighbors=4, metric="cosine").fit(features).kneighbors(features)
    numbers, similarities = module("features").nearest(features, 3)
    np.testing.assert_array_equal(numbers, expected[:, 1:])
    np.testing.assert_allclose(similarities, 1 - distances[:, 1:], rtol=0, atol=1e-5)
    assert module("features").nearest(features[:2], 3)[0].tolist() == [[1], [0]]


def test_explain_tells_runs_and_models_apart(tmp_path, monkeypatch):
    explain = module("explain")
    monkeypatch.chdir(tmp_path)
    runs = {
        "a": {"recipe": {"epochs": 3, "mean": [0.5], "flip": True}, "settings": {"freeze": 0}},
        "b": {"recipe": {"epochs": 5, "mean": [0.5], "flip": True}, "settings": {"freeze": 0, "patience": 2}},
    }
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in explain.differences(runs).splitlines()]
    assert rows == [["setting", "a", "b"], ["---"] * 3, ["epochs", "3", "5"], ["patience", "", "2"]]
    assert explain.differences({"a": runs["a"], "c": runs["a"]}) == "No setting differs.\n"

    figure = ck.visualization.new_figure(1, 1)
    figure.savefig("own.png", metadata={explain.SOURCE: "m.keras"})
    figure.savefig("foreign.png")
    explain.check_free("own.png", "m.keras")
    explain.check_free("none.png", "m.keras")
    for path, source in (("own.png", "other.keras"), ("foreign.png", "m.keras")):
        with pytest.raises(ValueError, match=rf"{path} is no picture of {source}: choose another --output"):
            explain.check_free(path, source)
    names = {
        explain.folder_name([name]) for name in ("runs/a/model.keras", "runs/b/model.keras", "a/b.keras")
    }
    assert names == {"runs-a-model", "runs-b-model", "a-b"}


def test_explain(body, photos, tmp_path, in_process):
    run_folder = ROOT / "docs/results/cifar10-96-6"
    photo = next(photos.rglob("*.jpg"))
    code, printed, errors = in_process(
        "explain",
        body,
        "--photo",
        photo,
        "--curves",
        run_folder,
        run_folder,
        "--output",
        tmp_path / "pictures",
    )
    assert code == 0, errors
    for name in ("patches.png", "depthwise.png", "curves.png", "maps.png"):
        assert str(tmp_path / "pictures" / name) in printed
        with Image.open(tmp_path / "pictures" / name) as image:
            assert len(image.convert("RGB").getcolors(1 << 24)) > 20


def test_tweet_is_short_and_the_same_network():
    tweet = module("tweet")
    assert len(tweet.TWEET) <= 280
    namespace = {}
    exec("from keras import *\nfrom keras.activations import *\nfrom keras.layers import *", namespace)
    exec(tweet.TWEET, namespace)
    for h, d, k, p, n in ((8, 1, 3, 1, 2), (24, 3, 9, 7, 5), (16, 2, 5, 2, 10)):
        short = namespace["ConvMixer"](h, d, k, p, n)
        ours = ck.ConvMixer(h, d, k, p, classes=n, input_shape=(None, None, 3))
        randomize(ours)
        assert [w.shape for w in short.weights] == [w.shape for w in ours.weights]
        assert [w.name for w in short.weights] == [w.name for w in ours.weights]
        short.set_weights(ours.get_weights())
        images = np.random.default_rng(0).normal(size=(2, 29, 36, 3))
        expected = ours.predict(images, verbose=0)
        np.testing.assert_allclose(short.predict(images, verbose=0), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_tweet_prints_its_length():
    printed = good(example("tweet"))
    assert f"{len(module('tweet').TWEET)} characters" in printed
    assert float(re.search(r"with the same weights: (\S+)", printed)[1]) < 1e-5


@pytest.mark.parametrize("name", EXAMPLES)
def test_help_and_version(name, in_process):
    code, printed, _ = in_process(name, "--help")
    assert code == 0
    assert f"python examples/{name}.py" in printed
    code, printed, _ = in_process(name, "--version")
    assert code == 0
    assert re.fullmatch(r"convmixer-keras \S+ keras \S+ tensorflow \S+\n", printed)


@pytest.fixture(scope="module")
def all_bad(tmp_path_factory, body):
    folder = tmp_path_factory.mktemp("bad")
    (folder / "text.jpg").write_text("no image")
    (folder / "text.keras").write_text("no model")
    (folder / "text.tflite").write_text("no model")
    (folder / "good.keras").write_bytes(body.read_bytes())
    (folder / "empty").mkdir()
    photo = Image.fromarray(np.full((20, 20, 3), 99, np.uint8))
    photo.save(folder / "photo.png")
    for name in ("one/cat", "few/cat", "few/dog", "broken/cat", "broken/dog", "splits/train/cat",
                 "splits/train/dog", "splits/val/cat", "splits/val/cow"):  # fmt: skip
        (folder / name).mkdir(parents=True)
        for i in range(1 if name == "few/cat" else 3):
            photo.save(folder / name / f"{i}.png")
    (folder / "broken/dog/3.jpg").write_text("no image")
    damaged = keras.saving.load_model(body)
    damaged.get_layer("stem_conv").bias.assign(np.full(damaged.get_layer("stem_conv").bias.shape, np.nan))
    ck.save_model(damaged, folder / "nan.keras", preprocessing=Preprocessing(16))
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(inputs))
    keras.Model(inputs, keras.layers.Dense(2)(x)).save(folder / "other.keras")
    return folder


@pytest.fixture
def bad(all_bad, tmp_path):
    """A folder with everything that can be wrong."""
    return shutil.copytree(all_bad, tmp_path / "bad")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("features broken --output photo.png/n.png", "cannot make the folder photo.png"),
        ("features none --model good.keras", "there is no folder none"),
        ("features empty --model good.keras", "at least two images in empty, found 0"),
        ("features one --model nan.keras", "nan.keras gives NaN or infinity for an image"),
        ("features one --model good.keras --output one/cat/0.png", "is the input one/cat/0.png"),
        ("features one --model good.keras --save f.txt", "must end in .npz"),
        ("explain nan.keras", "gives NaN or infinity: its weights are damaged"),
        ("features broken --model good.keras", "cannot read broken/dog/3.jpg as an image"),
        ("explain none.keras", "there is no file none.keras"),
        ("explain other.keras", "is not a ConvMixer"),
        ("explain --curves empty", "empty holds no run"),
        ("explain good.keras --output photo.png", "cannot make the folder photo.png"),
        ("tweet more", "unrecognized arguments: more"),
    ],
)
def test_bad_input_is_one_line_and_code_2(arguments, message, bad, in_process, monkeypatch):
    monkeypatch.chdir(bad)
    before = sorted(bad.rglob("*"))
    code, _, errors = in_process(*arguments.split())
    assert code == 2, errors
    assert message in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert errors.startswith(("error: ", "usage: "))
    # The default folder of what is written may be there, and empty.
    assert [path for path in sorted(bad.rglob("*")) if path != bad / "outputs"] == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("none.jpg --model {bad}/text.tflite", "cannot run"),
        ("none.jpg", "there is no file none.jpg"),
        ("none.jpg --model {bad}/text.tflite --threads 0", "must be at least 1"),
    ],
)
def test_on_device_with_bad_input(arguments, message, bad):
    done = example("on_device", *arguments.format(bad=bad).split())
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_on_device_gives_probabilities_for_logits_too(bad):
    file = bad / "m.tflite"
    model = keras.saving.load_model(bad / "good.keras")
    tflite.export(model, file, logits=True, preprocessing=Preprocessing((16, 16)))
    printed = good(example("on_device", bad / "photo.png", "--model", file))
    logits = model.predict(np.full((1, 16, 16, 3), 99.0, np.float32), verbose=0)[0]
    expected = np.exp(logits) / np.exp(logits).sum()
    got = [float(line.split()[0]) for line in printed.splitlines()[1:]]
    np.testing.assert_allclose(got, sorted(expected, reverse=True), rtol=0, atol=1e-3)


def test_on_device_takes_class_scores_alone(bad):
    headless = ck.inference.load(bad / "good.keras", include_top=False).model
    tflite.export(headless, bad / "features.tflite")
    model = keras.saving.load_model(bad / "good.keras")
    (bad / "stock.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    for name, message in (
        ("features", "features.tflite gives features, and no score for each class"),
        ("stock", "stock.tflite does not say what its scores are, and they do not add up to 1"),
    ):
        done = example("on_device", bad / "photo.png", "--model", bad / f"{name}.tflite")
        assert done.returncode == 2
        assert message in done.stderr.splitlines()[-1]


def test_on_device_version():
    assert re.fullmatch(r"numpy \S+ pillow \S+ ai-edge-litert \S+\n", good(example("on_device", "--version")))


@pytest.mark.slow
def test_a_broken_pipe_is_no_traceback(body, bad):
    command = f"{' '.join(PREDICT)} {bad}/photo.png --model {body} | true"
    done = run("bash", "-c", command)
    assert done.stderr == ""
