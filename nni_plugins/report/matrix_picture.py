"""A cell as a matrix, for cells of more connections than a graph shows: operations by edges.

A row is an operation, a column an edge, and a filled square a connection that the cell keeps. Columns stand in groups,
one for each intermediate node: its number in a circle, and below it those of the nodes that it takes from. At the right
is how many connections each operation has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nni_plugins.report.operation_family import FAMILIES, operation_family
from nni_plugins.report.svg import CHARACTER, Box, number, rectangle, text

if TYPE_CHECKING:
    from search_spaces.genotype import Node

_SQUARE, _STEP = 20, 24
_GROUP_GAP = 16
_HEADER_HEIGHT = 62
_NODE_RADIUS = 14
_TOTAL_WIDTH = 44
_EMPTY = ("#f6f6f6", "#e4e4e4")
_QUIET = "#666666"


def draw_matrix(nodes: Sequence[Node], num_inputs: int, operations: Sequence[str]) -> tuple[float, float, list[str]]:
    """Draw one cell.

    Parameters
    ----------
    nodes
        The intermediate nodes of a genotype's cell.
    num_inputs
        Number of inputs of the cell.
    operations
        The rows, from top to bottom; all operations of the cell are among them.

    Returns
    -------
    tuple
        Width and height in pixels, and the SVG elements.
    """
    columns_from = CHARACTER * max(map(len, (*operations, "into node"))) + 16
    height = float(_HEADER_HEIGHT + _STEP * len(operations))
    shapes = [
        text(columns_from - 12, _NODE_RADIUS, "into node", anchor="end", fill=_QUIET),
        text(columns_from - 12, _HEADER_HEIGHT - 16, "from node", anchor="end", fill=_QUIET),
    ]
    middles = [_HEADER_HEIGHT + _STEP * row + _SQUARE / 2 for row in range(len(operations))]
    for name, middle in zip(operations, middles, strict=True):
        shapes.append(text(columns_from - 12, middle, name, anchor="end", css="operation"))

    left = columns_from
    for target, node in enumerate(nodes, start=num_inputs):
        sources = sorted({source for _, source in node})
        if not sources:
            continue
        right = left + _STEP * len(sources) - (_STEP - _SQUARE)
        shapes += _heading(target, left, right)
        kept = Counter((name, source) for name, source in node)
        for column, source in enumerate(sources):
            x = left + _STEP * column
            shapes.append(text(x + _SQUARE / 2, _HEADER_HEIGHT - 16, str(source), css="source"))
            for name, middle in zip(operations, middles, strict=True):
                shapes += _square(Box(x, middle - _SQUARE / 2, _SQUARE, _SQUARE), name, kept[name, source])
        left = right + _GROUP_GAP

    totals = Counter(name for node in nodes for name, _ in node)
    for name, middle in zip(operations, middles, strict=True):
        shapes.append(text(left + 4, middle, str(totals[name]), anchor="start", fill=_QUIET, css="total"))
    return left + _TOTAL_WIDTH, height, shapes


def _heading(target: int, left: float, right: float) -> list[str]:
    """Draw a node's circle above its columns, and a line as wide as they are."""
    centre = (left + right) / 2
    line = f"M {number(left)} {_HEADER_HEIGHT - 30} H {number(right)}"
    return [
        f'<circle cx="{number(centre)}" cy="{_NODE_RADIUS}" r="{_NODE_RADIUS}" fill="#333333"/>',
        text(centre, _NODE_RADIUS, str(target), weight="bold", fill="#ffffff", css="node"),
        f'<path d="{line}" fill="none" stroke="#333333" stroke-width="1.8"/>',
    ]


def _square(box: Box, operation: str, times: int) -> list[str]:
    fill, line = FAMILIES[operation_family(operation)]
    if not times:
        return [rectangle(box, *_EMPTY, radius=3)]
    shapes = [rectangle(box, line, line, radius=3).replace("<rect", '<rect class="kept"', 1)]
    if times > 1:
        shapes.append(text(box.left + box.width / 2, box.middle, str(times), weight="bold", fill=fill))
    return shapes
