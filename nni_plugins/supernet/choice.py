"""Mixtures for NNI's ``LayerChoice`` and ``InputChoice``."""

from __future__ import annotations

from typing import Any, cast

import torch
from nni.nas.nn.pytorch import InputChoice, LayerChoice
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from torch import nn

from nni_plugins.supernet.architecture import ChoiceArchitecture
from nni_plugins.supernet.operation import WeightedOperation
from search_spaces.operation_names import NO_OPERATION


class _MixedChoice(BaseSuperNetModule):
    """What mixtures over one choice share: the softmax over candidates, and its export."""

    def __init__(self, architecture: ChoiceArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.derived_only = False

    @property
    def label(self) -> str:
        """NNI's label of the choice."""
        return self.architecture.label

    def operations_of_all(self) -> list[nn.Module]:
        """Return the operations of all architectures; a choice of inputs has none."""
        return []

    def operations_running(self) -> list[nn.Module]:
        """Return the operations that run where nothing is mixed."""
        return []

    def resample(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Return nothing, as there is nothing to sample: all candidates are mixed."""
        return {}

    def export(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Return the strongest candidate as part of NNI's sample."""
        return {} if self.label in memo else self.architecture.export()

    def export_probs(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Return the softmax by candidate."""
        weights = self.architecture.weights().tolist()
        return {self.label: dict(zip(map(str, self.architecture.candidates), weights, strict=True))}


class MixedLayer(_MixedChoice):
    """``sum_k softmax(alpha)[k] * layer_k(x)`` over a ``LayerChoice``; a candidate ``none`` adds zero.

    Parameters
    ----------
    architecture
        Shared by all layers with this label.
    choice
        NNI's module, whose candidates are taken over.
    """

    def __init__(self, architecture: ChoiceArchitecture, choice: LayerChoice) -> None:
        super().__init__(architecture)
        self.candidates = nn.ModuleList(WeightedOperation(choice[name]) for name in choice.names)

    def operations_of_all(self) -> list[nn.Module]:
        return list(self.candidates)

    def operations_running(self) -> list[nn.Module]:
        return [self.candidates[k] for k in self.architecture.connections()]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.derived_only:
            (chosen,) = self.architecture.connections()
            return self._run(chosen, x, None)
        total: torch.Tensor | None = None
        for k, weight in enumerate(self.architecture.weights().unbind(0)):
            if self.architecture.candidates[k] == NO_OPERATION:
                continue
            term = self._run(k, x, weight)
            total = term if total is None else total + term
        return cast(torch.Tensor, total)

    def _run(self, k: int, x: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        operation = cast(WeightedOperation, self.candidates[k])
        x = x.relu() if operation.rectified else x
        if weight is not None and operation.norm is not None:
            weight = weight.expand(operation.norm.num_features)
        return operation(x, weight)


class MixedInput(_MixedChoice):
    """``sum_i softmax(alpha)[i] * x_i`` for the candidates of an ``InputChoice``; the mean if that is its reduction.

    Parameters
    ----------
    architecture
        Shared by all choices with this label.
    choice
        NNI's module.
    """

    def __init__(self, architecture: ChoiceArchitecture, choice: InputChoice) -> None:
        super().__init__(architecture)
        self.reduction = choice.reduction

    def forward(self, candidates: list[torch.Tensor]) -> torch.Tensor:
        if self.derived_only:
            inputs = [candidates[i] for i in self.architecture.connections()]
            total = torch.stack(inputs).sum(0)
            return total / len(inputs) if self.reduction == "mean" else total
        weights = self.architecture.weights().unbind(0)
        total = weights[0] * candidates[0]
        for weight, x in zip(weights[1:], candidates[1:], strict=True):
            total = total + weight * x
        return total
