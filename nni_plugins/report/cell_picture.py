"""Cells as pictures: an SVG drawn from a genotype, the same bytes for the same genotype."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from nni_plugins.report.graph_picture import draw_graph, layout_cell
from nni_plugins.report.matrix_picture import draw_matrix
from nni_plugins.report.operation_family import FAMILIES, in_order, operation_family
from nni_plugins.report.svg import CHARACTER, Box, number, rectangle, text
from nni_plugins.tools.atomic_files import atomic_write

if TYPE_CHECKING:
    from search_spaces import Genotype

LARGEST_GRAPH = 24
"""Connections of a cell above which its genotype is drawn as matrices instead of graphs."""

_MARGIN = 20
_TITLE_HEIGHT = 34
_LEGEND_HEIGHT = 34


def draw_cells(genotype: Genotype, path: str | Path | None = None, title: str | None = None) -> str:
    """Draw all cells of a genotype, one below the other: as graphs, or as matrices if one has too many connections.

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
    operations = in_order(name for nodes in genotype.cells.values() for node in nodes for name, _ in node)
    present = {operation_family(name) for name in operations}
    families = [family for family in FAMILIES if family in present]
    drawings = _drawings(genotype, operations)
    width = 2 * _MARGIN + max([sum(map(_legend_step, families)), *(cell_width for cell_width, _, _ in drawings)])

    body, top = [], float(_MARGIN)
    if title is not None:
        body.append(text(_MARGIN, top + 14, title, size=17, weight="bold", anchor="start"))
        top += _TITLE_HEIGHT
    for kind, (_, cell_height, shapes) in zip(genotype.cells, drawings, strict=True):
        heading = kind if kind.endswith("cell") else f"{kind} cell"
        body.append(text(_MARGIN, top + 11, heading, size=14, weight="bold", anchor="start"))
        top += _TITLE_HEIGHT
        body += [f'<g transform="translate({number(_MARGIN)} {number(top)})">', *shapes, "</g>"]
        top += cell_height + _TITLE_HEIGHT
    body += _legend(families, top)
    height = top + _LEGEND_HEIGHT

    name = escape(title if title is not None else f"Cells of a {genotype.space} genotype")
    svg = "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{number(width)}" height="{number(height)}" '
            f'viewBox="0 0 {number(width)} {number(height)}" role="img" '
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


def _drawings(genotype: Genotype, operations: Sequence[str]) -> list[tuple[float, float, list[str]]]:
    """Return width, height and SVG elements of every cell; cells of one genotype are drawn alike."""
    cells, num_inputs = genotype.cells.values(), genotype.num_inputs
    if max((sum(map(len, nodes)) for nodes in cells), default=0) > LARGEST_GRAPH:
        return [draw_matrix(nodes, num_inputs, operations) for nodes in cells]
    concatenate = genotype.space != "nasbench201"
    layouts = [layout_cell(nodes, num_inputs, concatenate=concatenate) for nodes in cells]
    return [
        (layout.width, layout.height, draw_graph(nodes, num_inputs, layout))
        for nodes, layout in zip(cells, layouts, strict=True)
    ]


def _legend_step(family: str) -> int:
    return round(CHARACTER * len(family)) + 46


def _legend(families: Sequence[str], top: float) -> list[str]:
    shapes, left = [], float(_MARGIN)
    for family in families:
        fill, line = FAMILIES[family]
        shapes.append(rectangle(Box(left, top, 18, 14), fill, line, radius=3))
        shapes.append(text(left + 26, top + 7, family, fill="#333333", anchor="start", css="family"))
        left += _legend_step(family)
    return shapes
