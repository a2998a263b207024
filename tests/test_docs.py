"""The README and the pages of docs/ and examples/: their links and snippets, read from the pages.

A snippet runs statement by statement, and what the comment behind a statement says of it is compared.
"""

import ast
import io
import re
import tokenize

import keras
import numpy as np
import pytest
from conftest import ROOT
from hub_server import hub  # noqa: F401
from pages import PAGES, blocks
from readers_files import prepared, published_checkpoint, published_weights  # noqa: F401

import convmixer_keras as ck

SLOW = re.compile(r'weights="imagenet"|training\.train\(')  # A full-size network, or a run.
SNIPPETS = {page: blocks(page, "python") for page in PAGES if blocks(page, "python")}


@pytest.mark.parametrize("page", PAGES)
def test_every_block_has_a_language(page):
    """Blocks of `python` and `sh` are run; `text` and the languages of phones are not."""
    fences = re.findall(r"^```(.*)$", (ROOT / page).read_text(), re.MULTILINE)
    assert all(fences[::2])
    assert not any(fences[1::2])


@pytest.mark.parametrize("page", PAGES)
def test_no_text_is_python(page):
    for block in blocks(page, "text"):
        with pytest.raises(SyntaxError):
            ast.parse(block)


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


def test_the_reference_has_every_public_name():
    pages = "".join(path.read_text() for path in (ROOT / "docs" / "api").glob("*.md"))
    shown = set(re.findall(r"^(?:::: |      heading: )(?:convmixer_keras\.)?([\w.]+)$", pages, re.MULTILINE))
    for room in ("", "data.", "training."):
        stub = ROOT / "convmixer_keras" / room.rstrip(".") / "__init__.pyi"
        for name in re.findall(r"^from .* as (\w+)$", stub.read_text(), re.MULTILINE):
            is_page = (ROOT / "docs" / "api" / f"{name}.md").exists()
            assert is_page or f"{room}{name}" in shown or name == "preprocessing" or name[0] == "_", name


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_readme_shows_the_networks_as_they_are():
    rows = re.findall(r"^\| `(ConvMixer\w+)`(.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert [name for name, _ in rows] == [preset.name for preset in ck.presets.PRESETS]
    for (_, row), preset in zip(rows, ck.presets.PRESETS, strict=True):
        _, size, patch, kernel, activation, parameters, top1, _ = (cell.strip() for cell in row.split("|"))
        assert size == f"{preset.hidden_dim} / {preset.depth}"
        assert (patch, kernel) == (str(preset.patch_size), str(preset.kernel_size))
        assert activation.lower() == preset.activation
        assert parameters == f"{preset.parameters:,}"
        assert str(preset.top1 or "no weights") in top1


def test_the_readmes_results_are_those_of_the_pages():
    table = (
        (ROOT / "README.md").read_text().partition("\n## Results\n")[2].partition("\n\n| | this package")[0]
    )
    pages = "".join((ROOT / "docs" / name).read_text() for name in ("results.md", "converting.md"))
    rows = [row.split("|")[2:4] for row in table.splitlines() if re.match(r"\| \w", row)]
    figures = re.findall(r"\d+\.\d+(?:e-\d+)?", str(rows))
    assert len(figures) > 10
    for figure in figures:
        assert re.search(rf"(?<![\d.]){re.escape(figure)}(?!\d)", pages), figure


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        ("README.md", r"CIFAR-10 as JPEG files, test top-1, .* \| ([\d.]+) % \| their log"),
        ("CHANGELOG.md", r"`ConvMixer256_8_P2\(weights=\"cifar10\"\)`[^%]* ([\d.]+) %"),
        ("docs/results.md", r"\(594,186 parameters\) \| [^|]* \| ([\d.]+) %"),
        ("docs/results.md", r"\*\*([\d.]+) %\*\* of all 10,000 test images"),
        ("docs/results.md", r"\(`examples/cifar10\.tflite`\) \|\n.*\n\| top-1 \| ([\d.]+) %"),
    ],
)
def test_the_accuracy_of_our_weights_is_the_same_everywhere(page, sentence):
    (told,) = re.findall(sentence, (ROOT / page).read_text())
    assert float(told) == ck.presets.CONVMIXER_256_8_P2.top1


@pytest.fixture
def reader(prepared, hub, monkeypatch):  # noqa: F811
    """Sits in the prepared folder, without a network but for the hub on this machine."""
    monkeypatch.chdir(prepared)
    monkeypatch.setenv("KERAS_HOME", str(prepared / "keras"))
    images = np.zeros((10, 32, 32, 3), np.uint8), np.arange(10)[:, None]
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: (images, images))
    return prepared


@pytest.mark.parametrize("page", SNIPPETS)
def test_snippets_run(page, reader, hub, tmp_path, capsys):  # noqa: F811
    """From the top of the page to its end, in one namespace, as a reader pastes them."""
    if "hf://USER/REPO" in "".join(SNIPPETS[page]):
        model = ck.ConvMixer256_8_P2(include_preprocessing=True)
        ck.save_model(model, tmp_path / "model.keras", [str(i) for i in range(10)])
        hub.put("USER/REPO", {"model.keras": (tmp_path / "model.keras").read_bytes()})
    run([snippet for snippet in SNIPPETS[page] if not SLOW.search(snippet)], page, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in SNIPPETS if SLOW.search("".join(SNIPPETS[page]))])
def test_slow_snippets_run(page, reader, hub, request, tmp_path, monkeypatch, capsys):  # noqa: F811
    """ConvMixer-768/32 is fetched from the hub and converted; ConvMixer-1024/20 is in the cache."""
    text = "".join(SNIPPETS[page])
    if "ConvMixer768_32" in text:
        request.getfixturevalue("published_checkpoint")
        body = (reader / "convmixer_768_32.safetensors").read_bytes()
        hub.put("timm/convmixer_768_32.in1k", {"model.safetensors": body})
        monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    elif "ConvMixer1024_20" in text:
        request.getfixturevalue("published_weights")
    run(SNIPPETS[page], page, capsys)


def run(snippets, page, capsys):
    namespace = {"__name__": "__main__"}
    for snippet in snippets:
        comments = comments_behind_code(snippet)
        for statement in ast.parse(snippet).body:
            capsys.readouterr()
            if isinstance(statement, ast.Expr):
                result = eval(compile(ast.Expression(statement.value), page, "eval"), namespace)
            else:
                exec(compile(ast.Module([statement], []), page, "exec"), namespace)
                result = None
            printed = capsys.readouterr().out
            for line in range(statement.lineno, statement.end_lineno + 1):
                if line in comments:
                    compare(comments[line], statement, result, printed, namespace)


def comments_behind_code(snippet):
    """Dictionary from the number of a line to the comment at its end."""
    tokens = tokenize.generate_tokens(io.StringIO(snippet).readline)
    return {
        token.start[0]: token.string.lstrip("# ")
        for token in tokens
        if token.type == tokenize.COMMENT and token.line[: token.start[1]].strip()
    }


def compare(comment, statement, result, printed, namespace):
    """Fails where a comment states an output, a value, or an array, and it is another."""
    if "print(" in ast.unparse(statement):
        first = comment.removesuffix(" comes first")
        assert (printed.splitlines()[0] if first != comment else printed.strip()) == first
    elif comment.startswith("["):
        same_but_for_scores(result, ast.literal_eval(comment))
    elif stated := re.findall(r"\(\d+(?:, \d+)+\)", comment):
        arrays = [namespace[name.id] for name in ast.walk(statement.targets[0]) if isinstance(name, ast.Name)]
        assert [str(tuple(array.shape)) for array in arrays] == stated
        assert arrays[0].dtype == "float32"
        assert "0..255" in comment
        assert 0 <= np.min(arrays[0]) <= np.max(arrays[0]) <= 255


def same_but_for_scores(result, stated):
    """Compares lists of (index, name, score) of a network that has other weights than the page's."""
    for got, expected in zip(result, stated, strict=True):
        assert sorted(row[:2] for row in got) == sorted(row[:2] for row in expected)
        for rows in (got, expected):
            scores = [row[2] for row in rows]
            assert scores == sorted(scores, reverse=True)
            assert sum(scores) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("snippet", "fails"),
    [
        ("print(1 + 1)  # 2", False),
        ("print(1 + 1)  # 3", True),
        ("for i in (7, 8):\n    print(i)  # 7 comes first", False),
        ("for i in (7, 8):\n    print(i)  # 8 comes first", True),
        ("[[(0, 'a', 1.0)]]  # [[(0, 'b', 1.0)]]", True),
        ("import numpy as np\nx = np.zeros((1, 2), 'float32')  # float32 (1, 2), 0..255", False),
        ("import numpy as np\nx = np.zeros((1, 2), 'float32')  # float32 (2, 1), 0..255", True),
    ],
)
def test_a_wrong_comment_is_found(snippet, fails, capsys):
    if fails:
        with pytest.raises(AssertionError):
            run([snippet], "page", capsys)
    else:
        run([snippet], "page", capsys)
