"""Every notebook of colab/, as a user runs it; see CONTRIBUTING.md."""

from pathlib import Path

import nbclient
import nbformat
import pytest

from tests.experiments import cli

NOTEBOOKS = sorted((cli.ROOT / "colab").glob("*.ipynb"))
TIMEOUT = 300  # seconds, for a cell


def read(path: Path):
    return nbformat.read(path, as_version=4)


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 6


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(path):
    notebook = read(path)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None, path.name
    first, *_, last = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    assert first.source.startswith("# ")
    assert last.source.startswith("## What to conclude")


@pytest.mark.notebooks
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path, tfds_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_dir))
    notebook = read(path)
    client = nbclient.NotebookClient(
        notebook, timeout=TIMEOUT, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    shown = [
        output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    ]
    assert any("image/png" in output.get("data", {}) for output in shown), "shows no picture"
