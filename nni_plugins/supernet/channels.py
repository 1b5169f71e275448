"""Which channels of a node pass through the mixed operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F

from nni_plugins.tools.checked import Checked, setting


@runtime_checkable
class Channels(Protocol):
    """Which part of a node's channels is mixed, and how the rest rejoins it."""

    @property
    def fraction(self) -> int:
        """K: one channel in K is mixed."""

    def split(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the channels to mix, and those that bypass the mixture (None if there are none)."""

    def join(self, mixed: torch.Tensor, bypass: torch.Tensor | None) -> torch.Tensor:
        """Return one node from the two sums over its edges."""


@dataclass(frozen=True)
class AllChannels(Checked):
    """Every channel is mixed, as in DARTS and BNAS-D."""

    fraction: int = setting(1, at_least=1, at_most=1)

    def split(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        return x, None

    def join(self, mixed: torch.Tensor, bypass: torch.Tensor | None) -> torch.Tensor:
        return mixed


@dataclass(frozen=True)
class PartialChannels(Checked):
    """The first 1/K of the channels is mixed, the rest bypasses; then a channel shuffle [PC-DARTS eq. 2; BNAS-v2-PC].

    ``x_j = shuffle_K(concat(sum_i mix(x_i[:C/K]), sum_i b_ij * x_i[C/K:]))`` with ``b_ij`` the weight of the edge. The
    shuffle is linear and equal on all edges, so one per node replaces one per edge. On an edge of stride 2 the bypass
    is a 2x2 max pooling.

    Parameters
    ----------
    fraction
        K: 4 on CIFAR, 2 on ImageNet in the paper.
    """

    fraction: int = setting(4, at_least=2)

    def split(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        mixed = x.shape[1] // self.fraction
        return x[:, :mixed], x[:, mixed:]

    def join(self, mixed: torch.Tensor, bypass: torch.Tensor | None) -> torch.Tensor:
        assert bypass is not None, "partial channels always have a bypass"
        return torch.channel_shuffle(torch.cat([mixed, bypass], 1), self.fraction)


def bypass_of(x: torch.Tensor, halved: bool) -> torch.Tensor:
    """Return what bypassing channels contribute to an edge: themselves, or a 2x2 max pooling where it halves."""
    return F.max_pool2d(x, 2, ceil_mode=True) if halved else x
