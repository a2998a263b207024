"""The training command, in real processes where it is about a process."""

import csv
import dataclasses
import json
import os
import re
import shlex
import shutil
import signal

import pytest
from conftest import ROOT
from PIL import Image
from processes import COMMAND, run, started, wait_for

from convmixer_keras.commands import fitting, next_commands, tflite, train
from convmixer_keras.commands import predict as predict_command
from convmixer_keras.models import presets
from convmixer_keras.recipes import RECIPES
from convmixer_keras.training.run.run_folder import RunFolder
from convmixer_keras.utils.errors import InputError

SHORT = ["--hidden-dim", "8", "--depth", "1"]


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    return folder, run(*SHORT, "--epochs", "2", cwd=folder)


@pytest.mark.slow
def test_trains_and_says_what_it_wrote(digits_run):
    folder, done = digits_run
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no start-up noise
    accuracy = re.search(r"validation accuracy (\d+\.\d\d) % \(best epoch, chosen", done.stdout)
    assert 5 <= float(accuracy[1]) <= 100
    for name in ("model.keras", "last.keras", "config.json", "history.csv", "curves.png", "tensorboard"):
        assert os.path.join("runs", "digits", name) in done.stdout
        assert (folder / "runs" / "digits" / name).exists()
    assert json.loads((folder / "runs/digits/config.json").read_text())["command"].endswith("--epochs 2")
    with Image.open(folder / "runs/digits/curves.png") as picture:
        assert picture.size[0] > 500


@pytest.mark.slow
def test_the_printed_commands_work(digits_run, here, monkeypatch):
    folder, done = digits_run
    monkeypatch.chdir(folder)
    title, *lines = done.stdout.splitlines()[-5:]
    assert title == "use the model"
    predict, evaluate, export, page = map(shlex.split, lines)
    assert predict == ["convmixer-predict", "PHOTO", "--model", "runs/digits/model.keras"]
    Image.new("L", (8, 8)).save("photo.png")
    assert here(predict_command.main, "photo.png", *predict[2:]).code == 0
    assert export[:3] == ["convmixer-tflite", "runs/digits/model.keras", "model.tflite"]
    assert export[3:] == ["--mode", "int8", "--calibrate", "digits"]
    assert here(tflite.main, *export[1:]).code == 0
    assert (page[0], page[2:]) == ("python", ["model.tflite"])
    assert os.path.samefile(page[1], ROOT / "examples" / "web" / "serve.py")
    accuracy = re.search(r"validation accuracy (\d+\.\d\d) %", done.stdout)[1]
    assert evaluate[:2] == ["python", str(ROOT / "train_keras.py")]
    evaluated = here(train.main, *evaluate[2:])
    assert evaluated.code == 0, evaluated.stderr
    assert "on digits, 360 images of 'test': loss" in evaluated.stdout
    assert f"top-1 {accuracy} %" in evaluated.stdout
    assert re.search(r"top-5 \d+\.\d\d %", evaluated.stdout)


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
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert re.search(r"interrupted: ended in epoch \d+, after step \d+ of it; continue with", errors)
    assert "Traceback" not in errors
    finished = len((tmp_path / "run/history.csv").read_text().splitlines()) - 1
    assert 1 <= finished < 20
    assert (tmp_path / "run/last.keras").exists()
    resume = re.search(r"continue with: .*train_keras\.py (--resume .*)", errors)[1]
    resumed = run(*resume.split(), cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert f"Epoch {finished + 1}/20" in resumed.stdout
    assert f"Epoch {finished}/20" not in resumed.stdout
    assert len((tmp_path / "run/history.csv").read_text().splitlines()) == 21


@pytest.mark.slow
def test_folder_dataset_and_preview(image_folder, tmp_path, here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = ["--recipe", "cifar10_fast", "--dataset", str(image_folder), "--batch-size", "12", *SHORT]
    trained = here(train.main, *common, "--randaugment-ops", "0", "--epochs", "1", "--output", "run")
    assert trained.code == 0, trained.stderr
    previewed = here(train.main, *common, "--cutmix-alpha", "1", "--preview", "augmented.png")
    assert previewed.code == 0, previewed.stderr
    with Image.open(tmp_path / "augmented.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 100
    evaluated = here(train.main, "--evaluate", "run/model.keras")
    assert "15 images" in evaluated.stdout
    wrong = here(train.main, "--evaluate", "run/model.keras", "--dataset", "digits")
    assert wrong.code == 2
    assert wrong.stderr == "error: run/model.keras takes 3 channels, but images of digits have 1\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kernel-size", "0"], "error: --kernel-size must be at least 1 and at most 255, got 0"),
        (["--dataset", "nonsense"], "error: --dataset must be digits, an existing folder"),
        (["--batch-size", "5000"], "error: --batch-size must be at most the 1437 training images"),
        (["--evaluate", "nothing.keras"], "error: there is no file nothing.keras"),
        (["--resume"], "error: runs/digits holds no run"),
        (["--epochs", "0"], "error: --epochs must be at least 1, got 0"),
        (["--dtype-policy", "half"], "error: --dtype-policy must be one of float32, mixed_bfloat16"),
        (["--epochs", "many"], "argument --epochs: invalid int value: 'many'"),
        (["--epoch", "3"], "error: there is no flag --epoch; did you mean --epochs?"),
        (["--recipe", "cifar_10"], "got cifar_10; did you mean cifar10?"),
        (["--output", "/proc/run"], "error: cannot make the folder /proc/run"),
        (["--preview", "nowhere/a.png"], "error: cannot write nowhere/a.png"),
        (
            ["--recipe", "finetune", "--dataset", "digits"],
            "error: --head-epochs must be 0 without --init-from",
        ),
        (["--model", "ConvMixer256_8", "--resume"], "--model is not for --resume and --init-from"),
    ],
)
def test_wrong_use_is_one_line_and_code_2(arguments, message, tmp_path, monkeypatch, here):
    monkeypatch.chdir(tmp_path)
    outcome = here(train.main, *arguments)
    assert outcome.code == 2
    assert message in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("recipe", [*RECIPES, None])
def test_photographs_of_ones_own_are_turned_with_any_recipe(recipe, image_folder):
    chosen = [] if recipe is None else ["--recipe", recipe]
    assert train.parse([*chosen, "--dataset", str(image_folder)])[1].orientation == "exif"
    flags = [*chosen, "--dataset", str(image_folder), "--orientation", "stored"]
    assert train.parse(flags)[1].orientation == "stored"


def test_imagenet_itself_is_taken_as_stored(capsys):
    for flags in (["--recipe", "imagenet"], ["--dataset", "imagenet2012"]):
        assert train.parse(flags)[1] == RECIPES["imagenet"]
    for flags, default in (([], "stored"), (["--dataset", "photos/"], "exif")):
        with pytest.raises(SystemExit):
            train.parse(["--recipe", "imagenet", *flags, "--help"])
        assert re.search(rf"data says, or not\s+\(default: {default}\)", capsys.readouterr().out)


def test_help_and_version(tmp_path):
    shown = run("--recipe", "imagenet", "--help", cwd=tmp_path)
    assert shown.returncode == 0
    assert "--hidden-dim N" in shown.stdout
    assert "h in the paper (default: 1536)" in shown.stdout
    # An environment of several processes that this command does not look at.
    version = run("--version", cwd=tmp_path, TF_CONFIG="nothing")
    assert version.returncode == 0, version.stderr
    assert re.fullmatch(r"convmixer-keras \S+ keras \S+ tensorflow \S+\n", version.stdout)


@pytest.mark.slow
def test_digits_reach_98_percent(tmp_path):
    """The README's first command, whole."""
    done = run(cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert float(re.search(r"validation accuracy (\d+\.\d+) %", done.stdout)[1]) >= 98


@pytest.mark.slow
def test_a_folder_of_classes_from_training_to_its_report(image_folder, tmp_path):
    """photos/CLASS/*.jpg without a recipe, a damaged file, a resume that changes, and a report."""
    for split in ("train", "val"):
        shutil.copytree(image_folder / split, tmp_path / "photos", dirs_exist_ok=True)
    (tmp_path / "photos/red/1.jpg").write_bytes((tmp_path / "photos/red/1.jpg").read_bytes()[:300])
    small = [*SHORT, "--image-size", "12", "--patch-size", "3", "--batch-size", "4"]
    arguments = ["--dataset", "photos", *small, "--epochs", "1", "--max-bad-images", "2"]
    done = run(*arguments, "--class-weight", "balanced", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("recipe photos: ConvMixer-8/1, patch 3, kernel 7, on photos at 12x12")
    left_out = r"warning: cannot read \S+/photos/red/1\.jpg as an image: .*; it is left out\n"
    assert re.fullmatch(left_out, done.stderr)
    more = run(
        "--resume", "--output", "runs/photos", "--epochs", "2", "--learning-rate", "0.001", cwd=tmp_path
    )
    assert more.returncode == 0, more.stderr
    assert "epochs is 2; the run in runs/photos had 1" in more.stdout
    assert "learning_rate is 0.001; the run in runs/photos had 0.01" in more.stdout
    (tmp_path / "report").mkdir()
    (tmp_path / "report/mistakes.csv").write_text("of an earlier report")
    reported = run("--evaluate", "runs/photos/model.keras", "--report", "report", cwd=tmp_path)
    assert reported.returncode == 0, reported.stderr
    with open(tmp_path / "report/classes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["blue", "green", "red"]
    assert (tmp_path / "report/confusion.png").stat().st_size > 5000
    table = tmp_path / "report/mistakes.csv"
    assert not table.exists() or "earlier" not in table.read_text()
    refused = run("--evaluate", "runs/photos/model.keras", "--report", "photos/red/2.jpg", cwd=tmp_path)
    assert (refused.returncode, "photos/red/2.jpg" in refused.stderr) == (2, True)
    assert "images of" not in refused.stdout
    mistyped = run("--dataset", "phots/", cwd=tmp_path)
    assert mistyped.returncode == 2
    assert "which is no folder" in mistyped.stderr


@pytest.mark.slow
def test_a_test_split_is_evaluated_once(tmp_path):
    parts = ["--train-split", "train[:80%]", "--validation-split", "train[80%:]", "--test-split", "test"]
    done = run(*SHORT, "--epochs", "1", *parts, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = re.search(r"test accuracy (\S+) % of model\.keras on the 360 images of 'test'", done.stdout)
    config = json.loads((tmp_path / "runs/digits/config.json").read_text())
    assert f"{100 * config['test']['top1']:.2f}" == found[1]
    evaluated = run("--evaluate", "runs/digits/model.keras", "--validation-split", "test", cwd=tmp_path)
    assert f"360 images of 'test': loss {config['test']['loss']:.4f}" in evaluated.stdout
    model = (tmp_path / "runs/digits/model.keras").rename(tmp_path / "kept.keras")  # It is not read again.
    again = run("--resume", "--output", "runs/digits", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert found[0] in again.stdout
    model.rename(tmp_path / "runs/digits/model.keras")
    config["test"]["fingerprint"] = "of other images"
    (tmp_path / "runs/digits/config.json").write_text(
        json.dumps({**config, "test": config["test"] | {"top1": 0}})
    )
    other = run("--resume", "--output", "runs/digits", cwd=tmp_path)
    assert found[0] in other.stdout  # Evaluated anew.


def test_evaluate_names_its_split_by_one_flag(here):
    done = here(train.main, "--evaluate", "m.keras", "--test-split", "test")
    assert done.code == 2
    assert "--test-split is not allowed with --evaluate: --validation-split" in done.stderr


@pytest.mark.parametrize(
    ("one", "other"),
    [("resume", "overwrite"), ("resume", "preview a.png"), ("resume", "evaluate m.keras"),
     ("evaluate m.keras", "preview a.png"), ("overwrite", "evaluate m.keras")],
)  # fmt: skip
def test_one_thing_at_a_time(one, other, here):
    done = here(train.main, *f"--{one} --{other}".split())
    assert done.code == 2
    assert f"--{one.split()[0]} is not allowed with --{other.split()[0]}" in done.stderr


def test_a_finished_run_without_its_history_says_so(tmp_path):
    with pytest.raises(InputError, match=r"has no epoch in its history\.csv"):
        train.report(RunFolder(tmp_path), [])


def test_the_printed_commands_take_any_folder(tmp_path):
    """A space, an apostrophe and quotes are for the shell to see through."""
    folder = RunFolder(tmp_path / "my photos" / """Ann's "best\"""")
    recipe = dataclasses.replace(RECIPES["photos"], dataset="Ann's photos/")
    lines = next_commands.lines(train.commands_for(folder, recipe)).splitlines()
    predict, evaluate, export, _ = map(shlex.split, lines)
    assert predict[-1] == export[1] == evaluate[-1] == folder["model.keras"]
    assert export[-1] == "Ann's photos/"


@pytest.mark.parametrize(
    ("given", "name", "expected"),
    [
        ("--dataset photos/", "photos", {"hidden_dim": 192, "epochs": 60}),
        ("--init-from ConvMixer1024_20 --dataset photos/", "finetune", {"head_epochs": 20}),
        ("--init-from=ConvMixer1024_20 --dataset digits", "finetune", {"dataset": "digits"}),
        ("--init-from ConvMixer1024_20 --recipe photos", "photos", {"head_epochs": 0}),
        (
            "--recipe imagenet --model ConvMixer768_32",
            "imagenet",
            {
                "hidden_dim": 768,
                "depth": 32,
                "kernel_size": 7,
                "patch_size": 7,
                "activation": "relu",
                "epochs": 300,
            },
        ),
        ("--recipe imagenet --model ConvMixer1536_20", "imagenet", {"hidden_dim": 1536, "epochs": 150}),
        ("--model ConvMixer768_32 --epochs 2", "imagenet", {"activation": "relu", "epochs": 2}),
        ("--model ConvMixer256_8 --dataset cifar10", "cifar10_paper", {"epochs": 200}),
        ("--model ConvMixer256_8_P2 --dataset cifar10", "cifar10_fast", {"epochs": 25}),
        ("--model ConvMixer256_8", "cifar10_paper", {"patch_size": 1, "kernel_size": 9, "epochs": 200}),
        (
            "--model ConvMixer768_32 --dataset photos/",
            "photos",
            {"depth": 32, "epochs": 60, "image_size": 96},
        ),
    ],
)
def test_which_recipe_a_command_has(given, name, expected):
    arguments, recipe = train.parse(given.split())
    assert arguments.recipe_name == name
    assert {field: getattr(recipe, field) for field in expected} == expected


@pytest.mark.parametrize(("images", "batch"), [(36, 32), (21, 16), (5, 4)])
def test_a_few_photographs_are_one_batch(images, batch, image_folder, tmp_path):
    """Without a split to validate on, one photograph of each class is held out."""
    for name in ("blue", "green", "red"):
        (tmp_path / name).mkdir()
    for i, path in enumerate(
        sorted(image_folder.glob("train/*/*"), key=lambda path: path.name)[: images + 3]
    ):
        (tmp_path / path.parent.name / f"{i}.jpg").symlink_to(path)
    if images == 36:  # All of them, and splits.
        tmp_path = image_folder
    recipe = dataclasses.replace(RECIPES["finetune"], dataset=str(tmp_path), validation_share=0.01)
    assert fitting.with_batch_for_few(recipe).batch_size == batch
    if images < 32:
        assert fitting.with_batch_for_few(recipe, bad=images - 2).batch_size == 2  # Those that are left out.
    assert fitting.with_batch_for_few(dataclasses.replace(recipe, dataset="digits")).batch_size == 32


def test_each_published_variant_has_its_recipe():
    for preset in presets.PRESETS:
        recipe = train.parse(["--model", preset.name])[1]
        assert (recipe.mean, recipe.std) == (preset.mean, preset.std)
        assert (recipe.image_size, recipe.crop_pct) == (preset.image_size, preset.crop_pct)
    # What these recipes train by themselves are the variants that name them.
    for name, variant in (("imagenet", "1536_20"), ("cifar10_paper", "256_8"), ("cifar10_fast", "256_8_P2")):
        assert train.parse(["--model", f"ConvMixer{variant}"])[1] == RECIPES[name]


@pytest.mark.slow
def test_a_part_of_a_divided_folder_is_the_same_part_in_the_end(tmp_path):
    """What is held out of the training split is not in its parts, whenever they are evaluated."""
    for name, colour in (("cat", "red"), ("dog", "blue")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(20):
            Image.new("RGB", (8, 8), colour).save(tmp_path / "photos" / name / f"{i}.png")
    splits = ["--train-split", "train[:80%]", "--test-split", "train[80%:]"]
    sizes = ["--image-size", "8", "--patch-size", "2", "--kernel-size", "3", "--epochs", "1", *SHORT]
    done = run("--dataset", "photos", *sizes, *splits, "--output", "r", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "29 images of 'train[:80%]', 4 images of 'validation', 7 images of 'train[80%:]'" in done.stdout
    test = re.search(r"test accuracy (\S+) % of model.keras on the 7 images of", done.stdout)
    again = run("--evaluate", "r/model.keras", "--validation-split", "train[80%:]", cwd=tmp_path)
    assert "7 images of 'train[80%:]': loss" in again.stdout
    assert f"top-1 {test[1]} %" in again.stdout
    held_out = run("--evaluate", "r/model.keras", cwd=tmp_path)
    assert "4 images of 'validation'" in held_out.stdout
