"""The README and the pages of docs/ and examples/: their links and snippets, read from the pages."""

import re

import keras
import numpy as np
import pytest
from conftest import ROOT
from pages import PAGES, blocks
from readers_files import prepared, published_weights  # noqa: F401

IMAGENET = 'weights="imagenet"'  # A full-size network takes its time.
WITH_SNIPPETS = [
    pytest.param(page, marks=pytest.mark.slow) if IMAGENET in "".join(blocks(page, "python")) else page
    for page in PAGES
    if blocks(page, "python")
]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_has_a_language(page):
    """Blocks of `python` and `sh` are run; `text` and the languages of phones are not."""
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


@pytest.fixture
def reader(prepared, monkeypatch):  # noqa: F811
    """Sits in the prepared folder, without a network."""
    monkeypatch.chdir(prepared)
    monkeypatch.setenv("KERAS_HOME", str(prepared / "keras"))
    images = np.zeros((10, 32, 32, 3), np.uint8), np.arange(10)[:, None]
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: (images, images))
    return prepared


@pytest.mark.parametrize("page", WITH_SNIPPETS)
def test_snippets_run(page, reader, request):
    """From the top of the page to its end, in one namespace, as a reader pastes them."""
    snippets = blocks(page, "python")
    if any(IMAGENET in snippet for snippet in snippets):
        request.getfixturevalue("published_weights")
    namespace = {"__name__": "__main__"}
    for snippet in snippets:
        exec(compile(snippet, page, "exec"), namespace)
