"""What a cell of each search space may hold; the genotype is validated against it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Literal

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

Edge = tuple[int, int]
"""Source and target node of an edge."""


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
    edge_operations
        For each kind of cell the candidates of every edge, where they differ from edge to edge. In NNI's sample such an
        operation is its number on its edge ("0", "1"), since NNI chooses operation and input independently.
    """

    cells: tuple[str, ...]
    operations: tuple[str, ...]
    num_inputs: int = 2
    num_nodes: int = 4
    connections: int | Literal["every input", "any"] = 2
    edge_operations: Mapping[str, Mapping[Edge, tuple[str, ...]]] = field(default_factory=lambda: MappingProxyType({}))

    def operations_on(self, kind: str, source: int, target: int) -> tuple[str, ...]:
        """Candidates on the edge from ``source`` to ``target`` in cells of ``kind``."""
        return self.edge_operations[kind][source, target] if kind in self.edge_operations else self.operations

    def to_candidate(self, kind: str, source: int, target: int, operation: str) -> str:
        """How NNI's sample calls ``operation`` on an edge."""
        if kind not in self.edge_operations:
            return operation
        return str(self.edge_operations[kind][source, target].index(operation))

    def from_candidate(self, kind: str, source: int, target: int, candidate: str) -> str:
        """The operation that NNI's sample calls ``candidate`` on an edge; one that it does not have stays as it is."""
        if kind not in self.edge_operations:
            return candidate
        numbered = dict(enumerate(self.edge_operations[kind].get((source, target), ())))
        return {str(number): operation for number, operation in numbered.items()}.get(candidate, candidate)

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


def _robust_darts_layouts() -> dict[str, Layout]:
    """S1 to S4: the DARTS cell with the candidates of ``s1_s4.json``."""
    lists: dict[str, Any] = json.loads(files(__package__).joinpath("s1_s4.json").read_text())
    kinds = ("normal", "reduce")
    edges = [(source, target) for target in range(2, 6) for source in range(target)]
    per_edge = {kind: MappingProxyType(dict(zip(edges, map(tuple, lists["s1"][kind]), strict=True))) for kind in kinds}
    found = {name for table in per_edge.values() for names in table.values() for name in names}
    s1 = Layout(
        kinds, tuple(name for name in DARTS_OPERATIONS if name in found), edge_operations=MappingProxyType(per_edge)
    )
    return {"s1": s1} | {name: Layout(kinds, tuple(lists[name])) for name in ("s2", "s3", "s4")}


LAYOUTS: dict[str, Layout] = {
    "bcnn": Layout(("convolution", "enhancement"), DARTS_OPERATIONS),
    "darts": Layout(("normal", "reduce"), DARTS_OPERATIONS),
    "darts_any": Layout(("normal", "reduce"), DARTS_OPERATIONS[1:], connections="any"),
    "nasbench201": Layout(
        ("cell",),
        ("none", "skip_connect", "conv_1x1", "conv_3x3", "avg_pool_3x3"),
        num_inputs=1,
        num_nodes=3,
        connections="every input",
    ),
    **_robust_darts_layouts(),
}
"""Every search space by name."""

PARAMETER_FREE = frozenset({"none", "skip_connect", "max_pool_3x3", "avg_pool_3x3", "noise"})
"""Operations without convolutions; a cell full of them is a sign of collapse."""
