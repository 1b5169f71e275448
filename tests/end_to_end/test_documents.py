"""The long blocks of the documents, and the notebook on a machine without NNI's manager."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.docs.blocks import DOCUMENTS, ROOT, Block, Session, blocks

LONG = [block for document in DOCUMENTS for block in blocks(document) if block.mark == "long"]
NOTEBOOKS = sorted((ROOT / "docs").glob("[!_]*/*.ipynb"))


@pytest.mark.parametrize("block", LONG, ids=lambda block: block.place)
def test_a_long_block_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        Session(tmp_path, patch).run(block)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_without_the_manager(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="make docs installs what runs notebooks")
    nbformat = pytest.importorskip("nbformat")
    without = tmp_path / "without_manager"
    without.mkdir()
    (without / "nni_node.py").write_text("raise ImportError('there is no NNI manager here')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(without), str(ROOT)]))
    notebook = nbformat.read(path, as_version=4)
    check = nbformat.v4.new_code_cell("try:\n    import nni_node\nexcept ImportError as error:\n    print(error)")
    notebook.cells.append(check)
    nbclient.NotebookClient(notebook, timeout=550, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert check.outputs[0].text == "there is no NNI manager here\n"
    passed = [output for cell in notebook.cells for output in cell.get("outputs", []) if "passed" in str(output)]
    assert passed, "the notebook shows the deployment check"
