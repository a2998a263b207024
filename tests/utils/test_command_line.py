"""What all commands share, and each of them on a real terminal and in a pipe."""

import argparse
import os
import re
import signal
import subprocess
import sys

import pytest
import torch_reference
from conftest import ROOT, on_linux
from hub_server import hub  # noqa: F401
from safetensors.torch import save_file
from small_models import build
from test_pretrained import HUB_FILE, reference_of, safetensors_bytes, server  # noqa: F401

import convmixer_keras as ck
from convmixer_keras.commands import tflite
from convmixer_keras.convert.export import tflite as tflite_export
from convmixer_keras.images.preprocessing import Preprocessing
from convmixer_keras.models import presets
from convmixer_keras.recipes import Recipe
from convmixer_keras.utils import command_line
from convmixer_keras.utils.errors import InputError

BIN = os.path.dirname(sys.executable)
COMMANDS = {
    "train_keras.py": [sys.executable, ROOT / "train_keras.py"],
    "convmixer-convert": [os.path.join(BIN, "convmixer-convert")],
    "convmixer-tflite": [os.path.join(BIN, "convmixer-tflite")],
    "convmixer-predict": [sys.executable, "-m", "convmixer_keras.commands.predict"],
}


def environment(**more):
    """As a user has it: TensorFlow as talkative as it is by default."""
    return {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"} | more


@pytest.mark.parametrize(
    ("main", "code", "errors"),
    [
        (lambda: None, 0, ""),
        (lambda: command_line.FAILED, 1, ""),
        (lambda: (_ for _ in ()).throw(InputError("no such thing")), 2, "error: no such thing\n"),
        (lambda: (_ for _ in ()).throw(KeyboardInterrupt), 130, "interrupted\n"),
    ],
)
def test_exit_codes(main, code, errors, capsys):
    with pytest.raises(SystemExit) as exit_info:
        command_line.run(main)
    assert exit_info.value.code == code
    assert capsys.readouterr().err == errors


SCRIPT = """
import _thread, os, signal, sys, time, warnings
from convmixer_keras.utils import command_line
from convmixer_keras.utils.errors import Failure

class Object:
    def __del__(self):
        _thread.interrupt_main()
        time.sleep(0)

def wait():
    for _ in range(3000):
        time.sleep(0.01)

def object_ends():
    Object()
    wait()

def other_error():
    try:
        _thread.interrupt_main()
        wait()
    except KeyboardInterrupt:
        raise ValueError("of C++")

def nothing():
    try:
        _thread.interrupt_main()
        wait()
    except KeyboardInterrupt:
        pass

class Late:
    def __del__(self, kill=os.kill, process=os.getpid(), signal=signal.SIGINT):
        kill(process, signal)

def while_ending():
    global kept
    kept = Late()

def warn():
    warnings.warn("of a\\nlibrary")
    raise Failure("too bad")

command_line.run(lambda: {})
"""


@pytest.mark.parametrize(
    ("body", "variables", "stdout", "expected"),
    [
        *(
            pytest.param(body, {}, "/dev/full", (1, "error: no space left on device\n"), marks=on_linux)
            for body in ("print('words')", "print('words', flush=True)")
        ),
        ("print('schön', '\\udcff')", {"PYTHONIOENCODING": "ascii"}, None, (0, "")),
        ("warn()", {"PYTHONWARNINGS": "error"}, None, (1, "warning: of a library\nerror: too bad\n")),
        ("open('/none')", {}, None, (1, "error: /none: no such file or directory\n")),
        ("object_ends()", {}, None, (130, "interrupted\n")),
        ("other_error()", {}, None, (130, "interrupted\n")),
        ("nothing()", {}, None, (130, "interrupted\n")),
        ("while_ending()", {}, None, (0, "")),
    ],
)
def test_how_a_command_ends(body, variables, stdout, expected):
    with open(stdout or os.devnull, "w") as file:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT.replace("{}", body)],
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(**variables),
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
    assert (done.returncode, done.stderr) == expected


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- 2>&-", "<&- >&- 2>&-"])
def test_a_command_whose_streams_are_closed(closed, tmp_path):
    command = f'"{sys.executable}" -c "$1" {closed}'
    script = SCRIPT.replace("{}", f"open({str(tmp_path / 'out')!r}, 'w').write('done') and 0")
    done = subprocess.run(["sh", "-c", command, "sh", script], env=environment())
    assert (done.returncode, (tmp_path / "out").read_text()) == (0, "done")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("in --moed int8", "there is no flag --moed; did you mean --mode?"),
        ("--moed=int8", "there is no flag --moed; did you mean --mode?"),
        ("in -size 3", "there is no flag -size; did you mean --size?"),
        ("in --colour red", "there is no flag --colour"),
        ("in --mode itn8", "--mode must be one of float32, int8, got itn8; did you mean int8?"),
        ("in --mode 7", "--mode must be one of float32, int8, got 7"),
        ("in --size", "argument --size: expected one argument"),
        ("", "the following arguments are required: INPUT"),
        ("in --size -3", "argument --size: must be a positive integer, got -3"),
        ("in more", "unrecognized arguments: more"),
        ("-- --moed", None),
        ("in --no-flip --xyzzy", "there is no flag --xyzzy"),
    ],
)
def test_a_mistyped_word(words, expected, capsys):
    parser = command_line.parser("Tries.\n\n  try in", prog="try")
    parser.add_argument("input", metavar="INPUT")
    parser.add_argument("--mode", choices=("float32", "int8"))
    parser.add_argument("--size", type=command_line.positive)
    parser.add_argument("--flip", action=argparse.BooleanOptionalAction)
    if expected is None:
        assert parser.parse_args(words.split()).input == "--moed"
        return
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(words.split())
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {expected}\n"


def test_messages_name_arguments_and_in_commands_flags(here, tmp_path):
    """One check, as a program of the user's and two commands meet it."""
    with pytest.raises(InputError, match=r"^crop_pct must be over 0 and at most 1, got 2$"):
        Preprocessing(16, crop_pct=2)
    with pytest.raises(InputError, match=r"^mode int8 needs images .*: calibration$"):
        tflite_export.export(build(), tmp_path / "m.tflite", "int8")
    build().save(tmp_path / "m.keras")
    for flags, message in (
        (["--image-size", "16", "--crop-pct", "2"], "--crop-pct must be over 0 and at most 1, got 2.0"),
        (["--mode", "int8"], "mode int8 needs images to find the ranges of its integers with: --calibrate"),
    ):
        outcome = here(tflite.main, tmp_path / "m.keras", tmp_path / "m.tflite", *flags)
        assert (outcome.code, outcome.stderr) == (2, f"error: {message}\n")
    with pytest.raises(InputError, match=r"^epochs must be at least 1"):
        Recipe(epochs=0)


@pytest.mark.parametrize(
    "command",
    [
        "convmixer-onnx m.keras m.onnx",
        "convmixer-convert m.h5 m.keras",
        "convmixer-predict . --model m.keras",
    ],
)
def test_a_backend_that_is_none(command, tmp_path):
    program, *arguments = command.split()
    (tmp_path / "a.jpg").touch()
    (tmp_path / "m.h5").touch()
    (tmp_path / "m.keras").touch()
    done = subprocess.run(
        [os.path.join(BIN, program), *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment(KERAS_BACKEND="tensorflwo"),
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "error: Keras cannot start, by KERAS_BACKEND or keras.json: Unable to import backend : tensorflwo"
    )


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "x", ""])
def test_positive(text):
    assert command_line.positive("12") == 12
    with pytest.raises(Exception, match="must be a positive integer"):
        command_line.positive(text)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_one_style(name):
    done = subprocess.run([*COMMANDS[name], "--help"], capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stderr) == (0, "")
    description, options = done.stdout.split("\noptions:\n")[0].split("\n\n")[1:3], done.stdout
    assert description[0].endswith(".")  # One line, and then commands to copy.
    assert all(
        line.startswith(("  python train_keras.py", f"  {name}")) for line in description[1].split("\n")
    )
    assert "--version             show the versions and exit" in options
    metavars = re.findall(r"^  --[a-z-]+ (\S+)$", options, re.MULTILINE)
    assert not [m for m in metavars if m.lower() == m and not m.startswith("{")]


def on_terminal(*command):
    """Runs a command with a terminal as standard output; returns what was shown there, and stderr."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [str(part) for part in command], stdout=theirs, stderr=subprocess.PIPE, env=environment(COLUMNS="100")
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 1 << 16):
            shown += part
    except OSError:  # The command has ended.
        pass
    os.close(ours)
    errors = process.communicate()[1].decode()
    assert process.returncode == 0, errors
    return shown.decode(), errors


def in_a_pipe(*command):
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=True, env=environment()
    )
    return done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("run", [on_terminal, in_a_pipe])
def test_long_work_shows_how_far_it_is(run, image_folder, tmp_path):
    reference = torch_reference.random_model("timm", 16, 2, 3, 2, 3, 3)
    save_file(reference.state_dict(), tmp_path / "m.safetensors")
    pixels = {"input_mean": 120, "input_std": 60}
    model = build(classes=3, input_shape=(16, 16, 3), **pixels)
    ck.save_model(model, tmp_path / "m.keras", ["blue", "green", "red"], Preprocessing(16))
    for command, progress in (
        (
            [*COMMANDS["convmixer-convert"], tmp_path / "m.safetensors", tmp_path / "c.keras",
             "--activation", "gelu", "--images", image_folder],
            ("comparing on", "verified on 2 random images"),
        ),
        (
            [*COMMANDS["convmixer-tflite"], tmp_path / "m.keras", tmp_path / "m.tflite",
             "--mode", "int8", "--calibrate", image_folder],
            ("reading", "converting the network", "calibrating", "running the file"),
        ),
        (
            [*COMMANDS["train_keras.py"], "--evaluate", tmp_path / "m.keras", "--recipe", "cifar10_fast",
             "--dataset", image_folder, "--batch-size", 3],
            ("evaluating", "15 images of"),
        ),
    ):  # fmt: skip
        shown, errors = run(*command)
        assert errors == ""
        for words in progress:
            assert words in shown
        lines = shown.replace("\r\n", "\n")
        if run is on_terminal:
            assert "\r" in lines or "\x1b" in lines or "\x08" in lines
        else:
            assert not set("\r\x1b\x08") & set(lines)


@pytest.mark.slow
def test_predict_fetches_the_published_weights(server, tmp_path, image_folder):  # noqa: F811
    """Over real HTTP, from a server on loopback; the second time from the cache."""
    body = safetensors_bytes(reference_of(presets.CONVMIXER_768_32), tmp_path)
    server.files[HUB_FILE] = (200, {}, body)
    photo = next((image_folder / "train" / "red").glob("*.jpg"))
    command = [*COMMANDS["convmixer-predict"], photo, "--model", "ConvMixer768_32"]
    for times in (1, 2):
        shown, errors = in_a_pipe(*command)
        assert errors == ""
        assert ("fetching " in shown) == (times == 1)
        scores = re.findall(r"^ +(\d+\.\d) %  (.+)$", shown, re.MULTILINE)
        assert len(scores) == 3
    assert [path for path in server.asked if "/api/" not in path] == [HUB_FILE]  # The rest is the library's.


@pytest.mark.slow
def test_commands_that_need_tensorflow_take_it(tmp_path):
    """Whatever backend Keras would have taken: a note and the usual one-line error, no traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "convmixer_keras.commands.train", "--evaluate", "none.keras"],
        cwd=tmp_path,
        env={**os.environ, "KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "note: this command needs TensorFlow; KERAS_BACKEND=torch is ignored",
        "error: there is no file none.keras",
    ]


def test_the_export_takes_tensorflow(tmp_path, here, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    outcome = here(tflite.main, tmp_path / "none.keras", tmp_path / "out.tflite")
    assert (outcome.code, os.environ["KERAS_BACKEND"]) == (2, "tensorflow")
    assert outcome.stderr == f"error: there is no file {tmp_path}/none.keras\n"
