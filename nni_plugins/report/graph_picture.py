"""A cell as a graph: inputs at the left, then a row for every node, and a bar at the right that is the output.

Every intermediate node stands one column to the right of the last node it takes from. Each connection is a box with its
operation at the left of the node it feeds. A curve leaves its source, reaches the row of the box in the gap after the
source's column and runs on horizontally; as rows are not shared, no curve passes behind a box.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nni_plugins.report.operation_family import FAMILIES, operation_family
from nni_plugins.report.svg import CHARACTER, Box, arrow, bend, number, rectangle, text

if TYPE_CHECKING:
    from search_spaces.genotype import Node

_INPUT_WIDTH, _INPUT_HEIGHT = 64, 44
_BOX_HEIGHT = 26
_BOX_GAP = 8
_ROW_GAP = 22
_NODE_RADIUS = 14
_BOX_TO_NODE = 22
_INPUT_GAP, _GAP = 96, 60
_STRAIGHT = 12
"""The last bit of a curve, under its arrow head."""


@dataclass(frozen=True)
class CellLayout:
    """Where everything in the picture of one cell stands."""

    sources: tuple[Box, ...]
    """The inputs, then the intermediate nodes: indexed as in the genotype."""
    operations: tuple[tuple[Box, ...], ...]
    """For every intermediate node the boxes of its connections, in the genotype's order."""
    gaps: tuple[float, ...]
    """For every source the x at which the curves that leave it have reached their rows."""
    outputs: tuple[int, ...]
    """The nodes that make up the cell's output."""
    output: Box
    width: float
    height: float


def layout_cell(nodes: Sequence[Node], num_inputs: int, *, concatenate: bool = True) -> CellLayout:
    """Place the parts of one cell so that no two of them overlap.

    Parameters
    ----------
    nodes
        The intermediate nodes of a genotype's cell.
    num_inputs
        Number of inputs of the cell.
    concatenate
        Whether the output is all intermediate nodes or only the last one.
    """
    column = [0] * num_inputs
    for node in nodes:
        column.append(1 + max((column[source] for _, source in node), default=0))
    columns = max(column) if nodes else 0

    stacks = [len(node) * (_BOX_HEIGHT + _BOX_GAP) - _BOX_GAP for node in nodes]
    heights = [max(stack, 2 * _NODE_RADIUS) for stack in stacks]
    total = float(max(sum(heights) + _ROW_GAP * (len(nodes) - 1), num_inputs * (_INPUT_HEIGHT + _ROW_GAP) - _ROW_GAP))
    box_width = round(CHARACTER * max((len(name) for node in nodes for name, _ in node), default=0)) + 18
    inputs = tuple(
        Box(0, (index + 0.5) * total / num_inputs - _INPUT_HEIGHT / 2, _INPUT_WIDTH, _INPUT_HEIGHT)
        for index in range(num_inputs)
    )

    def column_left(at: int) -> float:
        return _INPUT_WIDTH + _INPUT_GAP + (at - 1) * (box_width + _BOX_TO_NODE + 2 * _NODE_RADIUS + _GAP)

    sources = list(inputs)
    for index, top in enumerate(_rows(nodes, heights, [box.middle for box in inputs])):
        left = column_left(column[num_inputs + index]) + box_width + _BOX_TO_NODE
        sources.append(Box(left, top + heights[index] / 2 - _NODE_RADIUS, 2 * _NODE_RADIUS, 2 * _NODE_RADIUS))

    operations = []
    for index, node in enumerate(nodes):
        circle = sources[num_inputs + index]
        order = _order(node, sources, circle)
        first = circle.middle - stacks[index] / 2
        left = circle.left - _BOX_TO_NODE - box_width
        operations.append(
            tuple(
                Box(left, first + order.index(at) * (_BOX_HEIGHT + _BOX_GAP), box_width, _BOX_HEIGHT)
                for at in range(len(node))
            )
        )

    output = Box(column_left(columns + 1), 0, _INPUT_WIDTH, total)
    if not concatenate:
        output = output._replace(top=sources[-1].middle - _INPUT_HEIGHT / 2, height=_INPUT_HEIGHT)
    last = len(sources) - 1
    return CellLayout(
        sources=tuple(sources),
        operations=tuple(operations),
        gaps=tuple(column_left(at + 1) - _STRAIGHT for at in column),
        outputs=tuple(range(num_inputs, last + 1)) if concatenate else (last,),
        output=output,
        width=output.right,
        height=total,
    )


def _order(node: Node, sources: Sequence[Box], circle: Box) -> list[int]:
    """Order a node's connections from top to bottom, so that the curves into it cross as little as possible."""

    def key(at: int) -> tuple[int, float, float, int]:
        source = sources[node[at][1]]
        # What comes down from above arrives above the others, and the nearest column's outside the farther ones'.
        side = -1 if source.middle < circle.middle else 1
        return side, side * source.left, source.middle, at

    return sorted(range(len(node)), key=key)


def _rows(nodes: Sequence[Node], heights: list[int], inputs: list[float]) -> list[float]:
    """Return the top of every node's row, in the order of shortest curves (up to 6 nodes; else as numbered)."""
    spare = max(0.0, len(inputs) * (_INPUT_HEIGHT + _ROW_GAP) - sum(heights) - _ROW_GAP * len(nodes))

    def tops_of(order: Sequence[int]) -> list[float]:
        tops, top = [0.0] * len(nodes), spare / 2
        for index in order:
            tops[index] = top
            top += heights[index] + _ROW_GAP
        return tops

    def climb(tops: list[float]) -> float:
        middles = inputs + [top + height / 2 for top, height in zip(tops, heights, strict=True)]
        return sum(
            abs(middles[source] - middles[index])
            for index, node in enumerate(nodes, start=len(inputs))
            for _, source in node
        )

    order = tuple(range(len(nodes)))
    if len(nodes) <= 6:
        order = min(itertools.permutations(order), key=lambda candidate: (climb(tops_of(candidate)), candidate))
    return tops_of(order)


def draw_graph(nodes: Sequence[Node], num_inputs: int, layout: CellLayout) -> list[str]:
    """Draw curves first, so that boxes and nodes lie on top of them."""
    curves, shapes = [], []
    for index in range(num_inputs):
        shapes += _input(index, num_inputs, layout.sources[index])
    for index, (node, boxes) in enumerate(zip(nodes, layout.operations, strict=True), start=num_inputs):
        circle = layout.sources[index]
        for (operation, source), box in zip(node, boxes, strict=True):
            fill, line = FAMILIES[operation_family(operation)]
            dash = ' stroke-dasharray="4 4"' if operation_family(operation) == "none" else ""
            start, gap = layout.sources[source], layout.gaps[source]
            path = f"{bend(start.right, start.middle, gap, box.middle)} H {number(box.left)}"
            curves.append(f'<path d="{path}" fill="none" stroke="{line}" stroke-width="1.8"{dash}/>')
            path = bend(box.right, box.middle, circle.left, circle.middle)
            curves.append(f'<path d="{path}" fill="none" stroke="{line}" stroke-width="1.8"{dash}/>')
            curves.append(arrow(box.left, box.middle, line))
            shapes.append(rectangle(box, fill, line, radius=6))
            shapes.append(text(box.left + box.width / 2, box.middle, operation, css="operation"))
        if index in layout.outputs:
            path = f"M {number(circle.right)} {number(circle.middle)} H {number(layout.output.left)}"
            curves.append(f'<path d="{path}" fill="none" stroke="#555555" stroke-width="1.8"/>')
            curves.append(arrow(layout.output.left, circle.middle, "#555555"))
        centre = number(circle.left + _NODE_RADIUS), number(circle.middle)
        shapes.append(f'<circle cx="{centre[0]}" cy="{centre[1]}" r="{_NODE_RADIUS}" fill="#333333"/>')
        shapes.append(
            text(circle.left + _NODE_RADIUS, circle.middle, str(index), weight="bold", fill="#ffffff", css="node")
        )
    return curves + shapes + _output(layout)


def _input(index: int, num_inputs: int, box: Box) -> list[str]:
    back = num_inputs - index
    name = f'c<tspan dy="3" font-size="9">k-{back}</tspan>'
    centre = box.left + box.width / 2
    return [
        rectangle(box, "#ffffff", "#333333", radius=6),
        text(centre, box.middle - 9, str(index), weight="bold", css="node"),
        text(centre, box.middle + 9, name, size=13, markup=True),
    ]


def _output(layout: CellLayout) -> list[str]:
    box = layout.output
    centre = box.left + box.width / 2
    shapes = [rectangle(box, "#ffffff", "#333333", radius=6)]
    if len(layout.outputs) > 1:
        shapes.append(text(centre, box.middle - 10, "concat"))
        shapes.append(text(centre, box.middle + 9, 'c<tspan dy="3" font-size="9">k</tspan>', size=13, markup=True))
    else:
        shapes.append(text(centre, box.middle, 'c<tspan dy="3" font-size="9">k</tspan>', size=13, markup=True))
    return shapes
