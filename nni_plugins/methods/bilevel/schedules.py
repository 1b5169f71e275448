"""Learning rate of the architecture parameters over the epochs of a search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from nni_plugins.tools.checked import Checked, setting


@runtime_checkable
class Schedule(Protocol):
    """Factor on the architecture learning rate."""

    def factor(self, epoch: int, epochs: int) -> float:
        """Return the factor in epoch ``epoch`` (from 0) of ``epochs``."""


@dataclass(frozen=True)
class Constant(Checked):
    """The same rate in every epoch, as in DARTS and BNAS-D."""

    def factor(self, epoch: int, epochs: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Confident(Checked):
    """Confident learning rate: trust in the architecture gradient grows with the weights' training [BNAS-v2].

    ``conf(e) = ((e + 1) / E) ** p`` and ``lr_alpha(e) = lr_alpha * conf(e)`` for epoch ``e = 0 .. E - 1``. Only the
    architecture's optimiser is scaled. On the second-order path the released code scales the loss instead, which Adam
    all but cancels; we scale the rate on both paths.

    Parameters
    ----------
    power
        p; 2 in the paper.
    """

    power: float = setting(2, above=0)

    def factor(self, epoch: int, epochs: int) -> float:
        return ((epoch + 1) / epochs) ** self.power
