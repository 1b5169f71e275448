"""The mixed cell: every edge of the cell graph carries the weighted sum of all candidate operations.

    x_j = sum over sources i < j, operations k of  w[i, j, k] * o_k(x_i)

The cell is computed source by source: what depends on the source alone (rectified input, pooling, identity) is made
once and used on every edge that leaves it; sums run in place; ``none`` costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from nni.nas.nn.pytorch.cell import preprocess_cell_inputs
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from torch import nn

from .architecture import CellArchitecture
from .channels import Channels, bypass_of
from .operation import WeightedOperation
from .relaxation import NO_OPERATION

_OperationTerm = tuple[int, str, "torch.Tensor | None"]
_EdgeTerm = tuple[int, "torch.Tensor | None"]

OperationFactory = Callable[[int, int], nn.Module]
"""From (target node, source node) to a candidate operation."""


class MixedCell(BaseSuperNetModule):
    """A cell of the supernet.

    Parameters
    ----------
    architecture
        Parameters shared by all cells of this kind.
    factories
        For each candidate name a factory of operations, built at the number of mixed channels.
    preprocessor, postprocessor
        As in NNI's ``Cell``.
    channels
        Which channels are mixed.
    concat_dim
        Dimension along which the intermediate nodes are concatenated.
    """

    def __init__(
        self,
        architecture: CellArchitecture,
        factories: dict[str, OperationFactory],
        preprocessor: Callable[[list[torch.Tensor]], list[torch.Tensor]],
        postprocessor: Callable[[torch.Tensor, list[torch.Tensor]], Any],
        channels: Channels,
        concat_dim: int = 1,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.preprocessor = preprocessor
        self.postprocessor = postprocessor
        self.channels = channels
        self.concat_dim = concat_dim
        self.derived_only = False
        self.operations = nn.ModuleDict()
        self._key: dict[tuple[int, int, int], str] = {}
        for source, target in architecture.topology.edges:
            for k, (name, factory) in enumerate(factories.items()):
                if name != NO_OPERATION:
                    self._key[source, target, k] = self._add(source, target, name, factory)

    def _add(self, source: int, target: int, name: str, factory: OperationFactory) -> str:
        """Register an operation: one per source if it has no parameters, else one per edge."""
        shared_key, edge_key = f"{source}_{name}", f"{source}_{target}_{name}"
        if shared_key in self.operations:
            return shared_key
        operation = WeightedOperation(factory(target, source))
        key = edge_key if operation.has_parameters else shared_key
        self.operations[key] = operation
        return key

    @property
    def label(self) -> str:
        """NNI's label: the kind of cell."""
        return self.architecture.label

    def forward(self, *inputs: Any) -> Any:
        """Mix, or run the derived connections alone if :attr:`derived_only` is set; arguments as NNI's ``Cell``."""
        topology = self.architecture.topology
        raw = preprocess_cell_inputs(topology.num_inputs, *inputs)
        nodes: dict[int, torch.Tensor] = dict(enumerate(self.preprocessor(raw)))
        operation_terms, edge_terms = self._derived_terms() if self.derived_only else self._mixed_terms(nodes[0])
        sums = {target: _Sum() for target in topology.targets}
        bypasses = {target: _Sum() for target in topology.targets}
        for source in range(topology.targets.stop):
            if source in topology.targets:
                nodes[source] = self.channels.join(sums.pop(source).value, bypasses.pop(source).value)
            mixed, bypass = self.channels.split(nodes[source])
            features = _SourceFeatures(mixed, self.operations)
            for target, key, weight in operation_terms.get(source, ()):
                sums[target].add(features.weighted(key, weight), owned=weight is not None)
            if bypass is not None:
                for target, weight in edge_terms.get(source, ()):
                    halved = sums[target].value.shape[-1] < mixed.shape[-1]
                    passed = bypass_of(bypass, halved)
                    bypasses[target].add(passed if weight is None else passed * weight, owned=weight is not None)
        return self.postprocessor(torch.cat([nodes[n] for n in topology.targets], self.concat_dim), raw)

    def _mixed_terms(self, node: torch.Tensor) -> tuple[dict[int, list[_OperationTerm]], dict[int, list[_EdgeTerm]]]:
        """Every operation and every edge with its weight, by source."""
        operation_weights, edge_weights = self.architecture.weights()
        channels = node.shape[1] // self.channels.fraction
        edges, candidates = operation_weights.shape
        per_channel = operation_weights.unsqueeze(-1).expand(-1, -1, channels).reshape(-1, channels).unbind(0)
        rows = {edge: row for row, edge in enumerate(self.architecture.topology.edges)}
        operation_terms: dict[int, list[_OperationTerm]] = {}
        for (source, target, k), key in self._key.items():
            weight = per_channel[rows[source, target] * candidates + k]
            operation_terms.setdefault(source, []).append((target, key, weight))
        edge_terms: dict[int, list[_EdgeTerm]] = {}
        if self.channels.fraction > 1:
            by_edge = [None] * edges if edge_weights is None else edge_weights.unbind(0)
            for (source, target), row in rows.items():
                edge_terms.setdefault(source, []).append((target, by_edge[row]))
        return operation_terms, edge_terms

    def _derived_terms(self) -> tuple[dict[int, list[_OperationTerm]], dict[int, list[_EdgeTerm]]]:
        """The derived connections alone, unweighted, by source."""
        operation_terms: dict[int, list[_OperationTerm]] = {}
        edge_terms: dict[int, list[_EdgeTerm]] = {}
        for target, connections in self.architecture.derive().items():
            for k, source in connections:
                operation_terms.setdefault(source, []).append((target, self._key[source, target, k], None))
            for source in dict.fromkeys(source for _, source in connections):
                edge_terms.setdefault(source, []).append((target, None))
        return operation_terms, edge_terms

    def resample(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Nothing to sample: all candidates are mixed."""
        return {}

    def export(self, memo: dict[str, Any]) -> dict[str, Any]:
        """The derived cell as part of NNI's sample."""
        return {label: value for label, value in self.architecture.export().items() if label not in memo}

    def export_probs(self, memo: dict[str, Any]) -> dict[str, Any]:
        """The softmax of alpha by edge and operation."""
        topology = self.architecture.topology
        probabilities = self.architecture.probabilities().tolist()
        return {
            f"{self.label}/{target}_{source}": dict(zip(topology.operations, row, strict=True))
            for (source, target), row in zip(topology.edges, probabilities, strict=True)
        }


class _Sum:
    """A running sum that adds in place as soon as the tensor it holds is its own."""

    def __init__(self) -> None:
        self._value: torch.Tensor | None = None
        self._owned = False

    @property
    def value(self) -> Any:
        return self._value

    def add(self, term: torch.Tensor, *, owned: bool) -> None:
        """Add ``term``; ``owned`` says that no one else, autograd included, reads its memory again."""
        if self._value is None:
            self._value, self._owned = term, owned
        elif self._owned:
            self._value.add_(term)
        else:
            self._value, self._owned = self._value + term, True


class _SourceFeatures:
    """What the operations of one source share: its rectified features, and features without parameters."""

    def __init__(self, x: torch.Tensor, operations: nn.ModuleDict) -> None:
        self._x = x
        self._operations = operations
        self._rectified: torch.Tensor | None = None
        self._parameter_free: dict[str, torch.Tensor] = {}

    def weighted(self, key: str, weight: torch.Tensor | None) -> torch.Tensor:
        """``weight * operation(x)``; ``weight`` is (channels,) or None for 1."""
        operation = self._operations[key]
        if not operation.has_parameters:
            if key not in self._parameter_free:
                self._parameter_free[key] = operation(self._x)
            feature = self._parameter_free[key]
            return feature if weight is None else feature * weight.to(feature.dtype).view(-1, 1, 1)
        if not operation.rectified:
            return operation(self._x, weight)
        if self._rectified is None:
            self._rectified = self._x.relu()
        return operation(self._rectified, weight)
