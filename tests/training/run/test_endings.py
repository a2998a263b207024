"""Runs on photographs, each ended at a random moment: they are gone soon after, with the right exit code.

Photographs, because Python functions read them within tf.data: an iterator that is alive when the interpreter
ends waits for these for ever.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from processes import COMMAND, environment, started, tf_configs

SMALL = [
    "--recipe",
    "imagenet",
    "--image-size",
    "32",
    "--hidden-dim",
    "8",
    "--depth",
    "1",
    "--batch-size",
    "64",
]
SMALL += ["--patch-size", "8", "--kernel-size", "3", "--dtype-policy", "float32", "--randaugment-ops", "0"]
WAYS = ["SIGTERM", "SIGINT", "no number", "bad image", "lost process", "error in validation", "the end"]
SECONDS = 10  # That an ending may take, on a machine that does little else.

# The library in a script, in which an error that nobody catches may come before a batch.
SCRIPT = """
import dataclasses, sys
import keras
import convmixer_keras as ck
from convmixer_keras.recipes import DIGITS

class Fail(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        self.fail("training", batch)

    def on_test_batch_begin(self, batch, logs=None):
        self.fail("validation", batch)

    def fail(self, phase, batch):
        if sys.argv[2:] == [phase, str(batch)]:
            raise ArithmeticError(f"in {phase}")

recipe = dataclasses.replace(DIGITS, dataset=sys.argv[1], image_size=32, patch_size=8, hidden_dim=8, depth=1)
recipe = dataclasses.replace(recipe, mean=(0.5,), std=(0.5,), epochs=2, batch_size=8)
ck.training.train(recipe, "run", callbacks=[Fail()], verbose=0)
print("trained", flush=True)
"""


# Threads of tf.data are always within Python, or wait for it.
SLOWLY = """
import time
from convmixer_keras.images import reading

whole = reading.exif_orientation
def slowly(*arguments):
    end = time.monotonic() + 0.03
    while time.monotonic() < end:
        sum(range(1000))
    return whole(*arguments)
reading.exif_orientation = slowly
"""


def photographs_in(folder, count):
    draw = np.random.default_rng(0)
    for i in range(count):
        (folder / f"class{i % 4}").mkdir(exist_ok=True)
        pixels = draw.integers(0, 255, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"class{i % 4}" / f"{i}.jpg")
    return folder


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return photographs_in(tmp_path_factory.mktemp("photographs"), 4000)


@pytest.mark.slow
def test_the_interpreter_ends_behind_an_error_that_nobody_catches(tmp_path):
    """It hung: the error keeps the iterator, whose threads wait for Python, which waits for them."""
    photographs = photographs_in(tmp_path, 200)
    done = subprocess.run(
        [sys.executable, "-c", SLOWLY + SCRIPT, photographs, "training", "1"],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ArithmeticError: in training"


def seconds_to_end(process, begun, act=lambda: None):
    """Waits for a line that holds `begun`, acts, and returns in how many seconds from then the process ended.

    The ending's own line counts as its beginning where nothing acts: what is behind it must end, and ends.
    """
    lines, seen = [], threading.Event()

    def read(stream):
        for line in stream:
            lines.append(line)
            if begun in line:
                seen.set()

    readers = [threading.Thread(target=read, args=(s,)) for s in (process.stdout, process.stderr)]
    for reader in readers:
        reader.start()
    assert seen.wait(300), lines
    act()
    began = time.monotonic()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        pytest.fail(f"still there after 60 s: {lines}")
    for reader in readers:
        reader.join()
    return time.monotonic() - began, "".join(lines)


@pytest.mark.real
@pytest.mark.parametrize("number", range(30))
def test_thirty_runs_end(photographs, tmp_path, number):
    way, draw = WAYS[number % len(WAYS)], random.Random(number)
    command = [*COMMAND, "--dataset", photographs, *SMALL, "--output", "run"]
    configs, code, begun = [""], 1, "error:"
    if way in ("SIGTERM", "SIGINT"):
        code, begun = 128 + getattr(signal, way), "Epoch 1/"
    elif way == "no number":
        command += ["--learning-rate", str(10 ** draw.uniform(6, 30)), "--clip-norm", "0"]
    elif way == "bad image":
        code, command[command.index(photographs)] = 2, with_a_bad_image(photographs, tmp_path / "copy", draw)
    elif way == "lost process":
        configs, begun = tf_configs(2), "Epoch 1/"
    elif way == "error in validation":
        command = [sys.executable, "-c", SCRIPT, photographs, "validation", draw.randrange(6)]
        begun = "ArithmeticError: in validation"
    else:
        command = [sys.executable, "-c", SCRIPT, photographs]
        code, begun = 0, "trained"
    with contextlib.ExitStack() as stack:
        processes = []
        for config in configs:
            variables = {"PYTHONPATH": str(ROOT), **({"TF_CONFIG": config} if config else {})}
            processes.append(stack.enter_context(started(command, tmp_path, **variables)))

        def act():
            if way in ("SIGTERM", "SIGINT", "lost process"):
                time.sleep(draw.uniform(0, 15))
                processes[-1].send_signal(signal.SIGKILL if len(processes) > 1 else getattr(signal, way))

        seconds, text = seconds_to_end(processes[0], begun, act)
    print(f"{way}: ended with {processes[0].returncode} in {seconds:.1f} s")
    assert processes[0].returncode == code, text
    assert seconds < SECONDS, text


def with_a_bad_image(photographs, folder, draw):
    """A copy of the folder, of which the second half of one file is missing."""
    shutil.copytree(photographs, folder, copy_function=os.link)
    path = draw.choice(sorted(folder.glob("*/*.jpg")))
    contents = path.read_bytes()
    path.unlink()
    path.write_bytes(contents[: len(contents) // 2])
    return folder
