"""One candidate operation inside a mixture: computed, weighted and added without storing what need not be stored.

The mixture ``sum_k p_k * BN_k(z_k)`` is computed as ``sum_k BN'_k(z_k)`` where ``BN'_k`` has scale ``p_k * gamma_k``
and shift ``p_k * beta_k``. That is the same function, but no weighted copy of an operation's output is made or kept
for the backward pass, and the gradient of ``p_k`` falls out of BatchNorm's own backward.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn


class WeightedOperation(nn.Module):
    """A candidate operation, split into the parts that a mixture can share or fold.

    Parameters
    ----------
    operation
        The candidate. If it starts with a ReLU, the mixture hands it the rectified input, made once per source; if it
        ends with a BatchNorm, the mixture weight goes into that. Without parameters, all edges from one source compute
        the same feature with it (``has_parameters`` is False).
    """

    def __init__(self, operation: nn.Module) -> None:
        super().__init__()
        layers = list(operation) if isinstance(operation, nn.Sequential) else [operation]
        self.rectified = isinstance(layers[0], nn.ReLU)
        folds = isinstance(layers[-1], nn.BatchNorm2d)
        self.norm = cast(nn.BatchNorm2d, layers.pop()) if folds else None
        self.body = nn.Sequential(*layers[1:] if self.rectified else layers)
        self.has_parameters = next(operation.parameters(), None) is not None

    def forward(self, x: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
        """``weight * operation(x)``.

        Parameters
        ----------
        x
            The source node's features (batch, channels, height, width), rectified if :attr:`rectified`.
        weight
            The mixture weight, repeated for every channel: (channels,). None for 1.
        """
        x = self.body(x)
        if self.norm is None:
            return x if weight is None else x * weight.to(x.dtype).view(-1, 1, 1)
        return self.norm(x) if weight is None else scaled_batch_norm(self.norm, x, weight)


def scaled_batch_norm(norm: nn.BatchNorm2d, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``weight * norm(x)`` in one pass, (batch, channels, height, width); ``weight`` is (channels,)."""
    if norm.training and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    scale = weight if norm.weight is None else weight * norm.weight
    shift = None if norm.bias is None else weight * norm.bias
    momentum = 0.0 if norm.momentum is None else norm.momentum
    use_batch = norm.training or norm.running_mean is None
    return F.batch_norm(x, norm.running_mean, norm.running_var, scale, shift, use_batch, momentum, norm.eps)
