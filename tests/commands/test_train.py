"""The command line, as a user runs it: real processes."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from PIL import Image
from processes import COMMAND, run, started, wait_for

from convmixer_keras.commands import train
from convmixer_keras.utils import command_line

SHORT = ["--hidden-dim", "8", "--depth", "1"]


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    return folder, run(*SHORT, "--epochs", "2", cwd=folder)


def test_trains_and_says_what_it_wrote(digits_run):
    folder, done = digits_run
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no start-up noise
    accuracy = re.search(r"test accuracy (\d+\.\d\d) % \(best epoch\)", done.stdout)
    assert 5 <= float(accuracy[1]) <= 100
    for name in ("model.keras", "last.keras", "config.json", "history.csv", "curves.png", "tensorboard"):
        assert os.path.join("runs", "digits", name) in done.stdout
        assert (folder / "runs" / "digits" / name).exists()
    assert json.loads((folder / "runs/digits/config.json").read_text())["command"].endswith("--epochs 2")
    with Image.open(folder / "runs/digits/curves.png") as picture:
        assert picture.size[0] > 500


def test_the_printed_commands_work(digits_run):
    folder, done = digits_run
    evaluate, show = (line.strip() for line in done.stdout.splitlines()[-2:])
    accuracy = re.search(r"test accuracy (\d+\.\d\d) %", done.stdout)[1]
    evaluated = run(*evaluate.split()[2:], cwd=folder)
    assert evaluated.returncode == 0, evaluated.stderr
    assert "on digits, 360 images: loss" in evaluated.stdout
    assert f"top-1 {accuracy} %" in evaluated.stdout
    assert re.search(r"top-5 \d+\.\d\d %", evaluated.stdout)
    shown = subprocess.run(
        show.replace("python", sys.executable, 1), shell=True, cwd=folder, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    assert "block0_pointwise" in shown.stdout


@pytest.mark.slow
def test_an_existing_run_is_refused_or_replaced(digits_run, tmp_path):
    folder, _ = digits_run
    before = (folder / "runs/digits/history.csv").read_bytes()
    refused = run(*SHORT, "--epochs", "1", cwd=folder)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: runs/digits already holds a run")
    assert len(refused.stderr.splitlines()) == 1
    assert (folder / "runs/digits/history.csv").read_bytes() == before
    finished = run("--resume", "--output", "runs/digits", cwd=folder)
    assert finished.returncode == 0
    assert (folder / "runs/digits/history.csv").read_bytes() == before

    (tmp_path / "runs").mkdir()
    os.rename(folder / "runs/digits", tmp_path / "runs/digits")
    hopeless = run("--overwrite", "--dataset", "nonsense", cwd=tmp_path)
    assert hopeless.returncode == 2
    assert (tmp_path / "runs/digits/history.csv").read_bytes() == before
    replaced = run(*SHORT, "--epochs", "1", "--overwrite", cwd=tmp_path)
    os.rename(tmp_path / "runs/digits", folder / "runs/digits")
    assert replaced.returncode == 0
    assert len((folder / "runs/digits/history.csv").read_text().splitlines()) == 2


@pytest.mark.slow
def test_interrupt_and_resume(tmp_path):
    arguments = [*SHORT, "--epochs", "20", "--output", "run"]
    with started([*COMMAND, *arguments], tmp_path) as process:
        wait_for((tmp_path / "run" / "checkpoint.weights.h5").exists, process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.search(r"interrupted; \d+ of 20 epochs are finished and saved in run", errors)
    assert "Traceback" not in errors
    finished = len((tmp_path / "run/history.csv").read_text().splitlines()) - 1
    assert 1 <= finished < 20
    assert (tmp_path / "run/last.keras").exists()
    resume = re.search(r"python train_keras\.py (--resume .*)", errors)[1]
    resumed = run(*resume.split(), cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert f"Epoch {finished + 1}/20" in resumed.stdout
    assert f"Epoch {finished}/20" not in resumed.stdout
    assert len((tmp_path / "run/history.csv").read_text().splitlines()) == 21


def test_folder_dataset_and_preview(image_folder, tmp_path):
    common = ["--recipe", "cifar10_fast", "--dataset", str(image_folder), "--batch-size", "12", *SHORT]
    trained = run(*common, "--randaugment-ops", "0", "--epochs", "1", "--output", "run", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    previewed = run(*common, "--cutmix-alpha", "1", "--preview", "augmented.png", cwd=tmp_path)
    assert previewed.returncode == 0, previewed.stderr
    with Image.open(tmp_path / "augmented.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 100
    evaluated = run("--evaluate", "run/model.keras", cwd=tmp_path)
    assert "15 images" in evaluated.stdout
    wrong = run("--evaluate", "run/model.keras", "--dataset", "digits", cwd=tmp_path)
    assert wrong.returncode == 2
    assert wrong.stderr == "error: run/model.keras takes 3 channels, but images of digits have 1\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kernel-size", "0"], "error: kernel_size must be a positive integer, got 0"),
        (["--dataset", "nonsense"], "error: dataset must be digits, an existing folder"),
        (["--batch-size", "5000"], "error: batch_size must be at most the 1437 training images"),
        (["--evaluate", "nothing.keras"], "error: there is no file nothing.keras"),
        (["--resume"], "error: runs/digits holds no run"),
        (["--epochs", "0"], "error: epochs must be at least 1, got 0"),
        (["--dtype-policy", "half"], "argument --dtype-policy: invalid choice: 'half'"),
        (["--epochs", "many"], "argument --epochs: invalid int value: 'many'"),
        (["--epoch", "3"], "unrecognized arguments: --epoch 3"),
        (["--output", "/proc/run"], "error: cannot make the folder /proc/run"),
        (["--preview", "nowhere/a.png"], "error: cannot write nowhere/a.png"),
    ],
)
def test_wrong_use_is_one_line_and_code_2(arguments, message, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_info:
        command_line.run(lambda: train.main(arguments))
    assert exit_info.value.code == 2
    errors = capfd.readouterr().err
    assert message in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert not list(tmp_path.iterdir())


def test_help_and_version(tmp_path):
    shown = run("--recipe", "imagenet", "--help", cwd=tmp_path)
    assert shown.returncode == 0
    assert "--hidden-dim N" in shown.stdout
    assert "h in the paper (default: 1536)" in shown.stdout
    version = run("--version", cwd=tmp_path)
    assert re.fullmatch(r"convmixer-keras \S+ keras \S+ tensorflow \S+\n", version.stdout)


@pytest.mark.slow
def test_digits_reach_98_percent(tmp_path):
    """The README's first command, whole."""
    done = run(cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert float(re.search(r"test accuracy (\d+\.\d+) %", done.stdout)[1]) >= 98
