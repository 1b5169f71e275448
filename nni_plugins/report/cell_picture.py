"""Cells as pictures: an SVG drawn from a genotype, the same bytes for the same genotype.

Inputs stand at the left, every intermediate node has a row of its own and stands one column to the right of the last
node it takes from, and a bar at the right is the output. Each connection is a box with its operation at the left of the
node it feeds. A curve leaves its source, reaches the row of the box in the gap after the source's column and runs on
horizontally; as rows are not shared, no curve passes behind a box.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from xml.sax.saxutils import escape

from nni_plugins.tools.atomic_files import atomic_write

if TYPE_CHECKING:
    from search_spaces import Genotype
    from search_spaces.genotype import Node

FAMILIES = {
    "separable convolution": ("#dbe9fb", "#2f6db5"),
    "dilated convolution": ("#e7defa", "#7146b8"),
    "convolution": ("#d8f1f0", "#17807b"),
    "pooling": ("#fde8d2", "#c26a12"),
    "skip connection": ("#def2dc", "#3b8a36"),
    "none": ("#f0f0f0", "#8a8a8a"),
    "other": ("#f9dfe6", "#b03a5b"),
}
"""Family of operations: fill and line colour."""

_MARGIN = 20
_TITLE_HEIGHT = 34
_LEGEND_HEIGHT = 34
_INPUT_WIDTH, _INPUT_HEIGHT = 64, 44
_BOX_HEIGHT = 26
_BOX_GAP = 8
_ROW_GAP = 22
_NODE_RADIUS = 14
_BOX_TO_NODE = 22
_INPUT_GAP, _GAP = 96, 60
_STRAIGHT = 12
"""The last bit of a curve, under its arrow head."""
_CHARACTER = 7.4
"""Width of one character of a label at 12 px, generous enough for every common sans-serif."""


class Box(NamedTuple):
    """A rectangle, in pixels from the top left corner of its cell."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.left + self.width

    @property
    def middle(self) -> float:
        """Vertical centre."""
        return self.top + self.height / 2


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


def operation_family(operation: str) -> str:
    """Return the family of an operation, which decides its colour and its place in the legend."""
    if operation.startswith("sep_conv"):
        return "separable convolution"
    if operation.startswith("dil_conv"):
        return "dilated convolution"
    if "conv" in operation:
        return "convolution"
    if "pool" in operation:
        return "pooling"
    if operation.startswith(("skip", "identity")):
        return "skip connection"
    return "none" if operation == "none" else "other"


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
    box_width = round(_CHARACTER * max((len(name) for node in nodes for name, _ in node), default=0)) + 18
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


def draw_cells(genotype: Genotype, path: str | Path | None = None, title: str | None = None) -> str:
    """Draw all cells of a genotype, one below the other.

    Parameters
    ----------
    genotype
        The architecture.
    path
        Where to write the picture; None writes nothing.
    title
        Heading of the picture; None leaves it out.

    Returns
    -------
    str
        The picture as SVG.
    """
    concatenate = genotype.space != "nasbench201"
    layouts = {
        kind: layout_cell(nodes, genotype.num_inputs, concatenate=concatenate) for kind, nodes in genotype.cells.items()
    }
    found = {operation_family(name) for nodes in genotype.cells.values() for node in nodes for name, _ in node}
    families = [family for family in FAMILIES if family in found]
    legend_width = sum(_legend_step(family) for family in families)
    width = 2 * _MARGIN + max([legend_width, *(layout.width for layout in layouts.values())])

    body, top = [], float(_MARGIN)
    if title is not None:
        body.append(_text(_MARGIN, top + 14, title, size=17, weight="bold", anchor="start"))
        top += _TITLE_HEIGHT
    for kind, layout in layouts.items():
        heading = kind if kind.endswith("cell") else f"{kind} cell"
        body.append(_text(_MARGIN, top + 11, heading, size=14, weight="bold", anchor="start"))
        top += _TITLE_HEIGHT
        body.append(f'<g transform="translate({_number(_MARGIN)} {_number(top)})">')
        body += _cell(genotype.cells[kind], genotype.num_inputs, layout)
        body.append("</g>")
        top += layout.height + _TITLE_HEIGHT
    body += _legend(families, top)
    height = top + _LEGEND_HEIGHT

    name = escape(title if title is not None else f"Cells of a {genotype.space} genotype")
    svg = "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_number(width)}" height="{_number(height)}" '
            f'viewBox="0 0 {_number(width)} {_number(height)}" role="img" '
            'font-family="DejaVu Sans, Verdana, Helvetica, Arial, sans-serif">',
            f"<title>{name}</title>",
            '<rect width="100%" height="100%" fill="#ffffff"/>',
            *body,
            "</svg>",
            "",
        ]
    )
    if path is not None:
        atomic_write(path, svg)
    return svg


def _cell(nodes: Sequence[Node], num_inputs: int, layout: CellLayout) -> list[str]:
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
            path = f"{_bend(start.right, start.middle, gap, box.middle)} H {_number(box.left)}"
            curves.append(f'<path d="{path}" fill="none" stroke="{line}" stroke-width="1.8"{dash}/>')
            path = _bend(box.right, box.middle, circle.left, circle.middle)
            curves.append(f'<path d="{path}" fill="none" stroke="{line}" stroke-width="1.8"{dash}/>')
            curves.append(_arrow(box.left, box.middle, line))
            shapes.append(_rectangle(box, fill, line, radius=6))
            shapes.append(_text(box.left + box.width / 2, box.middle, operation, css="operation"))
        if index in layout.outputs:
            path = f"M {_number(circle.right)} {_number(circle.middle)} H {_number(layout.output.left)}"
            curves.append(f'<path d="{path}" fill="none" stroke="#555555" stroke-width="1.8"/>')
            curves.append(_arrow(layout.output.left, circle.middle, "#555555"))
        centre = _number(circle.left + _NODE_RADIUS), _number(circle.middle)
        shapes.append(f'<circle cx="{centre[0]}" cy="{centre[1]}" r="{_NODE_RADIUS}" fill="#333333"/>')
        shapes.append(
            _text(circle.left + _NODE_RADIUS, circle.middle, str(index), weight="bold", fill="#ffffff", css="node")
        )
    return curves + shapes + _output(layout)


def _input(index: int, num_inputs: int, box: Box) -> list[str]:
    back = num_inputs - index
    name = f'c<tspan dy="3" font-size="9">k-{back}</tspan>'
    centre = box.left + box.width / 2
    return [
        _rectangle(box, "#ffffff", "#333333", radius=6),
        _text(centre, box.middle - 9, str(index), weight="bold", css="node"),
        _text(centre, box.middle + 9, name, size=13, markup=True),
    ]


def _output(layout: CellLayout) -> list[str]:
    box = layout.output
    centre = box.left + box.width / 2
    shapes = [_rectangle(box, "#ffffff", "#333333", radius=6)]
    if len(layout.outputs) > 1:
        shapes.append(_text(centre, box.middle - 10, "concat"))
        shapes.append(_text(centre, box.middle + 9, 'c<tspan dy="3" font-size="9">k</tspan>', size=13, markup=True))
    else:
        shapes.append(_text(centre, box.middle, 'c<tspan dy="3" font-size="9">k</tspan>', size=13, markup=True))
    return shapes


def _legend_step(family: str) -> int:
    return round(_CHARACTER * len(family)) + 46


def _legend(families: Sequence[str], top: float) -> list[str]:
    shapes, left = [], float(_MARGIN)
    for family in families:
        fill, line = FAMILIES[family]
        shapes.append(_rectangle(Box(left, top, 18, 14), fill, line, radius=3))
        shapes.append(_text(left + 26, top + 7, family, fill="#333333", anchor="start", css="family"))
        left += _legend_step(family)
    return shapes


def _bend(x0: float, y0: float, x1: float, y1: float) -> str:
    """Return the path of a smooth curve that leaves and arrives horizontally."""
    half = _number((x0 + x1) / 2)
    return f"M {_number(x0)} {_number(y0)} C {half} {_number(y0)} {half} {_number(y1)} {_number(x1)} {_number(y1)}"


def _arrow(x: float, y: float, fill: str) -> str:
    """Draw a small arrow head whose tip is at (x, y)."""
    back = _number(x - 7)
    points = f"{_number(x)},{_number(y)} {back},{_number(y - 4)} {back},{_number(y + 4)}"
    return f'<polygon points="{points}" fill="{fill}"/>'


def _rectangle(box: Box, fill: str, line: str, *, radius: int) -> str:
    return (
        f'<rect x="{_number(box.left)}" y="{_number(box.top)}" width="{_number(box.width)}" '
        f'height="{_number(box.height)}" rx="{radius}" fill="{fill}" stroke="{line}" stroke-width="1.5"/>'
    )


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 12,
    weight: str = "normal",
    anchor: str = "middle",
    fill: str = "#111111",
    css: str = "",
    markup: bool = False,
) -> str:
    """Draw text whose vertical middle is at ``y``; ``markup`` is put in as it is."""
    kind = f' class="{css}"' if css else ""
    baseline = _number(y + 0.35 * size)
    content = text if markup else escape(text)
    return (
        f'<text x="{_number(x)}" y="{baseline}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" '
        f'fill="{fill}"{kind}>{content}</text>'
    )


def _number(value: float) -> str:
    """Write at most one decimal, so that rounding cannot make two pictures differ."""
    return f"{value:.1f}".removesuffix(".0")
