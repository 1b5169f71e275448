"""The weight set of RelativeNAS: one copy of every candidate operation on every edge, which all candidates inherit.

A candidate trains the operations that it runs and the trunk (stem, pre-processing, classifier) on a copy of the set.
Of a pair of candidates the set then keeps [RelativeNAS, section III-C, as released]

    W <- before | operations(slow) | operations(fast) | trunk(fast)

where a later term wins: an operation used by one of them comes from that one, by both from the fast learner, by neither
stays, and the trunk is the fast learner's. BatchNorm statistics are weights like any other here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import nn

from nni_plugins.supernet.consistency import mixtures_of

Weights = Mapping[str, torch.Tensor]
"""Entries of a supernet's ``state_dict`` by name."""


class WeightSet:
    """Snapshots of a supernet, and the architecture that it runs.

    Parameters
    ----------
    supernet
        Its mixtures are ``derived_only``. Its parameters and buffers *are* the set; the methods copy them out and in.
    """

    def __init__(self, supernet: nn.Module) -> None:
        self._supernet = supernet
        self._mixtures = mixtures_of(supernet)
        names = {id(module): name for name, module in supernet.named_modules()}
        self._names = {
            id(operation): [f"{names[id(operation)]}.{entry}" for entry in operation.state_dict()]
            for mixture in self._mixtures
            for operation in mixture.operations_of_all()
        }
        operations = {name for entries in self._names.values() for name in entries}
        self._trunk = [name for name in supernet.state_dict() if name not in operations]

    def choose(self, sample: Mapping[str, object]) -> None:
        """Let the supernet run the architecture of NNI's ``sample``.

        Raises
        ------
        ValueError
            If the sample does not describe an architecture of the space.
        """
        for mixture in self._mixtures:
            mixture.architecture.choose(sample)

    def snapshot(self) -> Weights:
        """Return a copy of the whole set."""
        return self._copy(self._supernet.state_dict())

    def operations(self) -> Weights:
        """Return a copy of the operations that the chosen architecture runs."""
        return self._copy(self._running())

    def trunk(self) -> Weights:
        """Return a copy of what every architecture runs."""
        return self._copy(self._trunk)

    def load(self, *weights: Weights) -> None:
        """Overwrite entries of the set; what comes later wins."""
        merged: dict[str, torch.Tensor] = {}
        for each in weights:
            merged |= each
        self._supernet.load_state_dict(merged, strict=False)

    def _running(self) -> Iterator[str]:
        for mixture in self._mixtures:
            for operation in mixture.operations_running():
                yield from self._names[id(operation)]

    def _copy(self, names: Iterable[str]) -> Weights:
        state = self._supernet.state_dict()
        return {name: state[name].clone() for name in names}
