"""Continuous relaxations: from architecture parameters to the weight of every operation, and back to a cell.

Edges of a cell are numbered target by target, ``(0, n), (1, n), ..., (0, n+1), ...`` with ``n`` inputs, so that a cell
has one table ``alpha`` of shape (edges, operations). A relaxation answers three questions: which parameters there are,
what each operation weighs in the mixture, and which connections the parameters stand for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch

from nni_plugins.tools.checked import Checked, setting
from search_spaces.cell_graph import CellGraph
from search_spaces.operation_names import NO_OPERATION

INITIAL_SCALE = 1e-3
"""Standard deviation of the initial architecture parameters [DARTS, released code]."""

LOWEST_TEMPERATURE = 1e-6
"""Where a decaying temperature stops: colder, and the logits would overflow."""


class Derived(NamedTuple):
    """One connection that the architecture parameters stand for: operation number ``operation`` on input ``source``."""

    operation: int
    source: int


@runtime_checkable
class Relaxation(Protocol):
    """How architecture parameters become mixture weights and connections."""

    learns_topology: ClassVar[bool]
    """Whether it decides how many connections a node keeps; otherwise the cell says how many."""

    def temperature(self, epoch: int) -> float:
        """Return what divides ``alpha`` in ``epoch`` (from 0) before :meth:`weights` and :meth:`derive` see it."""

    def init(self, graph: CellGraph) -> dict[str, torch.Tensor]:
        """Return the initial architecture parameters by name."""

    def weights(
        self, parameters: Mapping[str, torch.Tensor], graph: CellGraph
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the weights of operations, (edges, operations), and of edges, (edges,) or None where all are 1.

        The first already contains the second.
        """

    def derive(self, parameters: Mapping[str, torch.Tensor], graph: CellGraph) -> dict[int, list[Derived]]:
        """Return the connections of every intermediate node, the strongest first."""


@dataclass(frozen=True)
class Tempered(Checked):
    """A softmax with a temperature: ``p[e, k] = exp(alpha[e, k] / tau) / sum_l exp(alpha[e, l] / tau)``.

    Parameters
    ----------
    tau
        Temperature of the first epoch; 1 is the plain softmax.
    tau_decay
        Factor on the temperature after every epoch, above 0 and at most 1; 1 keeps it.

    Raises
    ------
    ValueError
        If the temperature or its decay is out of range.
    """

    tau: float = setting(1.0, above=0)
    tau_decay: float = setting(1.0, above=0, at_most=1)

    learns_topology: ClassVar[bool] = False

    def temperature(self, epoch: int) -> float:
        """Return ``tau * tau_decay ** epoch``, never below the lower of :data:`LOWEST_TEMPERATURE` and ``tau``."""
        return max(self.tau * self.tau_decay**epoch, min(self.tau, LOWEST_TEMPERATURE))


@dataclass(frozen=True)
class Softmax(Tempered):
    """Softmax over the operations of each edge [DARTS eq. 2; BNAS-D].

    ``p[e, k] = exp(alpha[e, k]) / sum_l exp(alpha[e, l])``; a node is the sum of its edges. ``none`` takes its share
    of the softmax.

    Parameters
    ----------
    tau, tau_decay
        As in :class:`Tempered`.
    """

    def init(self, graph: CellGraph) -> dict[str, torch.Tensor]:
        return {"alpha": initial_alpha(graph)}

    def weights(
        self, parameters: Mapping[str, torch.Tensor], graph: CellGraph
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return parameters["alpha"].softmax(-1), None

    def derive(self, parameters: Mapping[str, torch.Tensor], graph: CellGraph) -> dict[int, list[Derived]]:
        return strongest_connections(self.weights(parameters, graph)[0], graph)


@dataclass(frozen=True)
class EdgeNormalisation(Tempered):
    """Softmax over operations, times a softmax over the edges into each node [PC-DARTS eq. 3; BNAS-v2-PC].

    ``w[i, j, k] = softmax_i(beta[., j])[i] * softmax_k(alpha[i, j, .])[k]`` for the edge from i to j.

    Parameters
    ----------
    tau, tau_decay
        Of the softmax over operations; as in :class:`Tempered`.
    """

    def init(self, graph: CellGraph) -> dict[str, torch.Tensor]:
        return {"alpha": initial_alpha(graph), "beta": INITIAL_SCALE * torch.randn(len(graph.edges))}

    def weights(
        self, parameters: Mapping[str, torch.Tensor], graph: CellGraph
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        beta = parameters["beta"]
        edges = torch.cat([beta[graph.rows(target)].softmax(0) for target in graph.targets])
        return parameters["alpha"].softmax(-1) * edges.unsqueeze(1), edges

    def derive(self, parameters: Mapping[str, torch.Tensor], graph: CellGraph) -> dict[int, list[Derived]]:
        return strongest_connections(self.weights(parameters, graph)[0], graph)


def initial_alpha(graph: CellGraph) -> torch.Tensor:
    """Return small random logits, (edges, operations)."""
    return INITIAL_SCALE * torch.randn(len(graph.edges), len(graph.operations))


def strongest_connections(weights: torch.Tensor, graph: CellGraph) -> dict[int, list[Derived]]:
    """Return the connections that a cell with a given number of them keeps, by the weights of its operations.

    Parameters
    ----------
    weights
        Weight of every operation on every edge, (edges, operations).
    graph
        The cell's graph.
    """
    if graph.connections == "every input":
        return strongest_operations(weights, graph)
    return strongest_inputs(weights, graph)


def strongest_operations(weights: torch.Tensor, graph: CellGraph) -> dict[int, list[Derived]]:
    """Return the strongest operation of every edge, ``none`` included, ties going to the first [NAS-Bench-201]."""
    chosen = iter(row.index(max(row)) for row in weights.detach().cpu().tolist())
    return {target: [Derived(next(chosen), source) for source in range(target)] for target in graph.targets}


def strongest_inputs(weights: torch.Tensor, graph: CellGraph) -> dict[int, list[Derived]]:
    """Return the strongest edges of every node, each with its strongest operation but never ``none`` [DARTS].

    Ties go to the lower index. Where a node has fewer predecessors than connections to keep, the next
    strongest operations follow (as NNI's DARTS does).

    Parameters
    ----------
    weights
        Weight of every operation on every edge, (edges, operations).
    graph
        The cell's graph.
    """
    assert isinstance(graph.connections, int), "the builder lets no other cell come here"
    table = weights.detach().cpu()
    allowed = [k for k, name in enumerate(graph.operations) if name != NO_OPERATION]
    derived = {}
    for target in graph.targets:
        rows = table[graph.rows(target)].tolist()
        ranked = sorted(
            (Derived(k, source) for source in range(target) for k in allowed),
            key=lambda d: -rows[d.source][d.operation],
        )
        best_per_source = list({d.source: d for d in reversed(ranked)}.values())[::-1]
        first = [d for d in ranked if d in best_per_source]
        rest = [d for d in ranked if d not in best_per_source]
        derived[target] = (first + rest)[: graph.connections]
    return derived
