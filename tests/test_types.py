"""The public interface as a type checker sees it: what the pages do with it passes, and mistakes do not."""

import inspect
import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT
from pages import PAGES, blocks

import convmixer_keras as ck

pytest.importorskip("mypy")
pytestmark = pytest.mark.slow

MISTAKES = """
import convmixer_keras as ck

ck.ConvMixer(8, 2, 3, 2, classes="five")  # error
ck.ConvMixer(8, 2, 3)  # error
ck.inference.load("m.keras").top("a.jpg", k="three")  # error
ck.inference.load("m.keras", include_top="no")  # error
ck.training.train(ck.recipes.DIGITS, "run", ck.training.Settings(freeze="all"))  # error
ck.training.train("digits", "run")  # error
ck.data.load(ck.recipes.DIGITS, worker="0")  # error
ck.data.load(ck.recipes.DIGITS).class_name  # error
ck.preprocessing.load_image("a.jpg", size="224")  # error
ck.model_complexity(ck.ConvMixer(8, 2, 3, 2)).multiply_adds.real
ck.convert.export.tflite.export("m.keras", "m.tflite", "int8", whole_kernels=1.5)  # error
ck.convert.export.onnx.export("m.keras", "m.onnx", opset="17")  # error
ck.convert.export.onnx.export("m.keras", "m.onnx", opset=17).output.upper()
ck.convmixer  # error
"""


def program(page):
    """A page's snippets, one after the other, as a reader pastes them."""
    return "\n".join(blocks(page, "python"))


PROGRAMS = {f"{re.sub(r'[/.]', '_', page)}.py": program(page) for page in PAGES if program(page)}


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    """What mypy says of the pages' programs and of the mistakes, a list of lines."""
    site = tmp_path_factory.mktemp("site")  # As it is installed: convert/ is inside.
    shutil.copytree(ROOT / "convmixer_keras", site / "convmixer_keras")
    shutil.copytree(ROOT / "convert", site / "convmixer_keras" / "convert")
    for name, text in {**PROGRAMS, "mistakes.py": MISTAKES}.items():
        (site / name).write_text(text)
    options = ["--ignore-missing-imports", "--follow-imports=silent", "--allow-redefinition"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "--no-error-summary", *PROGRAMS, "mistakes.py"],
        cwd=site,
        env={**os.environ, "MYPYPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if ": error: " in line]


def test_what_the_pages_do_passes(errors):
    assert len(PROGRAMS) > 5
    assert [line for line in errors if not line.startswith("mistakes.py")] == []


def test_mistakes_are_found(errors):
    wanted = [number for number, line in enumerate(MISTAKES.splitlines(), 1) if line.endswith("# error")]
    found = {int(line.split(":")[1]) for line in errors if line.startswith("mistakes.py")}
    assert sorted(found) == wanted


def test_every_public_function_is_annotated():
    rooms = (ck, ck.data, ck.training, ck.visualization)
    functions = {getattr(room, name) for room in rooms for name in room.__all__} | {ck.inference.load}
    functions |= {ck.convert.export.tflite.export, ck.convert.export.onnx.export, ck.preprocessing.load_image}
    functions |= {ck.convert.weights.to_keras.convert_checkpoint, ck.convert.weights.to_torch.to_state_dict}
    functions = [function for function in functions if inspect.isfunction(function)]
    assert len(functions) > 30
    for function in functions:
        signature = inspect.signature(function)
        types = [signature.return_annotation, *(p.annotation for p in signature.parameters.values())]
        assert inspect.Signature.empty not in types, function
