"""The notebook runs as it is printed, and shows what it printed when it was last run."""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "notebook.ipynb"


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_it_is_short_and_its_outputs_are_stored(notebook: nbformat.NotebookNode) -> None:
    nbformat.validate(notebook)
    assert sum(len(ast.parse(cell.source).body) for cell in code(notebook)) <= 20
    assert all(cell.outputs for cell in code(notebook))
    assert not any(output.output_type == "error" for cell in code(notebook) for output in cell.outputs)


PROGRESS = """
import warnings, time
warnings.simplefilter("error")  # rich warns where it cannot draw
from ofa_tvm.progress import as_progress
with as_progress(True).task("work", 2) as task:
    task.advance()
    time.sleep(0.3)
    task.advance()
"""


def test_progress_shows_in_a_notebook() -> None:
    """As bars with ipywidgets, without them as a line; either way the line stays."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(PROGRESS)])
    NotebookClient(book, timeout=60).execute()
    said = "".join(
        output.get("text", "") + output.get("data", {}).get("text/plain", "")
        for output in book.cells[0].outputs
    )
    assert "work: 0." in said


@pytest.mark.slow
def test_the_whole_loop_runs(
    notebook: nbformat.NotebookNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # waiting threads would spin where cores are busy
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "demo" / "deploy" / "manifest.yaml").is_file()
    shipped, prediction = code(notebook)[-2:]
    assert "measured" in shipped.outputs[0].text
    assert "Prediction(label=" in prediction.outputs[-1]["data"]["text/plain"]
