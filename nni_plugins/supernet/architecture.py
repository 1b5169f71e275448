"""The architecture parameters of one kind of cell or one choice, shared by every place that carries its label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from nni_plugins.supernet.relaxation import INITIAL_SCALE, Derived, Relaxation
from search_spaces.cell_graph import CellGraph
from search_spaces.operation_names import NO_OPERATION
from search_spaces.sample_labels import read_cells, write_cell

Connections = Mapping[int, list[Derived]]
"""Connections of every intermediate node."""


class _Tempered(nn.Module):
    """Logits and the temperature that they are divided by, a buffer, so that a checkpoint knows it."""

    temperature: torch.Tensor

    def __init__(self, label: str, relaxation: Relaxation) -> None:
        super().__init__()
        self.label = label
        self.relaxation = relaxation
        self.register_buffer("temperature", torch.tensor(relaxation.temperature(0)))

    def set_epoch(self, epoch: int) -> None:
        """Take the temperature of epoch ``epoch`` (from 0)."""
        self.temperature.fill_(self.relaxation.temperature(epoch))


class CellArchitecture(_Tempered):
    """Architecture parameters of all cells of one kind.

    Parameters
    ----------
    label
        NNI's label of the cells, such as ``normal``.
    graph
        Their graph.
    relaxation
        From parameters to mixture weights and connections.
    """

    def __init__(self, label: str, graph: CellGraph, relaxation: Relaxation) -> None:
        super().__init__(label, relaxation)
        self.graph = graph
        self.tables = nn.ParameterDict(relaxation.init(graph))
        self._derived: tuple[object, Connections] = (None, {})
        self._connected: tuple[object, Connections] = (None, {})
        self._chosen: Connections | None = None

    def _parameters_by_name(self) -> dict[str, torch.Tensor]:
        tables = dict(self.tables.items())
        return tables | {"alpha": tables["alpha"] / self.temperature}

    def weights(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the mixture weights of operations, (edges, operations), and of edges, (edges,) or None."""
        return self.relaxation.weights(self._parameters_by_name(), self.graph)

    @torch.no_grad()
    def derive(self) -> Connections:
        """Return the connections that the parameters stand for now.

        They are worked out once after every change of the parameters, whoever made it: an optimiser's step and a loaded
        checkpoint raise a tensor's version, and a replaced tensor has another address.
        """
        state = tuple((t.data_ptr(), t._version) for t in (*self.tables.values(), self.temperature))
        if self._derived[0] != state:
            self._derived = state, self.relaxation.derive(self._parameters_by_name(), self.graph)
        return self._derived[1]

    def forget_derived(self) -> None:
        """Derive anew when next asked: a CUDA graph has changed the parameters, which raises no tensor's version."""
        self._derived = self._connected = (None, {})

    def connections(self) -> Connections:
        """Return what a cell that does not mix runs: the derived connections, or those that :meth:`choose` fixed."""
        return self.derive() if self._chosen is None else self._chosen

    @torch.no_grad()
    def connected(self) -> Connections:
        """Return what a Transit-cell runs: the derived connections, without a ``none`` that would cut the cell in two.

        Behind such a cell no gradient reaches the architecture parameters, and the search would stand still for ever.
        Not stated in the paper, whose space never derives ``none``; NAS-Bench-201 does. Connections that
        :meth:`choose` has fixed stay as they are.
        """
        if self._chosen is not None:
            return self._chosen
        derived = self.derive()
        if self._connected[0] is not derived:
            if not self._reaches_the_output(derived):
                tables = self._parameters_by_name()
                weak = torch.tensor([name == NO_OPERATION for name in self.graph.operations])
                tables["alpha"] = tables["alpha"].masked_fill(weak.to(tables["alpha"].device), -torch.inf)
                self._connected = derived, self.relaxation.derive(tables, self.graph)
            else:
                self._connected = derived, derived
        return self._connected[1]

    def _reaches_the_output(self, connections: Connections) -> bool:
        reached = set(range(self.graph.num_inputs))
        for target, node in connections.items():
            if any(source in reached and self.graph.operations[k] != NO_OPERATION for k, source in node):
                reached.add(target)
        return self.graph.targets[-1] in reached

    def choose(self, sample: Mapping[str, Any] | None) -> None:
        """Fix the connections of cells that do not mix to those of NNI's ``sample``; None for the derived ones.

        Raises
        ------
        ValueError
            If the sample does not describe this kind of cell.
        """
        self._chosen = None if sample is None else _read(sample, self.label, self.graph)

    def export(self) -> dict[str, object]:
        """Return the derived cell as part of NNI's sample."""
        names = self.graph.operations
        nodes = {target: [(names[k], source) for k, source in node] for target, node in self.derive().items()}
        return write_cell(nodes, self.label, self.graph)

    @torch.no_grad()
    def probabilities(self) -> torch.Tensor:
        """Return the distributions that the search sharpens, one a row, (edges, operations)."""
        return self._parameters_by_name()["alpha"].softmax(-1)


def _read(sample: Mapping[str, Any], label: str, graph: CellGraph) -> Connections:
    """Return the connections of the cell ``label`` in NNI's sample.

    Raises
    ------
    ValueError
        If the sample lacks a node of the cell, or names an operation or input that the cell does not have.
    """
    try:
        nodes = read_cells(sample, {label: graph})[0].get(label, {})
        if list(nodes) != list(graph.targets):
            raise ValueError(f"it has the nodes {', '.join(map(str, nodes)) or 'none'}")
        for target, node in nodes.items():
            graph.check_connections(f"node {target}", target, [source for _, source in node])
            for operation, source in node:
                if operation not in graph.operations or not 0 <= source < target:
                    raise ValueError(f"node {target} takes {operation} from input {source}")
    except ValueError as error:
        raise ValueError(
            f"The sample does not describe the {label} cell ({str(error).rstrip('.')}); expected operations among "
            f"{', '.join(graph.operations)} for nodes {graph.targets.start} to {graph.targets.stop - 1}."
        ) from None
    return {
        target: [Derived(graph.operations.index(operation), source) for operation, source in node]
        for target, node in nodes.items()
    }


class ChoiceArchitecture(_Tempered):
    """Architecture parameters of a ``LayerChoice`` or ``InputChoice``: one logit per candidate.

    Parameters
    ----------
    label
        NNI's label of the choice.
    relaxation
        Its temperature counts; the rest is a softmax.
    candidates
        The values to choose from.
    num_chosen
        How many are chosen; None for a single value (``LayerChoice``).
    """

    def __init__(
        self, label: str, relaxation: Relaxation, candidates: list[object], num_chosen: int | None = None
    ) -> None:
        super().__init__(label, relaxation)
        self.candidates = candidates
        self.num_chosen = num_chosen
        self.alpha = nn.Parameter(INITIAL_SCALE * torch.randn(len(candidates)))
        self._chosen: list[int] | None = None

    def weights(self) -> torch.Tensor:
        """Return ``softmax(alpha / tau)``, (candidates,)."""
        return (self.alpha / self.temperature).softmax(0)

    @torch.no_grad()
    def derive(self) -> list[int]:
        """Return the numbers of the strongest candidates in their own order; ties go to the first."""
        logits = self.alpha.tolist()
        ranked = sorted(range(len(logits)), key=lambda k: -logits[k])
        return sorted(ranked[: self.num_chosen or 1])

    def connections(self) -> list[int]:
        """Return the candidates that run where nothing is mixed: the derived ones, or what :meth:`choose` fixed."""
        return self.derive() if self._chosen is None else self._chosen

    def choose(self, sample: Mapping[str, Any] | None) -> None:
        """Fix what runs where nothing is mixed to NNI's ``sample``; None for the derived candidates.

        Raises
        ------
        ValueError
            If the sample does not say what this choice takes.
        """
        if sample is None:
            self._chosen = None
            return
        values = cast("list[object]", sample.get(self.label) if self.num_chosen else [sample.get(self.label)])
        if not isinstance(values, list) or not set(values) <= set(self.candidates):
            raise ValueError(
                f"The sample gives {self.label} the value {sample.get(self.label)!r}; expected "
                f"{'some' if self.num_chosen else 'one'} of {self.candidates}."
            )
        self._chosen = [self.candidates.index(value) for value in values]

    def export(self) -> dict[str, object]:
        """Return the derived candidate, or the ``num_chosen`` derived ones, as part of NNI's sample."""
        values = [self.candidates[k] for k in self.derive()]
        return {self.label: values[0] if self.num_chosen is None else values}

    @torch.no_grad()
    def probabilities(self) -> torch.Tensor:
        """Return the distribution that the search sharpens, (1, candidates)."""
        return self.weights().unsqueeze(0)


Architecture = CellArchitecture | ChoiceArchitecture
