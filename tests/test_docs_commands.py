"""The commands of the README and the pages of docs/ and examples/ are run, read from the pages.

Each starts in a folder of its own with a reader's files. Training commands are made small by flags that are
added at their end. What trains or takes seconds is a slow test; what is of full size, and the benchmarks, are
real ones.
"""

import argparse
import configparser
import contextlib
import importlib.metadata
import itertools
import json
import os
import pathlib
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
import venv

import pytest
from conftest import ROOT
from hub_server import hub  # noqa: F401
from pages import PAGES, blocks, commands
from processes import environment
from readers_files import (  # noqa: F401
    kimm_file,
    photographs,
    prepared,
    published_checkpoint,
    published_weights,
    tfds_data,
)

from convmixer_keras.utils import command_line

SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
ENTRY_POINTS = dict(
    re.split(r"\s*=\s*", line)
    for line in SETUP["options.entry_points"]["console_scripts"].split("\n")
    if line
)
# Commands that are not run, and why. Where the program is ours, its arguments are parsed all the same.
NOT_RUN = {
    r"pip install|python -m venv|source ": "downloads packages: .ci/run installs them in a fresh environment",
    r"pytest": "these tests themselves: .ci/run runs them",
    r"ruff|mkdocs": "works on the checkout: .ci/run runs it",
    r"srun ": "needs Slurm: tests/training/processes/test_machines.py trains in a cluster of its own",
    r".* gs://": "needs a TPU",
    r"python benchmarks/browser.py": "times Chromium for minutes: tests/examples/test_web.py opens the page",
}
REAL = re.compile(
    r"ConvMixer1024_20|convmixer_768_32|benchmarks/|ablation\.py|cifar10-jpeg|segment.py scenes/|tweet.py$|hf://"
)
TRAINS = re.compile(r"convmixer-train(?!.*--(help|evaluate))|train_keras\.py")
SLOW = re.compile(rf"{TRAINS.pattern}|finetune\.py|--mode int8|convmixer-publish")
PLACEHOLDERS = {"FOLDER": "photos", "RUN": "runs/short", "...": "dog.jpg"}
SMALL = "--epochs 1 --batch-size 4 --hidden-dim 8 --depth 1"
# What is added to a command, by the first pattern that it matches: last flags win.
ADDED = (
    (r".*--help|.*--evaluate", ""),
    (r".*--preview", "--batch-size 4"),
    (r".*(train_keras.py|convmixer-train).*--init-from", "--epochs 1 --batch-size 4 --image-size 64"),
    (r".*(train_keras.py|convmixer-train)|.*ablation.py", SMALL),
    (r".*finetune.py", "--epochs 1"),
    (r".*segment.py scenes", "--epochs 1 --size 32"),
    (r".*serve.py", "--port 0 --litert litert"),
    (r".*benchmarks/(train_step|checkpoint|predict|keras_packages)", "--rounds 1"),
    (r".*benchmarks/tflite_latency", "--rounds 1 --threads 1"),
    (r".*benchmarks/input_pipeline", "--rounds 1 --images 1152"),
)


def by_pattern(command, table):
    return next((value for pattern, value in table if re.match(pattern, command)), None)


def _mark(command):
    if REAL.search(command):
        return pytest.mark.real
    return pytest.mark.slow if SLOW.search(command) else ()


ALL = sorted({shlex.join(command) for page in PAGES for command in commands(page)})
COMMANDS = [
    pytest.param(command, marks=_mark(command)) for command in ALL if not by_pattern(command, NOT_RUN.items())
]
OTHERS = sorted(command for command in ALL if by_pattern(command, NOT_RUN.items()))


@pytest.fixture(autouse=True)
def _stay(monkeypatch):
    """A command that leaves its process at once ends the test's instead."""
    monkeypatch.setattr(command_line, "leave", sys.exit)


@pytest.fixture
def folder(request, prepared, tmp_path, monkeypatch):  # noqa: F811
    """Makes a copy of the reader's files without what the command itself is to write."""

    def made(words):
        root = tmp_path / "reader"
        ours = [path.name for path in prepared.iterdir() if path.name != "runs"]
        root.mkdir()
        for name in ours:
            if (prepared / name).is_dir() and not (prepared / name).is_symlink():
                shutil.copytree(prepared / name, root / name)
            elif (prepared / name).is_symlink():
                (root / name).symlink_to((prepared / name).readlink())
            else:
                (root / name).hardlink_to(prepared / name)  # A command replaces a file, and writes into none.
        for before, word in itertools.pairwise(words):
            if word.startswith("runs/") and before != "--output":
                run = pathlib.Path(*pathlib.Path(word).parts[:2])
                if (prepared / run).is_dir():
                    shutil.copytree(prepared / run, root / run, dirs_exist_ok=True)
        monkeypatch.chdir(root)
        monkeypatch.setenv("KERAS_HOME", str(prepared / "keras"))
        return root

    return made


def start(words):
    """Runs a command of this package, or a script, in this process."""
    program, *arguments = words
    if program == "python":
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


def run(words):
    code = 0
    try:
        start(words)
    except SystemExit as ended:
        code = ended.code
    assert code in (0, None)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run(command, folder, request, monkeypatch):
    words = [PLACEHOLDERS.get(word, word) for word in shlex.split(command)]
    words += (by_pattern(command, ADDED) or "").split()
    prepare(words, request)
    root = folder(words)
    monkeypatch.setattr(sys, "argv", sys.argv)
    if "runs/short" in words:
        run(f"python train_keras.py --output runs/short {SMALL}".split())
    if "tflite_latency" in command:
        pytest.importorskip("nncf")
    if "benchmarks/" in command:
        # Their contenders have processes of their own, which import the script.
        subprocess.run([sys.executable, *words[1:]], cwd=root, check=True, env=environment())
    elif "serve.py" in command:
        answers(words, root)
    else:
        run(words)
    for word in (words[-1], *(words[i + 1] for i in range(len(words) - 1) if words[i] == "--output")):
        if re.match(r"[\w/]+\.(keras|h5|tflite|onnx|png|safetensors)$|runs/", word):
            assert (root / word).exists()


def prepare(words, request):
    """Makes what a command needs beyond the small files, and points it there."""
    text = " ".join(words)
    if "convmixer_768_32.safetensors" in text:
        request.getfixturevalue("published_checkpoint")
    if "kimm.keras" in words:
        request.getfixturevalue("kimm_file")
    if TRAINS.search(text) and "benchmarks" not in text:
        request.getfixturevalue("published_weights")
    if "hf://" in text:
        server = request.getfixturevalue("hub")
        if "hf://timm" in text:
            request.getfixturevalue("published_checkpoint")
            body = (request.getfixturevalue("prepared") / "convmixer_768_32.safetensors").read_bytes()
            server.put("timm/convmixer_768_32.in1k", {"model.safetensors": body})
    if "/data" in words:
        words[words.index("/data")] = str(request.getfixturevalue("tfds_data"))
    elif {"cifar10", "cifar10_fast"} & set(words) and "--dataset" not in words:
        words += ["--data-dir", str(request.getfixturevalue("tfds_data"))]


def answers(words, root):
    """Starts the server of the page, and asks it for the page."""
    for name in ("core/dist/index.js", "core/wasm/litert_wasm_internal.js", "wasm-utils/dist/index.js"):
        (root / "litert" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "litert" / name).write_text("export {};\n")
    process = subprocess.Popen([sys.executable, *words[1:]], cwd=root, stdout=subprocess.PIPE, text=True)
    try:
        address = process.stdout.readline().split(" ")[0]
        assert b"<title>" in urllib.request.urlopen(address, timeout=30).read()
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate()


class Understood(BaseException):
    """The arguments of a command were parsed; nothing else of it is to run."""


@pytest.mark.parametrize("command", OTHERS)
def test_other_commands_are_understood(command, monkeypatch, tmp_path):
    """Ours are parsed by their own parser; of the others what they name is looked for."""
    words = shlex.split(command)
    if words[:2] == ["pip", "install"]:
        check_extras(words)
    elif words[0] == "pytest":
        for word in words[1:]:
            assert "/" not in word or (ROOT / word.partition("::")[0]).exists()
    elif words[0] == "ruff":
        subprocess.run([sys.executable, "-m", *words, "--help"], check=True, capture_output=True)
    elif words[0] == "mkdocs":
        assert words[1] in ("build", "serve")
        assert (ROOT / "mkdocs.yml").exists()
    elif words[1:3] == ["-m", "venv"]:
        subprocess.run([sys.executable, *words[1:], "--without-pip"], cwd=tmp_path, check=True)
        assert (tmp_path / words[-1] / "bin" / "python").exists()
    elif words[0] == "source":
        environments = [other.split()[-1] for other in OTHERS if other.startswith("python -m venv")]
        for name in environments:
            venv.create(tmp_path / name, symlinks=True)
        printed = subprocess.check_output(
            ["bash", "-c", f"{command} && which python"], cwd=tmp_path, text=True
        )
        assert printed.strip() in [str(tmp_path / name / "bin" / "python") for name in environments]
    else:
        parse = argparse.ArgumentParser.parse_args

        def parse_only(*arguments, **keywords):
            parse(*arguments, **keywords)
            raise Understood

        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
        monkeypatch.setattr(sys, "argv", sys.argv)
        with pytest.raises(Understood):
            start(words[words.index("python") :])


def check_extras(words):
    """Fails where pip is to install an extra that the package does not have."""
    name, extras = re.fullmatch(r"([\w.-]+)(?:\[([\w,-]+)\])?", words[-1]).groups()
    if words[2:-1] == ["-e"]:
        assert name == "."
    else:
        assert words[2:-1] == []
        assert importlib.metadata.distribution(name)
    if name in (".", SETUP["metadata"]["name"]):
        known = set(SETUP["options.extras_require"])
    else:
        known = set(importlib.metadata.metadata(name).get_all("Provides-Extra"))
    assert set(extras.split(",") if extras else ()) <= known


COLLECT = """
import json, pytest, sys
options = ["--collect-only", "-qq", "-p", "no:cacheprovider"]
codes = {command: pytest.main([*options, *words]) for command, words in json.loads(sys.argv[1]).items()}
print(json.dumps(codes))
"""


@pytest.mark.slow
def test_pytest_commands_select_tests():
    """All in one process, which imports the tests once."""
    commands = {command: shlex.split(command)[1:] for command in OTHERS if command.startswith("pytest")}
    assert any("-k" in words for words in commands.values())
    done = subprocess.run(
        [sys.executable, "-c", COLLECT, json.dumps(commands)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == dict.fromkeys(commands, 0)


@pytest.mark.slow
def test_two_machines_train_together(prepared, tfds_data, tmp_path):  # noqa: F811
    """The two commands of the page, with both machines' addresses on this one."""
    from processes import tf_configs

    text = next(block for block in blocks("docs/several-machines.md", "sh") if "TF_CONFIG" in block)
    here = re.findall(r"127\.0\.0\.1:\d+", tf_configs(2)[0])
    for i, address in enumerate(here, 1):
        text = text.replace(f"10.0.0.{i}:2222", address)
    lines = [line.partition(" # on")[0] for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    assert len(lines) == 2
    path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with contextlib.ExitStack() as stack:
        processes = []
        for i, line in enumerate(lines):
            place = tmp_path / str(i)
            place.mkdir()
            (place / "train_keras.py").symlink_to(ROOT / "train_keras.py")
            command = line.replace("/data", str(tfds_data)) + f" {SMALL} --image-size 14"
            started = subprocess.Popen(["bash", "-c", command], cwd=place, env=environment(PATH=path))
            processes.append(stack.enter_context(started))
        assert [process.wait(300) for process in processes] == [0, 0]
    assert (tmp_path / "0" / "runs" / "imagenet" / "model.keras").is_file()
