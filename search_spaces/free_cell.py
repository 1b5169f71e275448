"""A cell whose nodes keep any number of connections, several operations from one predecessor included.

Each node is one mutable of NNI, a set of ``operation:input`` that is never empty, so that NNI's strategies explore the
topology together with the operations.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import nni.nas.strategy  # noqa: F401  before nni.nas.oneshot or nni.nas.hub, or NNI's own DARTS is left unusable
import torch
from nni.mutable import (
    Categorical,
    CategoricalMultiple,
    ExpressionConstraint,
    Sample,
    SampleMissingError,
    SampleValidationError,
    label_scope,
)
from nni.nas.nn.pytorch import MutableModule, model_context
from nni.nas.nn.pytorch.cell import preprocess_cell_inputs
from nni.nas.space import current_model
from numpy.random import RandomState
from torch import nn

from .operation_names import NO_OPERATION
from .sample_labels import format_connection, node_label, parse_connection

EXPECTED_CONNECTIONS = 2
"""Connections that a node of a random cell has on average, before empty nodes are drawn anew."""


class SomeOf(CategoricalMultiple):
    """At least one of ``values``, each as likely as the others.

    Parameters
    ----------
    values
        What to choose from.
    label
        NNI's label.
    """

    def __init__(self, values: Iterable[str], *, label: str) -> None:
        values = list(values)
        share = min(1.0, EXPECTED_CONNECTIONS / len(values))
        super().__init__(values, weights=[share] * len(values), default=values[:1], label=label)

    def random(self, memo: Sample | None = None, random_state: RandomState | None = None) -> list[str]:
        memo = {} if memo is None else memo
        random_state = RandomState() if random_state is None else random_state
        if isinstance(self.check_contains(memo), SampleMissingError):
            chosen: list[str] = []
            while not chosen:
                draws = random_state.random_sample(len(self.values))
                chosen = [
                    value for value, draw, share in zip(self.values, draws, self.weights, strict=True) if draw < share
                ]
            memo[self.label] = chosen
        return self.freeze(memo)

    def grid(self, memo: Sample | None = None, granularity: int | None = None) -> Iterator[list[str]]:
        memo = {} if memo is None else memo
        if not isinstance(self.check_contains(memo), SampleMissingError):
            yield self.freeze(memo)
            return
        for size in range(1, len(self.values) + 1):
            for chosen in itertools.combinations(self.values, size):
                memo[self.label] = list(chosen)
                yield self.freeze(memo)
        del memo[self.label]

    def _parse_simple_format(self, sample: Sample) -> SampleValidationError | list[str]:
        chosen = super()._parse_simple_format(sample)
        if chosen == []:
            return SampleValidationError(f"{self.label} chooses nothing; expected at least one of {self.values}.")
        return chosen

    def _simplify_to_categorical_format(self) -> list[Any]:
        mutables = super()._simplify_to_categorical_format()
        chosen = [mutable for mutable in mutables if isinstance(mutable, Categorical)]
        with self.label_scope:
            return [*mutables, ExpressionConstraint(sum(chosen[1:], start=chosen[0]) > 0, label="n")]


class FreeCell(MutableModule):
    """A cell as NNI's ``Cell``, but for the number of connections of a node, which is open.

    NNI's label of node ``i`` is ``{label}/node_{i}`` and its value a list such as ``["sep_conv_3x3:0",
    "skip_connect:0"]``. Frozen, the cell has exactly these operations; unfrozen, the first candidate in every node.

    Parameters
    ----------
    op_candidates
        Factories by name, each called with node, slot and input as NNI's are.
    num_nodes, num_predecessors
        Intermediate nodes and inputs.
    preprocessor, postprocessor, concat_dim, label
        As in NNI's ``Cell``.

    Raises
    ------
    ValueError
        If ``none`` is among the candidates.
    """

    def __init__(
        self,
        op_candidates: Mapping[str, Callable[[int, int, int | None], nn.Module]],
        num_nodes: int,
        num_predecessors: int = 1,
        preprocessor: Callable[[list[torch.Tensor]], list[torch.Tensor]] | None = None,
        postprocessor: Callable[[torch.Tensor, list[torch.Tensor]], Any] | None = None,
        concat_dim: int = 1,
        *,
        label: str,
    ) -> None:
        super().__init__()
        if NO_OPERATION in op_candidates:
            raise ValueError(
                f"A FreeCell leaves a connection out by not choosing it; take {NO_OPERATION!r} out of its candidates."
            )
        self.op_candidates_factory = op_candidates
        self.num_nodes = num_nodes
        self.num_predecessors = num_predecessors
        self.preprocessor = preprocessor or list
        self.postprocessor = postprocessor or _output
        self.concat_dim = concat_dim
        self.label_scope = label_scope(label)
        self.connections: dict[int, list[tuple[str, int]]] = {}
        self.ops = nn.ModuleList()
        with self.label_scope:
            for node in range(num_predecessors, num_predecessors + num_nodes):
                self._add_node(node)

    def _add_node(self, node: int) -> None:
        choice = SomeOf(
            [format_connection(name, source) for source in range(node) for name in self.op_candidates_factory],
            label=node_label(node),
        )
        sample = current_model()
        if sample is None:
            self.add_mutable(choice)
        chosen = choice.default() if sample is None else choice.freeze(sample)
        self.connections[node] = [parse_connection(connection) for connection in chosen]
        self.ops.append(
            nn.ModuleList(
                self.op_candidates_factory[operation](node, slot, source)
                for slot, (operation, source) in enumerate(self.connections[node])
            )
        )

    @property
    def label(self) -> str:
        """NNI's label: the kind of cell."""
        return self.label_scope.name

    def freeze(self, sample: Sample) -> FreeCell:
        """Return the cell of ``sample``, with fresh operations."""
        with model_context(sample):
            return FreeCell(
                self.op_candidates_factory, self.num_nodes, self.num_predecessors, self.preprocessor,
                self.postprocessor, self.concat_dim, label=self.label,
            )  # fmt: skip

    def forward(self, *inputs: Any) -> Any:
        """Run the cell; arguments and result as NNI's ``Cell``."""
        raw = preprocess_cell_inputs(self.num_predecessors, *inputs)
        nodes = list(self.preprocessor(raw))
        for connections, operations in zip(self.connections.values(), self.ops.children(), strict=True):
            sources = [nodes[source] for _, source in connections]
            terms = [operation(x) for operation, x in zip(operations.children(), sources, strict=True)]
            nodes.append(sum(terms[1:], start=terms[0]))
        return self.postprocessor(torch.cat(nodes[self.num_predecessors :], self.concat_dim), raw)


def _output(output: torch.Tensor, inputs: list[torch.Tensor]) -> torch.Tensor:
    return output
