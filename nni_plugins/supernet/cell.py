"""The mixed cell: every edge of the cell graph carries the weighted sum of all candidate operations.

    x_j = sum over sources i < j, operations k of  w[i, j, k] * o_k(x_i)

The cell is computed source by source: what depends on the source alone (rectified input, pooling, identity, and all
features where they are shared) is made once and used on every edge that leaves it; sums run in place; ``none`` costs
nothing. Operations that differ only in their target can be computed as one. Where nothing is mixed, only the derived
connections are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from nni.nas.nn.pytorch.cell import preprocess_cell_inputs
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from torch import nn

from nni_plugins.supernet.architecture import CellArchitecture, Connections
from nni_plugins.supernet.channels import Channels, bypass_of
from nni_plugins.supernet.convolution import is_last
from nni_plugins.supernet.features import Features
from nni_plugins.supernet.merged import MergedUse, fastest_at_once, kind_of, merged_normalise, run_merged, side_by_side
from nni_plugins.supernet.operation import WeightedOperation, weighted_sums
from search_spaces.operation_names import NO_OPERATION

OperationFactory = Callable[[int, int], nn.Module]
"""From (target node, source node) to a candidate operation."""

_Edges = dict[int, list[tuple[int, "torch.Tensor | None"]]]
"""By source: the targets that it feeds, and the weights of these edges (None for 1)."""


class _Uses(NamedTuple):
    """Who uses the operations of one source; positions count through the flattened table of weights."""

    alone: list[tuple[str, int, int]]
    """Operations of one edge: key, target, position."""
    merged: list[MergedUse]
    """Operations of one edge each that are computed together."""
    shared: list[str]
    """Operations of several edges."""
    targets: list[int]
    """Targets of the shared operations."""
    positions: str
    """Name of the buffer with the position of every shared operation at every target, (targets, operations)."""

    def positions_alone(self) -> list[int]:
        """Return the positions of the operations of one edge, merged ones included."""
        merged = [position for use in self.merged for position in use.positions]
        return [position for *_, position in self.alone] + merged


class _Weights(NamedTuple):
    """The mixture weights in the forms in which the cell applies them."""

    flat: torch.Tensor
    """(edges * operations + 1,), the last one 0: the weight of an operation on an edge that does not have it."""
    per_channel: dict[int, torch.Tensor]
    """By position the weights of operations of one edge, repeated for every channel."""


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
    features
        What the edges that leave a node share.
    engine
        Whether the cell mixes. A Transit-cell, which does not, always runs the derived connections alone, and gives
        the architecture parameters no gradient [EnTranNAS].
    concat_dim
        Dimension along which the intermediate nodes are concatenated; None if the output is the last node.
    merge_edges
        Whether operations that leave one source and differ only in their target are computed as one; None for as many
        at once as is fastest here.
    """

    def __init__(
        self,
        architecture: CellArchitecture,
        factories: dict[str, OperationFactory],
        preprocessor: Callable[[list[torch.Tensor]], list[torch.Tensor]],
        postprocessor: Callable[[torch.Tensor, list[torch.Tensor]], Any],
        channels: Channels,
        features: Features,
        engine: bool = True,
        concat_dim: int | None = 1,
        merge_edges: bool | None = None,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.preprocessor = preprocessor
        self.postprocessor = postprocessor
        self.channels = channels
        self.features = features
        self.engine = engine
        self.concat_dim = concat_dim
        self.merge_edges = merge_edges
        self.derived_only = False
        self.operations = nn.ModuleDict()
        self._make_none = factories.get(NO_OPERATION)
        self._key: dict[tuple[int, int, int], str] = {}
        self._shared: dict[tuple[int, str, str], str] = {}
        for source, target in architecture.graph.edges:
            for k, (name, factory) in enumerate(factories.items()):
                if name != NO_OPERATION:
                    self._key[source, target, k] = self._add(source, target, name, factory)
        self._uses = {source: self._uses_of(source) for source in range(architecture.graph.targets.stop - 1)}
        self._alone = [position for uses in self._uses.values() for position in uses.positions_alone()]
        self.register_buffer("positions_alone", torch.tensor(self._alone, dtype=torch.long), persistent=False)

    def _add(self, source: int, target: int, name: str, factory: OperationFactory) -> str:
        """Register an operation: one per source if its feature is shared, else one per edge."""
        operation = WeightedOperation(factory(target, source))
        key = f"{source}_{target}_{name}"
        if self.features.shares(operation):
            key = self._shared.setdefault((source, name, repr(operation)), key)
        if key not in self.operations:
            self.operations[key] = operation
        return key

    def _uses_of(self, source: int) -> _Uses:
        graph = self.architecture.graph
        row = {edge: row for row, edge in enumerate(graph.edges)}
        uses: dict[str, dict[int, int]] = {}
        for (start, target, k), key in self._key.items():
            if start == source:
                uses.setdefault(key, {})[target] = row[start, target] * len(graph.operations) + k
        alone = [(key, *next(iter(edges.items()))) for key, edges in uses.items() if len(edges) == 1]
        shared = [key for key, edges in uses.items() if len(edges) > 1]
        targets = [target for target in graph.targets if any(target in uses[key] for key in shared)]
        positions = torch.tensor([[uses[key].get(target, -1) for key in shared] for target in targets])
        self.register_buffer(f"positions_{source}", positions, persistent=False)
        merged = [] if self.merge_edges is False else self._merge(alone)
        together = {key for use in merged for key in use.keys}
        alone = [use for use in alone if use[0] not in together]
        return _Uses(alone, merged, shared, targets, f"positions_{source}")

    def _merge(self, alone: list[tuple[str, int, int]]) -> list[MergedUse]:
        """Return those among the operations of one edge of which several are of one kind, kind by kind."""
        kinds: dict[Hashable, list[tuple[str, int, int]]] = {}
        for use in alone:
            kind = kind_of(cast(WeightedOperation, self.operations[use[0]]))
            if kind is not None:
                kinds.setdefault(kind, []).append(use)
        packs = []
        for uses in kinds.values():
            first = cast(WeightedOperation, self.operations[uses[0][0]])
            size = len(uses) if self.merge_edges else fastest_at_once(first)
            packs += [uses[start : start + size] for start in range(0, len(uses), size)]
        return [MergedUse(*zip(*pack, strict=True)) for pack in packs if len(pack) > 1]

    @property
    def label(self) -> str:
        """NNI's label: the kind of cell."""
        return self.architecture.label

    def forward(self, *inputs: Any) -> Any:
        """Mix, or run the derived connections alone if :attr:`derived_only` is set; arguments as NNI's ``Cell``."""
        graph = self.architecture.graph
        raw = preprocess_cell_inputs(graph.num_inputs, *inputs)
        nodes: dict[int, torch.Tensor] = dict(enumerate(self.preprocessor(raw)))
        weights: _Weights | None = None
        connections: Connections = {}
        if self.derived_only:
            connections = self.architecture.connections()
        elif not self.engine:
            connections = self.architecture.connected()
        if self.engine and not self.derived_only:
            weights, edges = self._mixture(nodes[0].shape[1] // self.channels.fraction)
        else:
            edges = _edges_of(connections)
        sums = {target: _Sum() for target in graph.targets}
        bypasses = {target: _Sum() for target in graph.targets}
        for source in range(graph.targets.stop):
            if source in graph.targets:
                node = sums.pop(source).value
                node = self._nothing(source, nodes[0]) if node is None else node
                nodes[source] = self.channels.join(_DenseGradient.apply(node), bypasses.pop(source).value)
            if source not in self._uses:
                break
            mixed, bypass = self.channels.split(nodes[source])
            features = _SourceFeatures(mixed, self.operations)
            if weights is None:
                terms = self._derived_terms(source, features, connections)
            else:
                terms = self._terms(source, features, weights)
            for target, term, owned in terms:
                sums[target].add(term, owned=owned)
            if bypass is not None:
                for target, weight in edges.get(source, ()):
                    halved = sums[target].value.shape[-1] < mixed.shape[-1]
                    passed = bypass_of(bypass, halved)
                    bypasses[target].add(passed if weight is None else passed * weight, owned=weight is not None)
        intermediate = [nodes[n] for n in graph.targets]
        merged = intermediate[-1] if self.concat_dim is None else torch.cat(intermediate, self.concat_dim)
        return self.postprocessor(merged, raw)

    def _nothing(self, target: int, x: torch.Tensor) -> torch.Tensor:
        """Return what a node is whose connections are all ``none``: zeros, at the resolution that the cell leaves."""
        assert self._make_none is not None, "without none every node keeps an operation"
        return self._make_none(target, 0)(x)

    def _mixture(self, channels: int) -> tuple[_Weights, _Edges]:
        operation_weights, edge_weights = self.architecture.weights()
        flat = operation_weights.flatten()
        alone = flat[self.get_buffer("positions_alone")].unsqueeze(-1).expand(-1, channels).contiguous().unbind(0)
        graph = self.architecture.graph
        by_edge = [None] * len(graph.edges) if edge_weights is None else edge_weights.unbind(0)
        edges: _Edges = {}
        for (source, target), weight in zip(graph.edges, by_edge, strict=True):
            edges.setdefault(source, []).append((target, weight))
        return _Weights(F.pad(flat, (0, 1)), dict(zip(self._alone, alone, strict=True))), edges

    def _terms(
        self, source: int, features: _SourceFeatures, weights: _Weights
    ) -> Iterator[tuple[int, torch.Tensor, bool]]:
        """Return what ``source`` adds to which target, each operation weighted, and if the sum may take it over."""
        uses = self._uses[source]
        if uses.shared:
            table = weights.flat[self.get_buffer(uses.positions)]
            for target, term in zip(
                uses.targets, weighted_sums(table, [features.of(key) for key in uses.shared]), strict=True
            ):
                yield target, term, False
        for key, target, position in uses.alone:
            yield target, features.weighted(key, weights.per_channel[position]), True
        wide: dict[tuple[int, ...], _Sum] = {}
        for use in uses.merged:
            weight = torch.cat([weights.per_channel[position] for position in use.positions])
            wide.setdefault(use.targets, _Sum()).add(features.merged(use.keys, weight), owned=True)
        for targets, total in wide.items():
            for target, term in zip(targets, total.value.chunk(len(targets), 1), strict=True):
                yield target, term, False

    def _derived_terms(
        self, source: int, features: _SourceFeatures, connections: Connections
    ) -> Iterator[tuple[int, torch.Tensor, bool]]:
        """Return what ``source`` adds to which target over ``connections`` alone, unweighted."""
        for target, node in connections.items():
            for k, start in node:
                if start == source and (source, target, k) in self._key:
                    yield target, features.of(self._key[source, target, k]), False

    def operations_of_all(self) -> list[nn.Module]:
        """Return the operations of all architectures."""
        return list(self.operations.values())

    def operations_running(self) -> list[nn.Module]:
        """Return the operations that run where nothing is mixed, each once."""
        keys = [
            self._key[source, target, k]
            for target, connections in self.architecture.connections().items()
            for k, source in connections
            if (source, target, k) in self._key
        ]
        return [self.operations[key] for key in dict.fromkeys(keys)]

    def resample(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Return nothing, as there is nothing to sample: all candidates are mixed."""
        return {}

    def export(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Return the derived cell as part of NNI's sample."""
        return {label: value for label, value in self.architecture.export().items() if label not in memo}

    def export_probs(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Return the softmax of alpha by edge and operation."""
        graph = self.architecture.graph
        probabilities = self.architecture.probabilities().tolist()
        return {
            f"{self.label}/{target}_{source}": dict(zip(graph.operations, row, strict=True))
            for (source, target), row in zip(graph.edges, probabilities, strict=True)
        }


def _edges_of(connections: Connections) -> _Edges:
    """Return the edges that carry a connection, unweighted."""
    edges: _Edges = {}
    for target, node in connections.items():
        for source in dict.fromkeys(source for _, source in node):
            edges.setdefault(source, []).append((target, None))
    return edges


class _DenseGradient(torch.autograd.Function):
    """The identity; its gradient, a slice of that of concatenated nodes, is copied once for all operations."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.memory_format = torch.channels_last if is_last(x) else torch.contiguous_format
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> torch.Tensor:
        (gradient,) = gradients
        return gradient.contiguous(memory_format=ctx.memory_format)


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
    """What the edges that leave one source share: its rectified features, and what operations make of them."""

    def __init__(self, x: torch.Tensor, operations: nn.ModuleDict) -> None:
        self._x = x
        self._operations = operations
        self._rectified: torch.Tensor | None = None
        self._made: dict[str, torch.Tensor] = {}
        self._bodies: dict[str, torch.Tensor] = {}
        self._wide: dict[tuple[bool, int], torch.Tensor] = {}

    def of(self, key: str) -> torch.Tensor:
        """Return ``operation(x)``, made once."""
        if key not in self._made:
            self._made[key] = self.weighted(key, None)
        return self._made[key]

    def weighted(self, key: str, weight: torch.Tensor | None) -> torch.Tensor:
        """Return ``weight * operation(x)``; ``weight`` is (channels,), None for 1.

        What precedes the BatchNorm of an operation is made once if it has no parameters.
        """
        operation = self._operation(key)
        if operation.body_key is None:
            return operation(self._input_of(operation), weight)
        return operation.normalise(self._shared_body(operation), weight)

    def merged(self, keys: Sequence[str], weight: torch.Tensor) -> torch.Tensor:
        """Return ``weight * operation(x)`` of operations of one kind, (batch, operations * channels, height, width)."""
        operations = [self._operation(key) for key in keys]
        first = operations[0]
        if first.body_key is None:
            return run_merged(operations, self._input_of(first), lambda: self._beside(first, len(keys)), weight)
        return merged_normalise(operations, side_by_side(self._shared_body(first), len(keys)), weight)

    def _beside(self, operation: WeightedOperation, targets: int) -> torch.Tensor:
        """Return an operation's input as many times as there are targets, made once for all kinds of operations."""
        key = operation.rectified, targets
        if key not in self._wide:
            self._wide[key] = side_by_side(self._input_of(operation), targets)
        return self._wide[key]

    def _operation(self, key: str) -> WeightedOperation:
        return cast(WeightedOperation, self._operations[key])

    def _shared_body(self, operation: WeightedOperation) -> torch.Tensor:
        """Return what precedes the BatchNorm of an operation that has no parameters there; made once."""
        key = operation.body_key
        assert key is not None, "for such operations only"
        if key not in self._bodies:
            self._bodies[key] = operation.body(self._input_of(operation))
        return self._bodies[key]

    def _input_of(self, operation: WeightedOperation) -> torch.Tensor:
        if not operation.rectified:
            return self._x
        if self._rectified is None:
            self._rectified = self._x.relu()
        return self._rectified
