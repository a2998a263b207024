"""The notebook is stored as it runs: from top to bottom, with its pictures."""

import re

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


def printed(notebook):
    """What all cells printed, each text behind the name of its stream."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ()) if "text" in output]
    return "".join(f"{output['name']}: {output['text']}" for output in outputs)


def test_is_stored_as_it_was_run_and_small(notebook):
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, 1 + len(code)))
    assert len(pictures(notebook)) == 4  # Images, curves, kernels, answers.
    assert "stderr" not in printed(notebook)
    assert PATH.stat().st_size < 300_000


@pytest.mark.slow
def test_runs_from_top_to_bottom(notebook):
    from nbclient import NotebookClient

    stored = len(pictures(notebook)), printed(notebook)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": PATH.parent}}).execute()
    # Nothing on standard error either; numbers may be others on another machine.
    without_numbers = [re.sub(r"[\d.,]+(e-\d+)?", "0", text) for text in (stored[1], printed(notebook))]
    assert without_numbers[0] == without_numbers[1]
    assert len(pictures(notebook)) == stored[0]
    assert float(printed(notebook).split("test accuracy ")[1].split()[0]) > 95
