"""The architecture parameters of one kind of cell or one choice, shared by every place that carries its label."""

from __future__ import annotations

import torch
from torch import nn

from .relaxation import INITIAL_SCALE, Derived, Relaxation, Topology


class CellArchitecture(nn.Module):
    """Architecture parameters of all cells of one kind.

    Parameters
    ----------
    label
        NNI's label of the cells, such as ``normal``.
    topology
        Their graph.
    relaxation
        From parameters to mixture weights and connections.
    """

    def __init__(self, label: str, topology: Topology, relaxation: Relaxation) -> None:
        super().__init__()
        self.label = label
        self.topology = topology
        self.relaxation = relaxation
        self.tables = nn.ParameterDict(relaxation.init(topology))

    def _parameters_by_name(self) -> dict[str, torch.Tensor]:
        return dict(self.tables.items())

    def weights(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Mixture weights of operations, (edges, operations), and of edges, (edges,) or None."""
        return self.relaxation.weights(self._parameters_by_name(), self.topology)

    @torch.no_grad()
    def derive(self) -> dict[int, list[Derived]]:
        """Connections of every intermediate node, the strongest first."""
        return self.relaxation.derive(self._parameters_by_name(), self.topology)

    def export(self) -> dict[str, object]:
        """The derived cell as part of NNI's sample."""
        sample: dict[str, object] = {}
        for target, connections in self.derive().items():
            for slot, (operation, source) in enumerate(connections):
                sample[f"{self.label}/op_{target}_{slot}"] = self.topology.operations[operation]
                sample[f"{self.label}/input_{target}_{slot}"] = [source]
        return sample

    @torch.no_grad()
    def probabilities(self) -> torch.Tensor:
        """The distributions that the search sharpens, one a row, (edges, operations)."""
        return self.tables["alpha"].softmax(-1)


class ChoiceArchitecture(nn.Module):
    """Architecture parameters of a ``LayerChoice`` or ``InputChoice``: one logit per candidate.

    Parameters
    ----------
    label
        NNI's label of the choice.
    candidates
        The values to choose from.
    num_chosen
        How many are chosen; None for a single value (``LayerChoice``).
    """

    def __init__(self, label: str, candidates: list[object], num_chosen: int | None = None) -> None:
        super().__init__()
        self.label = label
        self.candidates = candidates
        self.num_chosen = num_chosen
        self.alpha = nn.Parameter(INITIAL_SCALE * torch.randn(len(candidates)))

    def weights(self) -> torch.Tensor:
        """``softmax(alpha)``, (candidates,)."""
        return self.alpha.softmax(0)

    @torch.no_grad()
    def export(self) -> dict[str, object]:
        """The strongest candidate (of equals the first), or the ``num_chosen`` strongest in their own order."""
        logits = self.alpha.tolist()
        ranked = sorted(range(len(logits)), key=lambda k: -logits[k])
        if self.num_chosen is None:
            return {self.label: self.candidates[ranked[0]]}
        return {self.label: [self.candidates[k] for k in sorted(ranked[: self.num_chosen])]}

    @torch.no_grad()
    def probabilities(self) -> torch.Tensor:
        """The distribution that the search sharpens, (1, candidates)."""
        return self.weights().unsqueeze(0)


Architecture = CellArchitecture | ChoiceArchitecture
