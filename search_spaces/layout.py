"""What a cell of each search space may hold; the genotype is validated against it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DARTS_OPERATIONS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""The candidates of DARTS, in its order. ``none`` takes part in the relaxation and is never derived."""

NO_OPERATION = "none"


@dataclass(frozen=True)
class Layout:
    """The shape of a space's cells.

    Parameters
    ----------
    cells
        Kinds of cell, in the order in which they are searched and drawn.
    operations
        Candidate operations, in the order of the rows of alpha.
    num_inputs, num_nodes
        Inputs and intermediate nodes of every cell.
    connections
        Per node: a fixed number, ``"every input"`` (one operation from each earlier node) or ``"any"`` (at least one).
    """

    cells: tuple[str, ...]
    operations: tuple[str, ...]
    num_inputs: int = 2
    num_nodes: int = 4
    connections: int | Literal["every input", "any"] = 2

    def operations_on(self, kind: str, source: int, target: int) -> tuple[str, ...]:
        """Candidates on the edge from ``source`` to ``target`` in cells of ``kind``."""
        del kind, source, target
        return self.operations

    def check_connections(self, space: str, kind: str, index: int, sources: list[int]) -> None:
        """Refuse a node whose number of connections the space does not know.

        Raises
        ------
        ValueError
            With the number that was expected and the one that was given.
        """
        where = f"Node {index} of the {kind} cell of the {space} space"
        if self.connections == "any":
            if not sources:
                raise ValueError(f"{where} needs at least one connection; this one has none.")
        elif self.connections == "every input":
            if sorted(sources) != list(range(index)):
                raise ValueError(f"{where} has one connection from each earlier node; this one has {sources}.")
        elif len(sources) != self.connections:
            raise ValueError(f"{where} has {self.connections} connections; this one has {len(sources)}.")


LAYOUTS: dict[str, Layout] = {
    "bcnn": Layout(("convolution", "enhancement"), DARTS_OPERATIONS),
    "darts": Layout(("normal", "reduce"), DARTS_OPERATIONS),
    "nasbench201": Layout(
        ("cell",),
        ("none", "skip_connect", "conv_1x1", "conv_3x3", "avg_pool_3x3"),
        num_inputs=1,
        num_nodes=3,
        connections="every input",
    ),
}
"""Every search space by name."""
