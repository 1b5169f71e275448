"""Which of the supernet's weights are trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import nn


class Trainable(Protocol):
    """What trains besides the architecture parameters."""

    def prepare_operation(self, operation: nn.Module) -> nn.Module:
        """Change a candidate operation, in place, before the supernet takes it over."""

    def freeze(self, supernet: nn.Module) -> None:
        """Switch off the gradients of what stays as it is; architecture parameters are none of its business."""


@dataclass(frozen=True)
class Everything:
    """All weights train."""

    def prepare_operation(self, operation: nn.Module) -> nn.Module:
        return operation

    def freeze(self, supernet: nn.Module) -> None:
        return None
