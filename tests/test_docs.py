"""Every snippet and command of the README and the pages of docs/, read from the pages."""

import argparse
import configparser
import hashlib
import json
import pathlib
import re
import runpy
import shlex
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import convmixer_keras as ck
from convmixer_keras import presets

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md")
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md" and "litert" not in path.parts
)
PIXELS = {"input_mean": 120.0, "input_std": 60.0}
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
# Programs of others: that they are called as they want to be is for their own tests.
OTHERS = {
    "adb",
    "cd",
    "docker",
    "git",
    "npm",
    "ruff",
    "source",
    "ssh",
    "scp",
    "srun",
    "sbatch",
    "tensorboard",
}


def blocks(page, language):
    """The fenced blocks of a page in one language."""
    text = (ROOT / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(page):
    """The commands of a page, each as a list of words, without variables set before it."""
    found = []
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words:
                end = words.index("&&") if "&&" in words else len(words)
                command, words = words[:end], words[end + 1 :]
                while command and re.match(r"[A-Z_]+=", command[0]):
                    del command[0]
                if command:
                    found.append(command)
    return found


IMAGENET = 'weights="imagenet"'  # A full-size network takes its time.
WITH_SNIPPETS = [
    pytest.param(page, marks=pytest.mark.slow) if IMAGENET in "".join(blocks(page, "python")) else page
    for page in PAGES
    if blocks(page, "python")
]
COMMANDS = sorted({shlex.join(command) for page in PAGES for command in commands(page)})


@pytest.mark.parametrize("page", PAGES)
def test_every_block_has_a_language(page):
    """Blocks of `python` and `sh` are tried here; `text` and the languages of phones are not."""
    fences = re.findall(r"^```(.*)$", (ROOT / page).read_text(), re.MULTILINE)
    assert all(fences[::2])
    assert not any(fences[1::2])


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text()):
        if re.match(r"[a-z]+:|\.\./\.\./actions/", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (ROOT / page).parent / path if path else ROOT / page
        assert linked.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def photographs(folder, count):
    random = np.random.default_rng(len(folder.name))
    folder.mkdir(parents=True)
    for i in range(count):
        pixels = random.integers(0, 256, (40, 48, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.jpg")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with the small files that the pages speak of."""
    root = tmp_path_factory.mktemp("reader")
    for split, count in (("train", 6), ("val", 2)):
        for name in ("cat", "dog"):
            photographs(root / "photos" / split / name, count)
    for name in ("dog", "cat", "truck", "a"):
        (root / f"{name}.jpg").write_bytes((root / "photos/train/dog/0.jpg").read_bytes())
    for name in ("examples", "benchmarks", "docs", "convmixer_keras", "convert", "train_keras.py"):
        (root / name).symlink_to(ROOT / name)
    for path, classes, shape in (
        ("runs/digits/model.keras", [str(i) for i in range(10)], (8, 8, 1)),
        ("runs/photos/model.keras", ["cat", "dog"], (32, 32, 3)),
        ("model.keras", ["cat", "dog"], (32, 32, 3)),
        ("finetuned.keras", ["cat", "dog"], (32, 32, 3)),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        model = ck.ConvMixer(8, 1, 3, 2, classes=len(classes), input_shape=shape, **PIXELS)
        ck.save_model(model, root / path, classes)
    _checkpoints(root)
    return root


def _checkpoints(root):
    import torch

    from convmixer_keras.convert import tflite, torch_weights

    model = keras.saving.load_model(root / "model.keras")
    tflite.export(model, root / "out.tflite", labels=["cat", "dog"])
    state = torch_weights.to_state_dict(model, "official")
    torch.save({name: torch.tensor(array) for name, array in state.items()}, root / "checkpoint.pth")


@pytest.fixture
def reader(prepared, monkeypatch):
    """Sits in the prepared folder, without a network."""
    monkeypatch.chdir(prepared)
    monkeypatch.setenv("KERAS_HOME", str(prepared / "keras"))
    images = np.zeros((10, 32, 32, 3), np.uint8), np.arange(10)[:, None]
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: (images, images))
    return prepared


@pytest.fixture(scope="module")
def published_weights(prepared):
    """Random weights in the place where the published ones are kept after the first use."""
    preset = presets.CONVMIXER_1024_20
    folder = prepared / "keras" / "models" / "convmixer_keras"
    folder.mkdir(parents=True)
    weights = folder / f"{preset.timm_name}.in1k.weights.h5"
    ck.ConvMixer1024_20().save_weights(weights)
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    record = {"name": "", "url": None, "sha256": "", "converted_sha256": sha256}
    weights.with_name(f"{preset.timm_name}.in1k.json").write_text(json.dumps(record))


@pytest.mark.parametrize("page", WITH_SNIPPETS)
def test_snippets_run(page, reader, request, capsys):
    """From the top of the page to its end, in one namespace, as a reader pastes them."""
    snippets = blocks(page, "python")
    if any(IMAGENET in snippet for snippet in snippets):
        request.getfixturevalue("published_weights")
    namespace = {"__name__": "__main__"}
    for snippet in snippets:
        exec(compile(snippet, page, "exec"), namespace)


class Understood(BaseException):
    """The arguments of a command were parsed; nothing else of it is to run."""


def start(words):
    """Runs a command of this package, or a script, in this process."""
    program, *arguments = words
    if program in ("python", "python3"):
        program, *arguments = arguments
        sys.argv = [program, *arguments]
        sys.path.insert(0, str(pathlib.Path(program).resolve().parent))
        try:
            runpy.run_path(program, run_name="__main__")
        finally:
            del sys.path[0]
    else:
        module, function = ENTRY_POINTS[program].split(":")
        sys.argv = [program, *arguments]
        getattr(__import__(module, fromlist=[function]), function)()


ENTRY_POINTS = dict(
    re.split(r"\s*=\s*", line)
    for line in SETUP["options.entry_points"]["console_scripts"].split("\n")
    if line
)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command, reader, monkeypatch):
    """Each is parsed by its own parser; pip's are compared with setup.cfg and pytest's with the tests."""
    words = shlex.split(command)
    if words[0] in OTHERS or words[:3] in (["python", "-m", "venv"], ["python", "-m", "build"]):
        return
    if words[:2] == ["pip", "install"]:
        extras = re.findall(r"(?:convmixer-keras|\.)\[([\w,]+)\]", command)
        for extra in ",".join(extras).split(",") if extras else ():
            assert extra in SETUP["options.extras_require"]
        return
    if words[0] == "pytest":
        for word in words[1:]:
            if "/" in word:
                assert (ROOT / word.partition("::")[0]).exists()
        return
    if words[:2] == ["python", "-c"]:
        compile(words[2], command, "exec")
        return
    if words[:2] == ["python", "-m"]:
        assert words[2] in ("http.server", "pip"), command
        return
    parse = argparse.ArgumentParser.parse_args

    def parse_only(*arguments, **keywords):
        parse(*arguments, **keywords)
        raise Understood

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    monkeypatch.setattr(sys, "argv", sys.argv)
    with pytest.raises((Understood, SystemExit)) as ended:
        start(words)
    if ended.type is SystemExit:  # Of --help and --version.
        assert ended.value.code == 0
