"""A cell as a graph: nothing lies on top of anything else."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from nni_plugins.report.graph_picture import CellLayout, layout_cell
from nni_plugins.report.svg import Box
from tests.nni_plugins.report.genotypes import GENOTYPES, cell

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


def test_columns_follow_the_longest_way_from_an_input() -> None:
    two, three, four, five = layout_cell(cell("conv,0 / conv,2 / conv,1 / conv,3 conv,0"), 2).sources[2:]
    assert two.left == four.left < three.left < five.left


def test_output_is_every_node_or_the_last_one() -> None:
    nodes = cell("conv_3x3,0 / conv_3x3,0 conv_3x3,1 / conv_3x3,2")
    assert layout_cell(nodes, 1).outputs == (1, 2, 3)
    assert layout_cell(nodes, 1, concatenate=False).outputs == (3,)
