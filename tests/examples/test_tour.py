"""The notebook is stored as it runs: from top to bottom, with its pictures."""

import nbformat
import pytest
from conftest import ROOT

PATH = ROOT / "examples" / "tour.ipynb"


@pytest.fixture
def notebook():
    return nbformat.read(PATH, as_version=4)


def pictures(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [output for output in outputs if "image/png" in output.get("data", {})]


def test_is_stored_as_it_was_run_and_small(notebook):
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, 1 + len(code)))
    assert len(pictures(notebook)) == 4  # Images, curves, kernels, answers.
    assert PATH.stat().st_size < 300_000


@pytest.mark.slow
def test_runs_from_top_to_bottom(notebook):
    from nbclient import NotebookClient

    stored = len(pictures(notebook))
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": PATH.parent}}).execute()
    assert len(pictures(notebook)) == stored
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))
    assert float(printed.split("test accuracy ")[1].split()[0]) > 95
