"""An import runs down the floors of the house, never up, and never in a circle of files or of folders."""

import ast
import importlib.util
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# From the ground up. A room is a folder or a file under convmixer_keras; convert/ is installed as one.
FLOORS = (
    {"utils"},
    {"images"},
    {"models", "data"},
    {"recipes", "convert"},
    {"applications", "pretrained"},
    {"training", "inference"},
    {"commands"},
    {"__init__"},  # The package's face: whatever needs a name of it imports that name's own module.
)
STRANGERS = ({"convert", "training"},)  # Rooms that must not know each other.
MOST_ARROWS = 40  # From room to room, with those of train_keras.py and benchmarks/.


def modules():
    """Dictionary from each module's dotted name below `convmixer_keras` to its path."""
    found = {}
    for folder in ("convmixer_keras", "convert"):
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            parts = ("convert", *parts) if folder == "convert" else parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


MODULES = modules()


def imports(name, text):
    """The modules of this package that one of its files imports, anywhere in it.

    Of the package itself a file may import modules. Its names, and all of them at
    once, come out as `__init__.NAME` and `__init__.*`, which are no modules.
    """
    is_package = any(module.startswith(f"{name}.") for module in MODULES)
    package = f"convmixer_keras.{name}" if is_package else f"convmixer_keras.{name}".rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            # `import convmixer_keras.data` makes all of `convmixer_keras` known, too.
            found |= {"__init__.*" for alias in node.names if is_ours(alias.name)}
        elif isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            if is_ours(module):
                found |= {
                    target(module.removeprefix("convmixer_keras").lstrip("."), a.name) for a in node.names
                }
    return found


def is_ours(module):
    return module.split(".")[0] == "convmixer_keras"


def target(module, name):
    """The module that `from module import name` imports."""
    full = f"{module}.{name}".lstrip(".")
    if full in MODULES:
        return full
    return module or f"__init__.{name}"


IMPORTS = {name: imports(name, path.read_text()) for name, path in MODULES.items()}


def room(module):
    return module.split(".")[0]


def floor(module):
    return next(i for i, rooms in enumerate(FLOORS) if room(module) in rooms)


def circle(arrows):
    """Returns a circle in a dictionary from each node to the nodes it points to, or None."""
    done, path = set(), []

    def visit(node):
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return None
        path.append(node)
        for following in sorted(arrows.get(node, ())):
            if found := visit(following):
                return found
        done.add(path.pop())
        return None

    return next(filter(None, map(visit, sorted(arrows))), None)


def test_imports_run_down():
    for name, imported in [(name, other) for name, found in IMPORTS.items() for other in found]:
        assert imported in MODULES, f"{name} imports {imported}, which is no module of one room"
        assert floor(imported) <= floor(name), f"{name} imports {imported}, which is on a higher floor"
        for rooms in STRANGERS:
            assert {room(name), room(imported)} != rooms, f"{name} imports {imported}"


@pytest.mark.parametrize(
    ("name", "line", "expected"),
    [
        ("utils.files", "from ..training import trainer", {"training.trainer"}),
        ("utils.files", "from . import errors", {"utils.errors"}),
        ("utils.files", "from .errors import InputError", {"utils.errors"}),
        ("utils", "from .errors import InputError", {"utils.errors"}),
        ("recipes", "from .models.presets import PRESETS", {"models.presets"}),
        ("convert.export.onnx", "from ... import __version__", {"__init__.__version__"}),
        ("utils.files", "import convmixer_keras as ck", {"__init__.*"}),
        ("utils.files", "import convmixer_keras.images.folder", {"__init__.*"}),
        ("utils.files", "from convmixer_keras import ConvMixer, recipes", {"__init__.ConvMixer", "recipes"}),
        ("utils.files", "import numpy.linalg", set()),
    ],
)
def test_every_way_to_import_is_seen(name, line, expected):
    assert imports(name, line) == expected


@pytest.mark.parametrize("room", ["__init__", "data", "training"])
def test_what_a_room_shows_is_its_own(room):
    """The names that `lazy_loader` imports at first use; the package itself shows names of all rooms."""
    stub = MODULES[room].with_name("__init__.pyi")
    shown = imports(room, stub.read_text())
    assert shown <= set(MODULES)
    assert room == "__init__" or {module.split(".")[0] for module in shown} == {room}


def test_every_stub_is_looked_at():
    stubs = {path.parent.name for path in (ROOT / "convmixer_keras").rglob("*.pyi")}
    assert stubs == {"convmixer_keras", "data", "training"}


def test_no_circle_of_files():
    assert circle(IMPORTS) is None


def group(module):
    """The folder within a room, or the room."""
    path = module.split(".")
    return ".".join(path[:2]) if len(path) > 2 else path[0]


@pytest.mark.parametrize("part", [room, group])
def test_no_circle_of_folders(part):
    """A file of a room that is in none of its folders, such as trainer.py, joins them and is no folder."""
    arrows = {}
    for name, imported in IMPORTS.items():
        if part is room or group(name) != room(name):
            others = {part(other) for other in imported}
            arrows.setdefault(part(name), set()).update(others - {part(name), room(name)})
    assert circle(arrows) is None


def test_utils_know_nothing_about_the_network():
    words = r"convmixer(?!.keras)|hidden_dim|patch|stem_|block\d|depthwise|pointwise|preset|recipe"
    assert re.search(words, "ConvMixer1024_20", re.IGNORECASE)
    for name, path in MODULES.items():
        if room(name) == "utils":
            assert not re.search(words, path.read_text(), re.IGNORECASE), name


@pytest.mark.parametrize(
    ("rooms", "expected"),
    [
        ("utils images convert.export.runtime", set()),
        ("models.convmixer", {"keras", "tensorflow"}),  # What would be noticed, under Keras' default backend.
    ],
)
def test_what_runs_without_keras_and_tensorflow(rooms, expected):
    names = [name for name in MODULES if name.startswith(tuple(f"{room}" for room in rooms.split()))]
    program = (
        f"import importlib, sys\nfor name in {names}: importlib.import_module('convmixer_keras.' + name)\n"
    )
    program += "print(*{'keras', 'tensorflow'} & set(sys.modules))"
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert set(printed.split()) == expected


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_no_file_is_long():
    for path in MODULES.values():
        lines = len(path.read_text().splitlines())
        assert lines <= 318, f"{path.relative_to(ROOT)} has {lines} lines: give its second subject a file"


def test_the_map_shows_the_house():
    """CONTRIBUTING.md: every room in the order of the floors, and files that there are."""
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("## Where things are")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ((?:`[\w.]+`[;, ]*)+) \|", text, re.MULTILINE)
    shown = [{name.removesuffix(".py") for name in re.findall(r"`([\w.]+)`", row)} for row in rows]
    assert shown == [rooms for rooms in FLOORS if rooms != {"__init__"}]
    for name in re.findall(r"`([\w/]+(?:/|\.py))`", text):
        assert any((ROOT / folder / name).exists() for folder in ("", "convmixer_keras", "convert")), name


def test_few_arrows_between_rooms():
    arrows = {(room(name), room(other)) for name, found in IMPORTS.items() for other in found}
    for path in [ROOT / "train_keras.py", *sorted((ROOT / "benchmarks").glob("*.py"))]:
        outside = path.stem if path.parent == ROOT else "benchmarks"
        arrows |= {(outside, room(other)) for other in imports(outside, path.read_text())}
    arrows = {(one, other) for one, other in arrows if one != other}
    assert len(arrows) <= MOST_ARROWS, sorted(arrows)
