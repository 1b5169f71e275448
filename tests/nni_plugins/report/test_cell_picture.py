"""Pictures of cells: complete, well-formed, the same every time, and with nothing on top of anything else."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from nni_plugins.report.cell_picture import Box, CellLayout, draw_cells, layout_cell, operation_family
from search_spaces import published, published_names

ROOT = Path(__file__).parents[3]
SVG = "{http://www.w3.org/2000/svg}"


def cell(text: str) -> Any:
    """Nodes from ``operation,input operation,input / ...``."""
    nodes = [[connection.split(",") for connection in node.split()] for node in text.split("/")]
    return tuple(tuple((name, int(source)) for name, source in node) for node in nodes)


def genotype_like(space: str, num_inputs: int = 2, **cells: str) -> Any:
    return SimpleNamespace(space=space, num_inputs=num_inputs, cells={kind: cell(text) for kind, text in cells.items()})


GENOTYPES: dict[str, Any] = {
    **{name: published(name) for name in published_names()},
    "darts_v2": genotype_like(
        "darts",
        normal="sep_conv_3x3,0 sep_conv_3x3,1 / sep_conv_3x3,0 sep_conv_3x3,1 / sep_conv_3x3,1 skip_connect,0 / "
        "skip_connect,0 dil_conv_3x3,2",
        reduce="max_pool_3x3,0 max_pool_3x3,1 / skip_connect,2 max_pool_3x3,1 / max_pool_3x3,0 skip_connect,2 / "
        "skip_connect,2 max_pool_3x3,1",
    ),
    "nasbench201": genotype_like(
        "nasbench201", 1, cell="conv_3x3,0 / none,0 conv_3x3,1 / skip_connect,0 conv_1x1,1 avg_pool_3x3,2"
    ),
    "dense": genotype_like(
        "darts",
        normal="sep_conv_3x3,0 skip_connect,0 sep_conv_3x3,1 max_pool_3x3,1 / sep_conv_3x3,0 dil_conv_5x5,2 / "
        "sep_conv_5x5,1 skip_connect,2 dil_conv_3x3,3 / skip_connect,0 sep_conv_3x3,4",
        reduce="max_pool_3x3,0 / skip_connect,2 avg_pool_3x3,2 sep_conv_3x3,2 skip_connect,0 / dil_conv_3x3,3 / "
        "sep_conv_3x3,4 skip_connect,3",
    ),
    "one_node": genotype_like("mine:space", 3, cell="sep_conv_3x3,2"),
    "seven_nodes": genotype_like("mine:space", 1, cell=" / ".join(f"conv_3x3,{at} conv_1x1,0" for at in range(7))),
}
every_genotype = pytest.mark.parametrize("genotype", GENOTYPES.values(), ids=GENOTYPES)


def layouts(genotype: Any) -> list[tuple[tuple, CellLayout]]:
    concatenate = genotype.space != "nasbench201"
    return [
        (nodes, layout_cell(nodes, genotype.num_inputs, concatenate=concatenate)) for nodes in genotype.cells.values()
    ]


def overlap(one: Box, other: Box) -> bool:
    return (
        one.left < other.right
        and other.left < one.right
        and one.top < other.top + other.height
        and other.top < one.top + one.height
    )


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


@every_genotype
def test_nothing_overlaps(genotype: Any) -> None:
    for _, layout in layouts(genotype):
        boxes = [*layout.sources, *itertools.chain(*layout.operations), layout.output]
        for one, other in itertools.combinations(boxes, 2):
            assert not overlap(one, other), (one, other)


@every_genotype
def test_everything_lies_inside_the_picture(genotype: Any) -> None:
    for _, layout in layouts(genotype):
        for box in [*layout.sources, *itertools.chain(*layout.operations), layout.output]:
            assert box.left >= 0
            assert box.top >= 0
            assert box.right <= layout.width
            assert box.top + box.height <= layout.height


@every_genotype
def test_no_curve_passes_behind_a_box(genotype: Any) -> None:
    for nodes, layout in layouts(genotype):
        boxes = [*layout.sources, *itertools.chain(*layout.operations)]
        for node, targets in zip(nodes, layout.operations, strict=True):
            for (_, source), target in zip(node, targets, strict=True):
                start, gap = layout.sources[source], layout.gaps[source]
                assert start.right < gap < target.left
                low, high = sorted((start.middle, target.middle))
                bend = Box(start.right, low, gap - start.right, high - low)
                straight = Box(gap, target.middle, target.left - gap, 0)
                for box in boxes:
                    assert not overlap(bend, box)
                    assert not overlap(straight, box)


@every_genotype
def test_the_way_from_a_node_to_the_output_is_free(genotype: Any) -> None:
    for _, layout in layouts(genotype):
        boxes = [*layout.sources, *itertools.chain(*layout.operations)]
        for node in layout.outputs:
            start = layout.sources[node]
            assert layout.output.top <= start.middle <= layout.output.top + layout.output.height
            way = Box(start.right, start.middle, layout.output.left - start.right, 0)
            assert not any(overlap(way, box) for box in boxes)


def test_labels_fit_into_their_boxes() -> None:
    nodes = cell("a_very_long_operation_name_of_a_user,0 conv,1")
    (long, short), *_ = layout_cell(nodes, 2).operations
    assert long.width == short.width > 7 * len("a_very_long_operation_name_of_a_user")


def test_output_is_every_node_or_the_last_one() -> None:
    nodes = cell("conv_3x3,0 / conv_3x3,0 conv_3x3,1 / conv_3x3,2")
    assert layout_cell(nodes, 1).outputs == (1, 2, 3)
    assert layout_cell(nodes, 1, concatenate=False).outputs == (3,)
    assert "concat" in draw_cells(published("bnas_v2_clr_v1"))
    assert "concat" not in draw_cells(GENOTYPES["nasbench201"])


def test_columns_follow_the_longest_way_from_an_input() -> None:
    two, three, four, five = layout_cell(cell("conv,0 / conv,2 / conv,1 / conv,3 conv,0"), 2).sources[2:]
    assert two.left == four.left < three.left < five.left


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


@pytest.mark.parametrize(
    ("operation", "family"),
    [
        ("sep_conv_5x5", "separable convolution"),
        ("dil_conv_3x3", "dilated convolution"),
        ("conv_1x1", "convolution"),
        ("max_pool_3x3", "pooling"),
        ("skip_connect", "skip connection"),
        ("none", "none"),
        ("attention", "other"),
    ],
)
def test_family(operation: str, family: str) -> None:
    assert operation_family(operation) == family
