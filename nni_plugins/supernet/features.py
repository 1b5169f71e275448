"""Whether the edges that leave a node compute a candidate operation each, or share what it makes of the node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from nni_plugins.supernet.operation import WeightedOperation
from nni_plugins.tools.checked import Checked


@runtime_checkable
class Features(Protocol):
    """Which operations on the same source are one module, computed once."""

    def shares(self, operation: WeightedOperation) -> bool:
        """Return whether all edges from one source use the same copy of ``operation``."""


@dataclass(frozen=True)
class PerEdge(Checked):
    """Every edge has its own operations, as in DARTS; only what computes the same on all of them is computed once."""

    def shares(self, operation: WeightedOperation) -> bool:
        return operation.computes_the_same


@dataclass(frozen=True)
class PerSource(Checked):
    """One feature per source and operation, ``f[i, k] = o_k(x_i)``, used by all later nodes [EnTranNAS].

    ``x_j = sum over i, k of w[i, j, k] * f[i, k]``: (inputs + nodes - 1) x K operations a cell in place of edges x K.
    For cells in which an operation depends on its source alone (its stride, say), as all of this package's do. The
    evaluation network does not share.
    """

    def shares(self, operation: WeightedOperation) -> bool:
        return True
