"""The accuracy that a run prints is that of its exported files on the same photographs."""

import csv
import dataclasses
import re

import keras
import numpy as np
import pytest
from PIL import Image

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


def photograph(random, bright_side):
    """Noise that is brighter towards one side: what it is changes when it is turned."""
    height, width = random.integers(40, 90, 2)
    ramps = {
        "above": np.linspace(1, 0, height)[:, None],
        "below": np.linspace(0, 1, height)[:, None],
        "left": np.linspace(1, 0, width)[None],
        "right": np.linspace(0, 1, width)[None],
    }
    pixels = 90 + 40 * ramps[bright_side][..., None] + random.normal(0, 45, (height, width, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


STORED_AS = {
    1: None,
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}


@pytest.fixture(scope="module")
def turned_photographs(tmp_path_factory):
    """SPLIT/CLASS/*.jpg, stored in any of the four ways in which a phone is held."""
    root, random = tmp_path_factory.mktemp("turned"), np.random.default_rng(0)
    for split, count in (("train", 60), ("val", 60)):
        for name in ("above", "below", "left", "right"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                image, orientation = photograph(random, name), int(random.choice(list(STORED_AS)))
                if STORED_AS[orientation] is not None:
                    image = image.transpose(STORED_AS[orientation])
                exif = Image.Exif()
                exif[0x0112] = orientation
                image.save(root / split / name / f"{i:02}.jpg", exif=exif)
    return root


@pytest.mark.slow
def test_the_accuracy_of_a_run_is_that_of_its_files(turned_photographs, tmp_path, capsys):
    run = tmp_path / "run"
    flags = (
        f"--image-size 24 --hidden-dim 24 --depth 2 --kernel-size 3 --patch-size 3 --epochs 5 --crop-pct 0.9 "
        f"--crop-area 0.6 1 --no-flip --randaugment-ops 0 --dataset {turned_photographs} --output {run}"
    )
    assert train_command.main(flags.split()) == 0
    with open(run / "history.csv", newline="") as file:
        accuracy = max(float(row["val_accuracy"]) for row in csv.DictReader(file))
    assert accuracy > 0.6  # Unturned photographs cannot be told apart.
    model, record = keras.saving.load_model(run / "model.keras"), preprocessing.of(run / "model.keras")
    assert record == Preprocessing(24, 3, 0.9, "bicubic", "exif")
    paths = image_paths(turned_photographs / "val")
    expected = model.predict(np.stack([record(path) for path in paths]), verbose=0).argmax(1)

    def evaluated(path):
        capsys.readouterr()
        assert train_command.main(["--evaluate", str(path), "--dataset", str(turned_photographs)]) == 0
        printed = capsys.readouterr().out
        found = re.search(r"240 images of 'val': loss (\S+), top-1 (\S+) %$", printed, re.MULTILINE)
        return [float(number) for number in found.groups()]

    of_run = evaluated(run / "model.keras")
    assert of_run[1] == round(100 * accuracy, 2)
    for mode in tflite.MODES:
        path = tmp_path / f"{mode}.tflite"
        arguments = [run / "model.keras", path, "--mode", mode, "--calibrate", turned_photographs]
        assert tflite_command.main([str(argument) for argument in arguments]) == 0
        assert preprocessing.of(path) == record
        if mode == "float32":
            np.testing.assert_allclose(evaluated(path), of_run, rtol=0, atol=1e-4)
        else:
            assert abs(evaluated(path)[1] - of_run[1]) <= 1, mode
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
