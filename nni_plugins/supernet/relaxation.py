"""Continuous relaxations: from architecture parameters to the weight of every operation, and back to a cell.

Edges of a cell are numbered target by target, ``(0, n), (1, n), ..., (0, n+1), ...`` with ``n`` inputs, so that a cell
has one table ``alpha`` of shape (edges, operations). A relaxation answers three questions: which parameters there are,
what each operation weighs in the mixture, and which connections the parameters stand for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch

INITIAL_SCALE = 1e-3
"""Standard deviation of the initial architecture parameters [DARTS, released code]."""

NO_OPERATION = "none"


class Derived(NamedTuple):
    """One connection that the architecture parameters stand for: operation number ``operation`` on input ``source``."""

    operation: int
    source: int


@dataclass(frozen=True)
class Topology:
    """The graph of one kind of cell.

    Parameters
    ----------
    num_inputs, num_nodes
        Input nodes and intermediate nodes.
    operations
        Names of the candidates, in the order of alpha's columns.
    connections
        Connections that a node keeps.
    """

    num_inputs: int
    num_nodes: int
    operations: tuple[str, ...]
    connections: int

    @property
    def targets(self) -> range:
        """Indices of the intermediate nodes."""
        return range(self.num_inputs, self.num_inputs + self.num_nodes)

    @property
    def edges(self) -> list[tuple[int, int]]:
        """Every edge as (source, target), in the order of alpha's rows."""
        return [(source, target) for target in self.targets for source in range(target)]

    def rows(self, target: int) -> slice:
        """Rows of alpha that belong to the edges into ``target``."""
        first = sum(range(self.num_inputs, target))
        return slice(first, first + target)


class Relaxation(Protocol):
    """How architecture parameters become mixture weights and connections."""

    def init(self, topology: Topology) -> dict[str, torch.Tensor]:
        """Initial architecture parameters by name."""

    def weights(
        self, parameters: Mapping[str, torch.Tensor], topology: Topology
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight of every operation, (edges, operations), and of every edge, (edges,) or None where all are 1.

        The first already contains the second.
        """

    def derive(self, parameters: Mapping[str, torch.Tensor], topology: Topology) -> dict[int, list[Derived]]:
        """Connections of every intermediate node, the strongest first."""


@dataclass(frozen=True)
class Softmax:
    """Softmax over the operations of each edge [DARTS eq. 2; BNAS-D].

    ``p[e, k] = exp(alpha[e, k]) / sum_l exp(alpha[e, l])``; a node is the sum of its edges. ``none`` takes its share
    of the softmax.
    """

    def init(self, topology: Topology) -> dict[str, torch.Tensor]:
        return {"alpha": INITIAL_SCALE * torch.randn(len(topology.edges), len(topology.operations))}

    def weights(
        self, parameters: Mapping[str, torch.Tensor], topology: Topology
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return parameters["alpha"].softmax(-1), None

    def derive(self, parameters: Mapping[str, torch.Tensor], topology: Topology) -> dict[int, list[Derived]]:
        return strongest_inputs(self.weights(parameters, topology)[0], topology)


@dataclass(frozen=True)
class EdgeNormalisation:
    """Softmax over operations, times a softmax over the edges into each node [PC-DARTS eq. 3; BNAS-v2-PC].

    ``w[i, j, k] = softmax_i(beta[., j])[i] * softmax_k(alpha[i, j, .])[k]`` for the edge from i to j.
    """

    def init(self, topology: Topology) -> dict[str, torch.Tensor]:
        edges = len(topology.edges)
        return Softmax().init(topology) | {"beta": INITIAL_SCALE * torch.randn(edges)}

    def weights(
        self, parameters: Mapping[str, torch.Tensor], topology: Topology
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        beta = parameters["beta"]
        edges = torch.cat([beta[topology.rows(target)].softmax(0) for target in topology.targets])
        return parameters["alpha"].softmax(-1) * edges.unsqueeze(1), edges

    def derive(self, parameters: Mapping[str, torch.Tensor], topology: Topology) -> dict[int, list[Derived]]:
        return strongest_inputs(self.weights(parameters, topology)[0], topology)


def strongest_inputs(weights: torch.Tensor, topology: Topology) -> dict[int, list[Derived]]:
    """The DARTS rule: a node keeps its strongest edges, each with its strongest operation; never ``none``.

    Of equal weights the lower index wins. Where a node has fewer predecessors than connections to keep, the next
    strongest operations follow (as NNI's DARTS does).

    Parameters
    ----------
    weights
        Weight of every operation on every edge, (edges, operations).
    topology
        The cell's graph.
    """
    table = weights.detach().cpu()
    allowed = [k for k, name in enumerate(topology.operations) if name != NO_OPERATION]
    derived = {}
    for target in topology.targets:
        rows = table[topology.rows(target)].tolist()
        ranked = sorted(
            (Derived(k, source) for source in range(target) for k in allowed),
            key=lambda d: -rows[d.source][d.operation],
        )
        best_per_source = list({d.source: d for d in reversed(ranked)}.values())[::-1]
        first = [d for d in ranked if d in best_per_source]
        rest = [d for d in ranked if d not in best_per_source]
        derived[target] = (first + rest)[: topology.connections]
    return derived


RelaxationName = Literal["softmax", "edge_normalisation"]
