"""Pictures of cells: complete, well-formed and the same every time."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from nni_plugins.report.cell_picture import LARGEST_GRAPH, draw_cells
from nni_plugins.report.operation_family import operation_family
from search_spaces import published
from tests.nni_plugins.report.genotypes import GENOTYPES, genotype_like

ROOT = Path(__file__).parents[3]
SVG = "{http://www.w3.org/2000/svg}"


every_genotype = pytest.mark.parametrize("genotype", GENOTYPES.values(), ids=GENOTYPES)


def texts(svg: str, css: str) -> Counter[str]:
    root = ElementTree.fromstring(svg)
    return Counter("".join(text.itertext()) for text in root.iter(f"{SVG}text") if text.get("class") == css)


@every_genotype
def test_every_operation_and_node_is_drawn(genotype: Any) -> None:
    svg = draw_cells(genotype)
    operations = [name for nodes in genotype.cells.values() for node in nodes for name, _ in node]
    assert texts(svg, "operation") == Counter(operations)
    nodes = [str(at) for nodes in genotype.cells.values() for at in range(genotype.num_inputs + len(nodes))]
    assert texts(svg, "node") == Counter(nodes)


@every_genotype
def test_legend_holds_the_families_that_occur(genotype: Any) -> None:
    families = {operation_family(name) for nodes in genotype.cells.values() for node in nodes for name, _ in node}
    assert set(texts(draw_cells(genotype), "family")) == families


def test_an_output_of_one_node_is_no_concatenation() -> None:
    assert "concat" in draw_cells(published("bnas_v2_clr_v1"))
    assert "concat" not in draw_cells(GENOTYPES["nasbench201"])


def test_same_bytes_in_another_process(tmp_path: Path) -> None:
    genotype = GENOTYPES["dense"]
    script = (
        "import sys; from types import SimpleNamespace; from nni_plugins.report.cell_picture import draw_cells; "
        f"draw_cells(SimpleNamespace(**{vars(genotype)!r}), sys.argv[1], 'Found')"
    )
    path = tmp_path / "cells.svg"
    subprocess.run([sys.executable, "-c", script, str(path)], cwd=ROOT, check=True, timeout=120)
    assert path.read_bytes() == draw_cells(genotype, title="Found").encode()


def test_names_are_escaped() -> None:
    svg = draw_cells(genotype_like("mine:space", 2, **{"<b>&": 'conv<3>&"x",0'}), title="A & B <c>")
    assert texts(svg, "operation") == Counter(['conv<3>&"x"'])
    content = ["".join(text.itertext()) for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert "A & B <c>" in content
    assert "<b>& cell" in content


def test_without_a_path_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw_cells(published("bnas_v2_clr_v1"))
    assert list(tmp_path.iterdir()) == []


def test_one_crowded_cell_makes_all_cells_matrices() -> None:
    def picture(connections: int) -> str:
        crowd = " ".join(f"conv_{k}x{k},0" for k in range(connections))
        return draw_cells(genotype_like("darts_any", 2, normal=crowd, reduce="conv_0x0,1"))

    assert "from node" not in picture(LARGEST_GRAPH)
    assert picture(LARGEST_GRAPH + 1).count("from node") == 2
