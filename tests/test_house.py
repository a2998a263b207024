"""An import runs down the floors of the house, never up, and never in a circle of files or of folders."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# From the ground up. A room is a folder or a file under convmixer_keras; convert/ is installed as one.
FLOORS = (
    {"__init__", "utils", "presets"},
    {"recipes", "models", "data", "visualization"},
    {"convert", "training"},
    {"pretrained", "applications", "inference", "publishing", "commands"},
)
STRANGERS = ({"convert", "training"},)  # Rooms of one floor that must not know each other.


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


def imports(path):
    """The modules of this package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full.removeprefix("convmixer_keras.") in MODULES else node.module)
    return {
        name.removeprefix("convmixer_keras").removeprefix(".") or "__init__"
        for name in found
        if name.split(".")[0] == "convmixer_keras"
    }


IMPORTS = {name: imports(path) for name, path in MODULES.items()}


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


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_run_down(name):
    for imported in IMPORTS[name]:
        assert imported in MODULES, f"{name} imports {imported}, which is no module"
        assert floor(imported) <= floor(name), f"{name} imports {imported}, which is on a higher floor"
        for rooms in STRANGERS:
            assert {room(name), room(imported)} != rooms, f"{name} imports {imported}"


def test_no_circle_of_files():
    assert circle(IMPORTS) is None


def test_no_circle_of_rooms():
    arrows = {}
    for name, imported in IMPORTS.items():
        arrows.setdefault(room(name), set()).update({room(other) for other in imported} - {room(name)})
    assert circle(arrows) is None


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_file_is_long(name):
    lines = len(MODULES[name].read_text().splitlines())
    assert lines <= 320, (
        f"{MODULES[name].relative_to(ROOT)} has {lines} lines: give its second subject a file"
    )
