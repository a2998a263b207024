"""The accuracy that a run prints is that of its exported files on the same photographs."""

import csv
import dataclasses
import json
import pathlib
import re
import zipfile

import keras
import numpy as np
import pytest
from PIL import Image, features

from convmixer_keras.commands import predict as predict_command
from convmixer_keras.commands import tflite as tflite_command
from convmixer_keras.commands import train as train_command
from convmixer_keras.convert.export import tflite
from convmixer_keras.convert.export.runtime import Classifier
from convmixer_keras.images import preprocessing
from convmixer_keras.images.listing import image_paths
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.recipes import PHOTOS
from convmixer_keras.training.run import evaluation
from convmixer_keras.utils.errors import InputError

SIDES = ("above", "below", "left", "right")


def photograph(random, bright_side):
    """Noise that is brighter towards one side: what it is changes when it is turned."""
    height, width = random.integers(40, 90, 2)
    ramps = {
        "above": np.linspace(1, 0, height)[:, None],
        "below": np.linspace(0, 1, height)[:, None],
        "left": np.linspace(1, 0, width)[None],
        "right": np.linspace(0, 1, width)[None],
    }
    pixels = 100 + 34 * ramps[bright_side][..., None] + random.normal(0, 46, (height, width, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


STORED_AS = {
    1: None,
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}


def with_alpha(image):
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def grey16(image):
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


# Endings of files, what is stored in them, and whether EXIF data say how it is turned.
KINDS = (
    (".jpg", lambda image: image, True),
    (".JPEG", lambda image: image.convert("L"), True),
    (".jfif", lambda image: image.convert("CMYK"), True),
    (".png", with_alpha, True),
    (".png", grey16, False),
    (".png", lambda image: image.quantize(64), False),
    (".tif", lambda image: image, True),
    (".tiff", grey16, False),
    (".webp", with_alpha, True),
    (".bmp", lambda image: image, False),
    (".gif", lambda image: image.quantize(64), False),
    *([(".avif", lambda image: image, True)] if features.check("avif") else []),
)
# What cannot be read, by the folder it is in, and what is said of it.
BAD = {
    "train/über/cut.jpg": "truncated",
    "train/unter/page.jpg": "in no format that Pillow reads",
    "train/links/not fetched.png": "only a pointer of Git LFS",
    "train/rechts/phone.heic": "pip install pillow-heif",
    "val/rechts/empty.gif": "it is empty",
}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """SPLIT/CLASS/FILE in every kind of file, stored in the four ways in which a phone is held; some bad."""
    root, random = tmp_path_factory.mktemp("müll & fotos"), np.random.default_rng(0)
    for split in ("train", "val"):
        for name, bright_side in zip(["über", "unter", "links", "rechts"], SIDES, strict=True):
            folder = root / split / name
            (folder / "@eaDir" / "00.jpg").mkdir(parents=True)
            (folder / "@eaDir" / "00.jpg" / "SYNOPHOTO_THUMB_M.jpg").write_bytes(b"a thumbnail")
            for i in range(60):
                image, (ending, stored, turns) = photograph(random, bright_side), KINDS[i % len(KINDS)]
                orientation = int(random.choice(list(STORED_AS))) if turns else 1
                if STORED_AS[orientation] is not None:
                    image = image.transpose(STORED_AS[orientation])
                exif = Image.Exif()
                exif[0x0112] = orientation
                stored(image).save(folder / f"{i:02}ä{ending}", **({"exif": exif} if turns else {}))
    whole = (root / "train/über/00ä.jpg").read_bytes()
    contents = (
        whole[: len(whole) // 2],
        b"<html>404</html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1234\n",
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        b"",
    )
    for path, content in zip(BAD, contents, strict=True):
        (root / path).write_bytes(content)
    return root


@pytest.mark.filterwarnings("ignore:.*left out")
@pytest.mark.slow
def test_the_accuracy_of_a_run_is_that_of_its_files(photographs, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.chdir(photographs.parent)
    settings = (
        "--image-size 24 --hidden-dim 24 --depth 2 --kernel-size 3 --patch-size 3 --epochs 6 --crop-pct 0.9 "
        "--crop-area 0.6 1 --no-flip --randaugment-ops 0"
    )
    flags = [*settings.split(), "--dataset", photographs.name, "--output", str(run)]
    with pytest.raises(InputError) as error:
        train_command.main(flags)
    message, *files = error.value.lines
    assert message.startswith("5 of 485 image files cannot be read")
    for path, reason in BAD.items():
        assert any(path in file and reason in file for file in files), path
    assert train_command.main([*flags, "--max-bad-images", "5"]) == 0
    assert json.loads((run / "config.json").read_text())["recipe"]["dataset"] == str(photographs)
    monkeypatch.chdir(tmp_path)  # The run knows its data set from anywhere.
    with open(run / "history.csv", newline="") as file:
        accuracy = max(float(row["val_accuracy"]) for row in csv.DictReader(file))
    assert accuracy > 0.6  # Unturned photographs cannot be told apart.
    model, record = keras.saving.load_model(run / "model.keras"), preprocessing.of(run / "model.keras")
    assert record == Preprocessing(24, 3, 0.9, "bicubic", "exif")
    paths = [path for path in image_paths(photographs / "val") if "empty" not in path]
    expected = model.predict(np.stack([record(path) for path in paths]), verbose=0).argmax(1)

    def evaluated(path, *flags):
        capsys.readouterr()
        assert train_command.main(["--evaluate", str(path), *flags]) == 0
        printed = capsys.readouterr().out
        found = re.search(r"240 images of 'val': loss (\S+), top-1 (\S+) %$", printed, re.MULTILINE)
        return [float(number) for number in found.groups()]

    def predicted(path):
        capsys.readouterr()
        assert predict_command.main([str(photographs / "val"), "--model", str(path)]) == 1
        printed = capsys.readouterr()
        assert "1 of 241 photographs could not be read" in printed.err
        assert "empty.gif" in printed.err
        return float(re.search(r"accuracy: (\S+) %, \d+ of the 240 photographs", printed.out)[1])

    report = tmp_path / "report"
    of_run = evaluated(run / "model.keras", "--report", str(report))
    assert of_run[1] == round(100 * accuracy, 2) == predicted(run / "model.keras")
    with open(report / "mistakes.csv", newline="", encoding="utf-8") as file:
        mistakes = list(csv.DictReader(file))
    assert len(mistakes) == min(48, 240 - round(2.4 * of_run[1]))
    for mistake in mistakes:
        assert mistake["is"] == pathlib.Path(mistake["image"]).parent.name != mistake["taken for"]
        found = model.predict(record(mistake["image"])[None], verbose=0)[0]
        assert ["links", "rechts", "unter", "über"][found.argmax()] == mistake["taken for"]
    assert {path.name for path in report.iterdir()} == {
        "classes.csv", "confusion.csv", "confusion.png", "mistakes.csv", "mistakes.png"
    }  # fmt: skip
    data = ["--dataset", str(photographs), "--max-bad-images", "1"]

    without_record = run / "last.keras"  # As a run had written it before there were records.
    with zipfile.ZipFile(run / "model.keras") as source, zipfile.ZipFile(without_record, "w") as copy:
        for name in source.namelist():
            if name != preprocessing.ENTRY:
                copy.writestr(name, source.read(name))
    capsys.readouterr()
    opened = evaluated(without_record)
    assert opened == of_run
    for mode in tflite.MODES:
        path = tmp_path / f"{mode}.tflite"
        arguments = [run / "model.keras", path, "--mode", mode, "--calibrate", photographs]
        assert tflite_command.main([str(argument) for argument in arguments]) == 0
        assert preprocessing.of(path) == record
        if mode == "float32":
            np.testing.assert_allclose(of_file := evaluated(path, *data), of_run, rtol=0, atol=1e-4)
        else:
            of_file = evaluated(path, *data)
            assert abs(of_file[1] - of_run[1]) <= 1, mode
        assert predicted(path) == of_file[1], mode
        same = Classifier(path).predict(paths).argmax(1) == expected
        assert same.all() if mode == "float32" else same.mean() >= 0.99, mode


def test_a_file_is_measured_through_files(image_folder, tmp_path):
    from small_models import build

    model = build(depth=1, kernel_size=3, classes=3, input_mean=120, input_std=60)
    names, record = ["blue", "green", "red"], Preprocessing((13, 15), 3, 0.8)
    path = tmp_path / "m.tflite"
    tflite.export(model, path, labels=names, preprocessing=record, logits=True)
    recipe = dataclasses.replace(PHOTOS, dataset=str(image_folder))
    files = [file for name in names for file in image_paths(image_folder / "val" / name)]
    logits = model.predict(np.stack([record(file) for file in files]), verbose=0).astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.repeat([0, 1, 2], 5)
    found = evaluation.evaluate(path, recipe)
    assert found.images == 15
    expected = -np.log(probabilities[np.arange(15), labels]).mean()
    np.testing.assert_allclose(found.loss, expected, rtol=1e-4)
    assert found.top1 == np.mean(probabilities.argmax(1) == labels)
    assert found.top5 == 1

    bad = tmp_path / "bad"
    for split in ("train", "val"):
        for name in names:
            (bad / split / name).mkdir(parents=True)
            (bad / split / name / "0.png").write_text("no image")
    recipe = dataclasses.replace(PHOTOS, dataset=str(bad))
    with pytest.raises(InputError, match=r"0\.png as an image: it is in no format"):
        evaluation.evaluate(path, recipe)
    tflite.export(model, path, labels=["blue", "green", "pink"], preprocessing=record)
    with pytest.raises(InputError, match=r"knows a class 'pink' where .* has 'red'"):
        evaluation.evaluate(path, dataclasses.replace(PHOTOS, dataset=str(image_folder)))
