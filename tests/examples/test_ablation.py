"""The study as its users run it, on three colours that anything can learn to tell apart."""

import csv
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from PIL import Image

import convmixer_keras as ck
from convmixer_keras.recipes import Recipe
from convmixer_keras.training import trainer as training
from convmixer_keras.training.step.fused import fused_twin
from convmixer_keras.utils import command_line

SCRIPT = pathlib.Path(__file__).parents[2] / "examples" / "ablation.py"
sys.path.insert(0, str(SCRIPT.parent))
import ablation  # noqa: E402

TINY = ["--image-size", "16", "--hidden-dim", "4", "--depth", "1", "--batch-size", "12", "--epochs", "2"]
PLAIN = ["--randaugment-ops", "0", "--erasing-probability", "0"]  # Starts in a fraction of the time.


@pytest.fixture
def study(monkeypatch, image_folder, tmp_path):
    """Function that runs a part of the study in this process and returns its rows."""

    def run(*flags, lines=("baseline", "without the residual", "kernel 5"), results=None):
        monkeypatch.setattr(ablation, "STUDY", [line for line in STUDY if line[0] in lines])
        output = str(tmp_path / "runs")
        if results:
            flags = (*flags, "--results", str(results))
        ablation.main(["--dataset", str(image_folder), "--output", output, *TINY, *PLAIN, *flags])
        return read(results or tmp_path / "runs")

    return run


STUDY, BASELINE = ablation.STUDY, ablation.BASELINE


def read(folder):
    with open(folder / "ablation.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_each_line_changes_one_thing_of_the_baseline():
    for name, changes, _ in STUDY:
        differing = {
            field.name
            for field in dataclasses.fields(Recipe)
            if getattr(dataclasses.replace(BASELINE, **changes), field.name) != getattr(BASELINE, field.name)
        }
        same = name in (
            "baseline",
            f"kernel {BASELINE.kernel_size}",
            f"patch {BASELINE.patch_size}",
        )
        assert differing == (set() if same else set(changes)), name
        assert len(changes) == (name != "baseline")


def test_what_a_line_takes_away_is_in_the_baseline():
    for name, changes, _ in STUDY:
        for field in changes:
            if name.startswith("without"):
                assert getattr(BASELINE, field), name


@pytest.mark.slow
def test_digits_are_taken_as_their_own_recipe_has_them():
    """Grey images of 8x8 pixels, where the baseline is for CIFAR-10's."""
    recipe = ablation.baseline_on({"dataset": "digits", "epochs": 1})
    assert (recipe.image_size, recipe.mean, recipe.epochs) == (8, (0.306,), 1)
    data = ck.data.load(recipe)
    images, _ = next(iter(data.train))
    for _, changes, _ in STUDY:
        model = training.build_model(dataclasses.replace(recipe, **changes), data.channels, 10)
        assert model.output_shape == (None, 10)
    assert model(images).shape == (recipe.batch_size, 10)
    assert ablation.baseline_on({"dataset": "digits", "image_size": 16}).image_size == 16
    assert ablation.baseline_on({"dataset": "photos/"}) == dataclasses.replace(BASELINE, dataset="photos/")


@pytest.mark.parametrize(
    ("changes", "layer", "there"),
    [
        ({}, keras.layers.Add, True),
        ({"residual": False}, keras.layers.Add, False),
        ({"normalization": "layer"}, keras.layers.LayerNormalization, True),
        ({"normalization": "layer"}, keras.layers.BatchNormalization, False),
    ],
)
def test_a_recipe_decides_on_residual_and_normalization(changes, layer, there):
    recipe = dataclasses.replace(BASELINE, hidden_dim=8, depth=2, **changes)
    model = training.build_model(recipe, 3, 10)
    assert any(isinstance(candidate, layer) for candidate in model.layers) == there
    images = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype(np.float32)
    np.testing.assert_allclose(fused_twin(model)(images), model(images), atol=1e-5)


@pytest.mark.slow
def test_study_writes_table_and_chart_and_trains_nothing_twice(study, image_folder, tmp_path):
    results = tmp_path / "results"
    rows = study(results=results)
    output = tmp_path / "runs"
    assert [row["ablation"] for row in rows] == [
        "baseline",
        "without the residual",
        "kernel 5",
    ]
    assert [row["paper"] for row in rows] == ["", "", ""]  # Not the paper's data
    for row in rows:
        run = "baseline" if row["ablation"] == "kernel 5" else row["ablation"].replace(" ", "-")
        with open(output / run / "history.csv", newline="") as file:
            last = list(csv.DictReader(file))[-1]
        assert last["epoch"] == "2"
        assert float(row["top1"]) == pytest.approx(100 * float(last["val_accuracy"]))
        assert float(row["difference"]) == pytest.approx(float(row["top1"]) - float(rows[0]["top1"]))
    assert not (output / "kernel-5").exists()  # It is the baseline.

    report = (results / "README.md").read_text()
    assert "ConvMixer-4/1, patch 2, kernel 5" in report
    assert "36 training and 15 test images, 2 epochs, batch 12, seed 0" in report
    table = [line for line in report.splitlines() if line.startswith("| ")]
    assert len(table) == 2 + len(rows)
    assert table[3].startswith(f"| without the residual | {float(rows[1]['top1']):.2f} | ")
    assert Image.open(results / "ablation.png").size > (600, 100)

    written = {path: path.stat().st_mtime_ns for path in output.glob("*/model.keras")}
    assert len(written) == 2
    (results / "ablation.csv").unlink()
    assert study(results=results) == rows
    assert sorted(os.listdir(results)) == ["README.md", "ablation.csv", "ablation.png"]
    assert {path: path.stat().st_mtime_ns for path in written} == written

    with pytest.raises(ValueError, match="holds a run of other settings: choose another --output"):
        study("--seed", "1")


def test_wrong_use_is_one_line_and_exit_code_2(tmp_path, capsys):
    for flags, message in (
        (["--dataset", "no/such"], "error: --dataset must be digits, an existing folder"),
        (["--epochs", "0"], "error: --epochs must be at least 1, got 0"),
    ):
        with pytest.raises(SystemExit) as exit_info:
            command_line.run(lambda flags=flags: ablation.main(["--output", str(tmp_path), *flags]))
        assert exit_info.value.code == 2
        errors = capsys.readouterr().err
        assert errors.startswith(message)
        assert errors.count("\n") == 1


@pytest.mark.real
def test_a_killed_study_goes_on(image_folder, tmp_path):
    """All of STUDY, killed within the second run, ends as one that was not killed."""
    flags = ["--dataset", image_folder, "--output", tmp_path, *TINY, *PLAIN, "--epochs", "3"]
    command = [sys.executable, SCRIPT, *flags]
    study = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    under_way = tmp_path / "without-the-residual" / "history.csv"
    while not under_way.exists():
        assert study.poll() is None
        time.sleep(0.01)
    study.send_signal(signal.SIGKILL)
    study.wait()
    baseline = (tmp_path / "baseline" / "last.keras").stat().st_mtime_ns
    assert len(read(tmp_path)) == 1
    subprocess.run(command, check=True)
    assert (tmp_path / "baseline" / "last.keras").stat().st_mtime_ns == baseline
    assert [row["ablation"] for row in read(tmp_path)] == [name for name, _, _ in STUDY]
    epochs = [row["epoch"] for row in csv.DictReader(under_way.open())]
    assert epochs == ["1", "2", "3"]
