"""What an installation without extras lacks is named in one line."""

import ast
import configparser
import importlib.metadata
import sys

import pytest
from conftest import ROOT

from convmixer_keras.commands import train
from convmixer_keras.utils import command_line, extras
from convmixer_keras.utils.errors import InputError


def test_each_module_is_in_its_extra():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    distributions = importlib.metadata.packages_distributions()
    for module, extra in extras.EXTRAS.items():
        required = setup["options.extras_require"][extra].lower().replace("_", "-")
        assert any(name.lower().replace("_", "-") in required for name in distributions[module]), module


def test_no_file_imports_an_extra_before_it_is_needed():
    for folder in ("convmixer_keras", "convert"):
        for path in (ROOT / folder).rglob("*.py"):
            if (
                path == ROOT / "convert" / "weights" / "network.py"
            ):  # A network in PyTorch; imported where PyTorch is known to be.
                continue
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, (ast.Import, ast.ImportFrom)):
                    names = [getattr(node, "module", None) or node.names[0].name]
                    assert not {name.split(".")[0] for name in names} & set(extras.EXTRAS), path


def test_what_is_missing_is_said_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_cv", None)
    assert not extras.is_installed("keras_cv")
    with pytest.raises(InputError) as raised:
        extras.require("matplotlib", "keras_cv")
    assert str(raised.value) == (
        "keras_cv is not installed: pip install 'convmixer-keras[train]' "
        "(in a checkout: pip install -e '.[train]')"
    )


def test_training_says_so_before_it_begins(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit) as exit_info:
        command_line.run(lambda: train.main(["--output", str(tmp_path / "run")]))
    assert exit_info.value.code == command_line.WRONG_USE
    assert capsys.readouterr().err == (
        "error: matplotlib is not installed: pip install 'convmixer-keras[train]' "
        "(in a checkout: pip install -e '.[train]')\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["train_keras.py", "--epochs", "3"], ["python", "train_keras.py"]),
        (["/usr/bin/convmixer-train"], ["convmixer-train"]),
    ],
)
def test_the_next_command_begins_as_this_one_did(monkeypatch, argv, words):
    monkeypatch.setattr(sys, "argv", argv)
    assert command_line.started_as() == words
