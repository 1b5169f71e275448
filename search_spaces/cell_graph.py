"""The graph of one kind of cell: its nodes, the edges between them, and what an edge and a node may hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Edge = tuple[int, int]
"""Source and target node of an edge."""


@dataclass(frozen=True)
class CellGraph:
    """Input nodes, then intermediate nodes that each take edges from every earlier node.

    Parameters
    ----------
    operations
        Candidate operations, in the order of alpha's columns; where they differ from edge to edge, all that occur.
    num_inputs, num_nodes
        Input nodes and intermediate nodes.
    connections
        What a node keeps: a fixed number of connections, one from ``"every input"``, or ``"any"`` number, at least one.
    edge_operations
        The candidates of every edge, in the order of :attr:`edges`, where they differ from edge to edge; else empty.

    Raises
    ------
    ValueError
        If ``edge_operations`` does not list equally many candidates for each edge.
    """

    operations: tuple[str, ...]
    num_inputs: int = 2
    num_nodes: int = 4
    connections: int | Literal["every input", "any"] = 2
    edge_operations: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        lengths = {len(names) for names in self.edge_operations}
        if self.edge_operations and (len(self.edge_operations) != len(self.edges) or len(lengths) > 1):
            raise ValueError(
                f"edge_operations lists {sorted(lengths)} candidates for {len(self.edge_operations)} edges; expected "
                f"equally many candidates for each of the {len(self.edges)} edges."
            )

    @property
    def targets(self) -> range:
        """Indices of the intermediate nodes."""
        return range(self.num_inputs, self.num_inputs + self.num_nodes)

    @property
    def edges(self) -> list[Edge]:
        """Every edge as (source, target), in the order of alpha's rows."""
        return [(source, target) for target in self.targets for source in range(target)]

    def rows(self, target: int) -> slice:
        """Return the rows of alpha that belong to the edges into ``target``."""
        first = sum(range(self.num_inputs, target))
        return slice(first, first + target)

    def operations_on(self, source: int, target: int) -> tuple[str, ...]:
        """Return the candidates on the edge from ``source`` to ``target``."""
        return self.edge_operations[self.rows(target).start + source] if self.edge_operations else self.operations

    def check_connections(self, where: str, target: int, sources: list[int]) -> None:
        """Refuse a number of connections that node ``target`` cannot keep; ``where`` names the node in the message.

        Raises
        ------
        ValueError
            With the number that was expected and the one that was given.
        """
        if self.connections == "any":
            if not sources:
                raise ValueError(f"{where} needs at least one connection; this one has none.")
        elif self.connections == "every input":
            if sorted(sources) != list(range(target)):
                raise ValueError(f"{where} has one connection from each earlier node; this one has {sources}.")
        elif len(sources) != self.connections:
            raise ValueError(f"{where} has {self.connections} connections; this one has {len(sources)}.")


Layout = Mapping[str, CellGraph]
"""The cells of a search space: each kind and its graph, in the order in which they are searched and drawn."""
