"""Photographs through a model by one command: answers, accuracy, tables, pages of pictures, bad files."""

import csv
import itertools
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from small_models import build

import convmixer_keras as ck
from convmixer_keras import inference
from convmixer_keras.commands import answers, predict
from convmixer_keras.images.class_names import published_classes
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.utils.errors import InputError

PIXELS = {"input_mean": [120.0, 110.0, 100.0], "input_std": [60.0, 50.0, 40.0]}
NAMES = ["day", "Hündin", "n02099601"]  # The last is ImageNet's golden retriever.
FOLDERS = ("day", "Hu\u0308ndin", "golden retriever", "elsewhere")  # The second in the other form of Unicode.


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small ConvMixer of three classes that takes raw pixels, as a `.keras` file."""
    network = build(depth=1, kernel_size=3, classes=3, input_shape=(12, 12, 3), **PIXELS)
    path = tmp_path_factory.mktemp("model") / "m.keras"
    ck.save_model(network, path, NAMES, Preprocessing(12))
    return path


@pytest.fixture
def photos(tmp_path):
    """40 images of the model's size in four folders, a deeper one below each, and two that are damaged."""
    random = np.random.default_rng(1)
    for number, folder in zip(range(40), itertools.cycle(FOLDERS)):
        path = tmp_path / "photos" / folder / ("deeper" if number % 3 else "") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (12, 12, 3), np.uint8)).save(path)
    (tmp_path / "photos" / "day" / "text.jpg").write_text("no image")
    (tmp_path / "photos" / "elsewhere" / "cut.png").write_bytes(path.read_bytes()[:100])
    (tmp_path / "photos" / "day" / "notes.txt").write_text("no image either")
    return tmp_path / "photos"


def expected(model, photos):
    """By Keras and Pillow alone: {path: (folder, number of the best class, its probability)}."""
    paths = sorted(path for path in photos.rglob("*.png") if path.name != "cut.png")
    pixels = np.stack([np.asarray(Image.open(path), np.float32) for path in paths])
    scores = keras.ops.softmax(keras.saving.load_model(model).predict(pixels, verbose=0)).numpy()
    folders = [path.relative_to(photos).parts[0] for path in paths]
    return {
        str(path): (FOLDERS.index(folder), row.argmax(), row.max())
        for path, folder, row in zip(paths, folders, scores, strict=True)
    }


def test_a_folder_with_damaged_files(model, photos, tmp_path, here):
    table, listing = tmp_path / "answers.csv", tmp_path / "answers.json"
    done = here(predict.main, photos, "none.png", "--model", model, "--csv", table, "--json", listing)
    assert done.code == 1
    truth = expected(model, photos)
    known = [best == folder for folder, best, _ in truth.values() if folder < 3]
    words = f"accuracy: {100 * np.mean(known):.2f} %, {sum(known)} of the 30 photographs"
    assert words in done.stdout

    note, *errors = done.stderr.splitlines()
    assert note.endswith("left out 1 files that are not images (.txt 1)")
    assert errors[0] == "error: 3 of 43 photographs could not be read:"
    assert [name in line for name, line in zip(("text.jpg", "cut.png", "none.png"), errors[1:], strict=True)]

    with open(table, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * len(truth)
    best = {row["file"]: row for row in rows if row["rank"] == "1"}
    from_json = {entry["file"]: entry for entry in json.loads(listing.read_text("utf-8"))}
    assert best.keys() == from_json.keys() == truth.keys()
    for path, (folder, number, probability) in truth.items():
        assert best[path]["class"] == from_json[path]["classes"][0]["name"] == NAMES[number]
        assert float(best[path]["probability"]) == pytest.approx(probability, abs=1e-5)
        assert from_json[path]["classes"][0]["probability"] == pytest.approx(probability, abs=1e-5)
        named = ["day", "Hündin", "golden retriever", None][folder]
        assert from_json[path]["truth"] == named
        assert best[path]["truth"] == (named or "")
        assert f"{path}\n  {100 * probability:5.1f} %  {NAMES[number]}\n" in done.stdout


def test_only_what_is_wrong(model, photos, tmp_path, here):
    wrong = [path for path, (folder, best, _) in expected(model, photos).items() if folder not in (3, best)]
    sheet = tmp_path / "wrong.png"
    arguments = ("--only-wrong", "--top", 1, "--csv", tmp_path / "a.csv", "--sheet", sheet)
    done = here(predict.main, photos, "--model", model, *arguments)
    assert done.code == 1
    assert f"marked in red: {len(wrong)} whose folder is another class" in done.stdout
    with open(tmp_path / "a.csv", encoding="utf-8", newline="") as file:
        assert {row["file"] for row in csv.DictReader(file)} == set(wrong)
    with Image.open(sheet) as picture:
        colours = picture.convert("RGB").getcolors(1 << 24)
    assert sum(count for count, colour in colours if colour == (192, 38, 28)) > 500


def test_a_sheet_of_several_pages(model, photos, tmp_path, here, monkeypatch):
    monkeypatch.setattr(answers, "PAGE", 16)
    done = here(predict.main, photos, "--model", model, "--sheet", tmp_path / "s.png")
    pages = ["s.png", "s-2.png", "s-3.png"]
    assert sorted(path.name for path in tmp_path.glob("*.png")) == sorted(pages)
    sizes = [Image.open(tmp_path / page).size for page in pages]
    assert sizes[0] == sizes[1]
    assert sizes[2][1] < sizes[0][1]  # Eight are left.
    assert f"wrote {tmp_path}/s.png ... {tmp_path}/s-3.png" in done.stdout
    (photos / "s-2.png").write_bytes((tmp_path / "s.png").read_bytes())
    done = here(predict.main, photos, "--model", model, "--sheet", photos / "s.png")
    assert (done.code, "is the input" in done.stderr) == (2, True)


def test_it_reads_a_batch_at_a_time(model, photos):
    """Files that are removed after the first batch was predicted were not read before."""
    paths = sorted(expected(model, photos))
    bad, known = [], inference.load(model)
    batches = predict.predicted(known, [(path, None, ()) for path in paths], 1, bad)
    assert len(next(batches)) == predict.BATCH
    for path in photos.rglob("*.png"):
        path.unlink()
    assert next(batches) == []
    assert len(bad) == len(paths) - predict.BATCH


def test_what_was_written_so_far_is_there(tmp_path):
    """Of work that ends too early, and of none."""
    answer = answers.Answer("a\udcff.jpg", None, (), None, [(0, "grün, rot", 0.75)])
    with answers.Table(tmp_path / "a.csv") as table, answers.JsonList(tmp_path / "a.json") as listing:
        assert json.loads((tmp_path / "a.json").read_text("utf-8")) == []
        for count in (2, 3):
            table.write([answer] * count)
            listing.write([answer] * count)
            listed = len(json.loads((tmp_path / "a.json").read_text("utf-8")))
            with open(tmp_path / "a.csv", encoding="utf-8", newline="") as file:
                assert len(list(csv.reader(file))) == listed + 1 == {2: 3, 3: 6}[count]


PROGRAM = """
import sys
from convmixer_keras.commands import predict
print(predict.main(sys.argv[1:]), {"keras", "tensorflow"} & set(sys.modules))
"""


def test_a_file_for_devices_needs_no_tensorflow(tmp_path):
    """The file and the photographs of examples/, whose folders are the names of its classes."""
    arguments = [ROOT / "examples" / "photos", "--model", ROOT / "examples" / "cifar10.tflite"]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "0 set()"
    assert "of the 20 photographs whose folder is a class" in done.stdout


def test_a_network_of_normalised_channels(photos, tmp_path, here):
    """As convmixer-convert leaves it: the record normalises, and the sheet shows pixels."""
    network = build(depth=1, kernel_size=3, classes=3, input_shape=(12, 12, 3))
    record = Preprocessing(12, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    ck.save_model(network, tmp_path / "m.keras", NAMES, record)
    photo = photos / "day" / "0.png"
    pixels = np.asarray(Image.open(photo), np.float32) / 255
    logits = network.predict((pixels - [0.5, 0.4, 0.3])[None] / [0.2, 0.3, 0.4], verbose=0)
    done = here(predict.main, photo, "--model", tmp_path / "m.keras", "--json", tmp_path / "a.json")
    assert done.code == 0, done.stderr
    (entry,) = json.loads((tmp_path / "a.json").read_text("utf-8"))
    got = {found["name"]: found["probability"] for found in entry["classes"]}
    expected = keras.ops.convert_to_numpy(keras.ops.softmax(logits))[0]
    np.testing.assert_allclose([got[name] for name in NAMES], expected, rtol=0, atol=1e-5)
    known = inference.load(tmp_path / "m.keras")
    ((answer,),) = predict.predicted(known, [(str(photo), None, ())], 1, [])
    np.testing.assert_array_equal(answer.picture, np.asarray(Image.open(photo)))


def test_two_classes_of_one_name(tmp_path, here):
    """ImageNet has two maillots: a folder's WordNet id says which, and its word may mean either."""
    network = build(depth=1, kernel_size=3, classes=1000, input_shape=(12, 12, 3), **PIXELS)
    bias = np.zeros(1000)
    bias[638] = 100
    network.get_layer("head").set_weights([np.zeros((network.get_layer("head").input.shape[-1], 1000)), bias])
    ck.save_model(network, tmp_path / "m.keras", published_classes("imagenet"), Preprocessing(12))
    for folder in ("n03710637", "n03710721", "maillot"):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        Image.fromarray(np.zeros((12, 12, 3), np.uint8)).save(tmp_path / "photos" / folder / "1.png")
    done = here(predict.main, tmp_path / "photos", "--model", tmp_path / "m.keras")
    assert "accuracy: 66.67 %, 2 of the 3 photographs" in done.stdout
    wrong = here(predict.main, tmp_path / "photos", "--model", tmp_path / "m.keras", "--only-wrong")
    assert wrong.stdout.startswith(str(tmp_path / "photos/n03710721/1.png"))


def test_a_single_score_has_no_accuracy(tmp_path, here):
    model = build(depth=1, kernel_size=3, classes=1, classifier_activation="sigmoid", **PIXELS)
    ck.save_model(model, tmp_path / "m.keras", ["cat"])
    (tmp_path / "photos/cat").mkdir(parents=True)
    Image.fromarray(np.zeros((12, 12, 3), np.uint8)).save(tmp_path / "photos/cat/0.png")
    done = here(predict.main, tmp_path / "photos", "--model", tmp_path / "m.keras")
    assert done.code == 0, done.stderr
    assert "accuracy" not in done.stdout
    with pytest.raises(InputError, match="gives a single score, of which no accuracy can be told"):
        inference.load(tmp_path / "m.keras").check_fits("photos", ["cat"], 3)


def test_one_output_in_a_dictionary(tmp_path):
    body = build(depth=1, kernel_size=3, classifier_activation="softmax", **PIXELS)
    image = keras.Input(body.input_shape[1:])
    keras.Model(image, {"scores": body(image)}).save(tmp_path / "m.keras")
    images = np.full((2, *body.input_shape[1:]), 99, np.float32)
    np.testing.assert_allclose(inference.load(tmp_path / "m.keras").predict(images), body(images), rtol=1e-5)


def test_a_name_with_a_formula_is_drawn(model, tmp_path, here):
    Image.fromarray(np.zeros((12, 12, 3), np.uint8)).save(tmp_path / "$x^$.png")
    done = here(predict.main, tmp_path / "$x^$.png", "--model", model, "--sheet", tmp_path / "s.png")
    assert (done.code, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("none.jpg --model m.keras", 2, "there is no file none.jpg"),
        (
            "text.jpg --model m.keras",
            1,
            "1 of 1 photographs could not be read: cannot read text.jpg as an image",
        ),
        ("empty --model m.keras", 2, "there are no images in empty"),
        ("photo.png --model none.keras", 2, "there is no file none.keras"),
        ("photo.png --model text.keras", 2, "text.keras is not a zip archive"),
        ("photo.png --model text.tflite", 2, "text.tflite is not a TFLite model"),
        (
            "photo.png --model ConvMixer256_8",
            2,
            "a model is a .keras or .tflite file or one of ConvMixer1536",
        ),
        ("photo.png --model normalised.keras", 2, "normalised.keras takes normalised channels"),
        ("photo.png --model headless.keras", 2, "headless.keras gives features"),
        ("photo.png --model dense.keras", 2, "dense.keras must take images"),
        ("photo.png --model m.keras --sheet none/s.png", 2, "cannot write none/s.png"),
        ("photo.png --model m.keras --csv none/s.csv", 2, "cannot write none/s.csv"),
        ("photo.png --model m.keras --csv s.txt", 2, "must end in .csv"),
        ("photo.png --model m.keras --top 0", 2, "--top: must be a positive integer, got 0"),
        ("photo.png --model m.keras --sheet s.tiff", 2, "must end in .png, .jpg, .pdf, .svg"),
        ("photo.png --model m.keras --only-wrong", 2, "--only-wrong needs photographs in folders"),
        ("", 2, "the following arguments are required: PHOTO_OR_FOLDER"),
    ],
)
def test_bad_input_is_one_line(arguments, code, message, model, tmp_path, here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("text.jpg", "text.keras", "text.tflite"):
        (tmp_path / name).write_text("nothing")
    (tmp_path / "empty").mkdir()
    (tmp_path / "m.keras").write_bytes(model.read_bytes())
    Image.fromarray(np.zeros((12, 12, 3), np.uint8)).save(tmp_path / "photo.png")
    if "normalised" in arguments:
        build(depth=1, kernel_size=3).save(tmp_path / "normalised.keras")
    if "headless" in arguments:
        build(depth=1, kernel_size=3, include_top=False, **PIXELS).save(tmp_path / "headless.keras")
    if "dense" in arguments:
        inputs = keras.Input((4,))
        keras.Model(inputs, keras.layers.Dense(2)(inputs)).save(tmp_path / "dense.keras")
    before = sorted(tmp_path.rglob("*"))
    done = here(predict.main, *arguments.split())
    assert done.code == code, done.stderr
    assert message in done.stderr.splitlines()[-1]
    assert done.stderr.startswith(("error: ", "usage: "))
    assert sorted(tmp_path.rglob("*")) == before


def test_each_photograph_counts_once(model, photos, tmp_path, here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (photos / "elsewhere" / "cut.png").unlink()
    (photos / "day" / "text.jpg").unlink()
    alone = here(predict.main, "photos", "--model", str(model))
    twice = here(predict.main, "photos", "photos/day", str(photos / "day"), "--model", str(model))
    assert "accuracy: " in alone.stdout
    assert twice.stdout == alone.stdout


def test_answers_of_before_stay_where_there_are_none(photos, tmp_path, here):
    """Of a model that gives logits under the name of probabilities."""
    image = keras.Input((12, 12, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(3, 3)(image))
    ck.save_model(
        keras.Model(image, keras.layers.LeakyReLU()(x)), tmp_path / "m.keras", NAMES, Preprocessing(12)
    )
    answers = tmp_path / "a.csv"
    answers.write_text("of another model")
    arguments = [str(photos), "--model", str(tmp_path / "m.keras"), "--csv", str(answers)]
    for scores, message in ((["--scores", "probabilities"], "probabilities are 0 to 1"), ([], "--scores")):
        done = here(predict.main, *arguments, *scores)
        assert done.code == 2
        assert message in done.stderr.splitlines()[-1]
        assert answers.read_text() == "of another model"
