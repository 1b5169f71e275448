"""A cell as a matrix: every connection is a filled square in its row and column, and nothing else is."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any
from xml.etree import ElementTree

import pytest

from nni_plugins.report.matrix_picture import draw_matrix
from nni_plugins.report.operation_family import in_order
from nni_plugins.report.svg import Box
from search_spaces import space_spec
from tests.nni_plugins.report.genotypes import cell

FREE = space_spec("darts_any").layout["normal"]
CELLS: dict[str, Any] = {
    "some": cell("sep_conv_3x3,0 skip_connect,0 skip_connect,1 / avg_pool_3x3,2 / skip_connect,1 dil_conv_3x3,3"),
    "everything": tuple(
        tuple((name, source) for source in range(target) for name in FREE.operations) for target in FREE.targets
    ),
    "long names": cell("an_operation_of_ones_own_with_a_long_name,0 conv_3x3,1"),
}
every_cell = pytest.mark.parametrize("nodes", CELLS.values(), ids=CELLS)


class Drawn:
    """The elements of one drawn cell."""

    def __init__(self, nodes: Any) -> None:
        self.width, self.height, shapes = draw_matrix(nodes, 2, in_order(name for node in nodes for name, _ in node))
        self.root = ElementTree.fromstring(f"<g>{''.join(shapes)}</g>")

    def texts(self, css: str) -> list[tuple[str, float, float]]:
        """Content, x and y of every text of a class."""
        found = [each for each in self.root.iter("text") if each.get("class") == css]
        return [(str(each.text), float(each.attrib["x"]), float(each.attrib["y"])) for each in found]

    def squares(self, *, kept: bool = False) -> list[Box]:
        found = [each for each in self.root.iter("rect") if not kept or each.get("class") == "kept"]
        return [Box(*(float(each.attrib[name]) for name in ("x", "y", "width", "height"))) for each in found]

    def groups(self) -> list[tuple[float, float]]:
        """Left and right end of the line above the columns of every node."""
        lines = [each.attrib["d"].split() for each in self.root.iter("path")]
        return [(float(line[1]), float(line[-1])) for line in lines]


@every_cell
def test_filled_squares_are_the_connections(nodes: Any) -> None:
    drawn = Drawn(nodes)
    found: list[tuple[int, str, int]] = []
    for box in drawn.squares(kept=True):
        x = box.left + box.width / 2
        name = next(name for name, _, y in drawn.texts("operation") if box.top < y < box.top + box.height)
        source = next(int(name) for name, at, _ in drawn.texts("source") if at == pytest.approx(x))
        target = next(at for at, (left, right) in enumerate(drawn.groups()) if left < x < right)
        found.append((target, name, source))
    assert Counter(found) == Counter((at, name, source) for at, node in enumerate(nodes) for name, source in node)


@every_cell
def test_nodes_and_totals(nodes: Any) -> None:
    drawn = Drawn(nodes)
    circles = [each.attrib for each in drawn.root.iter("circle")]
    assert [name for name, _, _ in drawn.texts("node")] == [str(2 + at) for at in range(len(nodes))]
    assert [float(each["cx"]) for each in circles] == pytest.approx([sum(ends) / 2 for ends in drawn.groups()])
    totals = Counter(name for node in nodes for name, _ in node)
    names = [name for name, _, _ in drawn.texts("operation")]
    assert [int(total) for total, _, _ in drawn.texts("total")] == [totals[name] for name in names]


@every_cell
def test_nothing_overlaps_and_all_is_inside(nodes: Any) -> None:
    drawn = Drawn(nodes)
    for one, other in itertools.combinations(drawn.squares(), 2):
        assert one.right < other.left or other.right < one.left or abs(one.top - other.top) > one.height
    for box in drawn.squares():
        assert 7 * max(map(len, ("into node", *(name for name, _, _ in drawn.texts("operation"))))) < box.left
        assert box.right < drawn.width and box.top + box.height <= drawn.height


def test_the_largest_cell_of_darts_fits_on_a_screen() -> None:
    drawn = Drawn(CELLS["everything"])
    assert drawn.width < 600 and drawn.height < 300


def test_a_connection_that_is_there_twice_says_so() -> None:
    drawn = Drawn(cell("conv_3x3,0 conv_3x3,0 conv_3x3,1"))
    assert len(drawn.squares(kept=True)) == 2
    assert [each.text for each in drawn.root.iter("text")].count("2") == 2  # the square's, and the node's number
