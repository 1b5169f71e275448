"""Which of the supernet's weights are trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nni_plugins.supernet.architecture import CellArchitecture, ChoiceArchitecture
from nni_plugins.supernet.fast_layers import freeze_convolutions
from nni_plugins.tools.checked import Checked


@runtime_checkable
class Trainable(Protocol):
    """What trains besides the architecture parameters."""

    def check_space(self, space: nn.Module) -> None:
        """Refuse, with a ValueError that says why, a space in which this cannot train; called before any change."""

    def prepare_operation(self, operation: nn.Module) -> nn.Module:
        """Change a candidate operation, in place, before the supernet takes it over."""

    def freeze(self, supernet: nn.Module) -> None:
        """Switch off the gradients of what stays as it is; architecture parameters are none of its business."""


@dataclass(frozen=True)
class Everything(Checked):
    """All weights train."""

    def check_space(self, space: nn.Module) -> None:
        return None

    def prepare_operation(self, operation: nn.Module) -> nn.Module:
        return operation

    def freeze(self, supernet: nn.Module) -> None:
        return None


_INITIALISERS: Mapping[str, Callable[[nn.Conv2d], object]] = MappingProxyType(
    {
        "default": nn.Conv2d.reset_parameters,
        "kaiming_normal": lambda conv: nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu"),
        "xavier_normal": lambda conv: nn.init.xavier_normal_(conv.weight),
    }
)


@dataclass(frozen=True)
class BatchNormOnly(Checked):
    """Scale and shift of every BatchNorm train; all else keeps the random values it starts with [RF-DARTS].

    Every BatchNorm of the supernet is made affine for that, also after pooling. What the paper leaves open: the
    classifier is frozen, convolutions start as PyTorch draws them, and are drawn once per search.

    Parameters
    ----------
    train_classifier
        Let the last linear layer train as well.
    init
        How convolutions are drawn: PyTorch's ``"default"``, ``"kaiming_normal"`` (fan-out) or ``"xavier_normal"``.

    Raises
    ------
    ValueError
        If there is no such ``init``.
    """

    train_classifier: bool = False
    init: Literal["default", "kaiming_normal", "xavier_normal"] = "default"

    def check_space(self, space: nn.Module) -> None:
        """Refuse a space without BatchNorm, or without the classifier that is to train.

        Raises
        ------
        ValueError
            As its name says.
        """
        wanted: list[tuple[type[nn.Module], str]] = [(_BatchNorm, "BatchNorm")]
        if self.train_classifier:
            wanted.append((nn.Linear, "linear layer"))
        for kind, name in wanted:
            if not any(isinstance(module, kind) for module in space.modules()):
                raise ValueError(
                    f"{type(space).__name__} has no {name}, so that freezing everything else would leave nothing of it "
                    "to train; use a space with one, or trains=Everything()."
                )

    def prepare_operation(self, operation: nn.Module) -> nn.Module:
        return make_affine(operation)

    def freeze(self, supernet: nn.Module) -> None:
        make_affine(supernet)
        freeze_convolutions(supernet)
        linear = [module for module in _weight_modules(supernet) if isinstance(module, nn.Linear)]
        for module in _weight_modules(supernet):
            if isinstance(module, nn.Conv2d):
                _INITIALISERS[self.init](module)
            trains = isinstance(module, _BatchNorm) or (self.train_classifier and module is linear[-1])
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(trains)


def _weight_modules(module: nn.Module) -> Iterator[nn.Module]:
    """Every module inside ``module`` and itself, but none that holds architecture parameters."""
    if not isinstance(module, (CellArchitecture, ChoiceArchitecture)):
        yield module
        for child in module.children():
            yield from _weight_modules(child)


def make_affine(module: nn.Module) -> nn.Module:
    """Give every BatchNorm in ``module`` a scale and a shift that train; changed in place and returned."""
    for norm in module.modules():
        if isinstance(norm, _BatchNorm) and not norm.affine:
            norm.affine = True
            norm.weight = nn.Parameter(torch.ones(norm.num_features))
            norm.bias = nn.Parameter(torch.zeros(norm.num_features))
    return module
