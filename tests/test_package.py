"""The package is found from its checkout, and as setuptools lays it out."""

import os
import shutil
import subprocess
import sys

from conftest import ROOT

SCRIPT = (
    "import sys, convmixer_keras, convmixer_keras.convert\n"
    "from convmixer_keras.convert.weights import layouts\n"
    "print(convmixer_keras.__file__, layouts.__file__, *sorted(n for n in sys.modules if n == 'convert'))"
)


def run_alone(folder):
    """Runs the script with `folder` first on the path."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "PYTHONPATH": str(folder)},
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    return [os.path.relpath(path, folder) for path in done.stdout.split()]


def test_from_the_checkout():
    assert run_alone(ROOT) == ["convmixer_keras/__init__.py", "convert/weights/layouts.py"]


def test_as_installed(tmp_path):
    shutil.copytree(ROOT / "convmixer_keras", tmp_path / "site" / "convmixer_keras")
    shutil.copytree(ROOT / "convert", tmp_path / "site" / "convmixer_keras" / "convert")
    assert run_alone(tmp_path / "site") == [
        "convmixer_keras/__init__.py",
        "convmixer_keras/convert/weights/layouts.py",
    ]
