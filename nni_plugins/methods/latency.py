"""A penalty on latency, the same for searches by gradient and for comparisons of single architectures.

    loss + weight * max(0, latency / target - 1)

For a search by gradient the latency is the expected one of the architecture parameters,

    fixed + sum over edges e and operations k of  n[e, k] * t[e, k]

with ``t`` from a :class:`~nni_plugins.report.latency_table.LatencyTable` and ``n`` how often the derived cell is
expected to have operation k on edge e: see :func:`expected_connections`.

NNI's ``ProfilerPenalty`` does the arithmetic (scale, baseline, nonlinearity). Its ``ExpectationProfilerPenalty`` does
not carry: it takes an independent distribution for every label of a sample, but what a cell derives, operations and
inputs of its nodes, follows jointly from one weight for every edge and operation.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from nni.mutable import Sample
from nni.nas.oneshot.pytorch.profiler import ProfilerPenalty
from nni.nas.profiler import Profiler
from torch import Tensor

from nni_plugins.report.latency_table import LatencyTable
from nni_plugins.supernet.architecture import Architecture, CellArchitecture
from search_spaces.cell_graph import CellGraph
from search_spaces.genotype import Genotype
from search_spaces.operation_names import NO_OPERATION
from search_spaces.registry import space_spec


class LatencyProfiler(Profiler):
    """A latency table as NNI's profiler, for NNI's own filters and penalties too.

    Parameters
    ----------
    table
        The table.
    """

    def __init__(self, table: LatencyTable) -> None:
        self.table = table

    def profile(self, sample: Sample) -> float:
        """Return the predicted latency of an NNI sample, in milliseconds."""
        return self.table.predict(Genotype.from_sample(sample, self.table.space))


class LatencyPenalty(ProfilerPenalty):
    """NNI's penalty, of a sample or of architecture parameters.

    Parameters
    ----------
    table
        The table.
    weight
        What a latency of twice the target adds to the loss, in nats.
    target
        Milliseconds above which latency costs; None to let all of it cost, relative to :attr:`LatencyTable.typical_ms`.
    """

    profiler: LatencyProfiler

    def __init__(self, table: LatencyTable, weight: float, target: float | None = None) -> None:
        super().__init__(
            LatencyProfiler(table),
            baseline=table.typical_ms() if target is None else target,
            scale=weight,
            nonlinear="linear" if target is None else "positive",
        )

    def profile(self, sample: Sample) -> float:
        """Return the predicted latency of an NNI sample, in milliseconds."""
        return self.profiler.profile(sample)

    def of(self, latency: Any) -> Any:
        """Return what is added to a loss at ``latency``, a number or a tensor in milliseconds."""
        return self.scale * self.nonlinear_fn(latency / self.baseline - 1)

    def expected(self, architectures: Iterable[Architecture]) -> Tensor:
        """Return the expected latency of architecture parameters in milliseconds, differentiable.

        Raises
        ------
        ValueError
            If they are not those of cells alone.
        """
        latency: Any = self.profiler.table.fixed_ms
        for architecture in architectures:
            if not isinstance(architecture, CellArchitecture):
                raise ValueError(
                    f"A latency table is of the operations of cells, but {architecture.label} is a choice outside of "
                    "them; leave latency_weight out, or take a space of cells."
                )
            edges = edge_costs(self.profiler.table, architecture.label, architecture.graph)
            latency = (
                latency + (expected_connections(architecture, edges) * edges.costs.to(architecture.temperature)).sum()
            )
        return latency


class EdgeCosts(NamedTuple):
    """What connections add to the latency of a network, and which of them a cell can have; (edges, operations)."""

    costs: Tensor
    """Milliseconds, summed over all cells of the kind."""
    derivable: Tensor
    """Whether a derived cell can have the connection."""


def edge_costs(table: LatencyTable, kind: str, graph: CellGraph) -> EdgeCosts:
    """Return the costs of the edges of a kind of cell, in the order of alpha.

    Parameters
    ----------
    table, kind
        The table, and the kind of cell there.
    graph
        The graph that is searched; its operations may be fewer than the space's own.
    """
    own = space_spec(table.space).layout[kind]
    names = [own.operations_on(*edge) if own.edge_operations else graph.operations for edge in graph.edges]
    costs = [[table.cost(kind, name, edge[0]) for name in row] for row, edge in zip(names, graph.edges, strict=True)]
    derivable = [[own.connections == "every input" or name != NO_OPERATION for name in row] for row in names]
    return EdgeCosts(torch.tensor(costs), torch.tensor(derivable))


def expected_connections(architecture: CellArchitecture, edges: EdgeCosts) -> Tensor:
    """Return how often the derived cell is expected to have every connection, (edges, operations), differentiable.

    Not stated in any paper here; we take the mixture weights for probabilities:

    - a node that keeps a given number of connections draws each of them from its edges, by their weights where a
      relaxation has such and evenly otherwise, and the operation by its weight among those that can be derived (never
      ``none``, so that a search does not become fast on paper by the weight of ``none``);
    - where every edge stays, or the relaxation decides which do, the weights themselves.
    """
    weights, of_edges = architecture.weights()
    graph = architecture.graph
    if not isinstance(graph.connections, int):
        return weights
    kept = weights * edges.derivable.to(weights)
    by_operation = kept / kept.sum(-1, keepdim=True)
    if of_edges is None:
        of_edges = torch.cat([weights.new_full((target,), 1 / target) for target in graph.targets])
    return graph.connections * of_edges.unsqueeze(1) * by_operation
