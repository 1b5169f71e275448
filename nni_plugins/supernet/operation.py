"""One candidate operation inside a mixture: computed, weighted and added without storing what need not be stored.

The mixture ``sum_k p_k * BN_k(z_k)`` is computed as ``sum_k BN'_k(z_k)`` where ``BN'_k`` has scale ``p_k * gamma_k``
and shift ``p_k * beta_k``. That is the same function, but no weighted copy of an operation's output is made or kept
for the backward pass, and the gradient of ``p_k`` falls out of BatchNorm's own backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from nni_plugins.supernet.chain import Stage, run_chain, runs_as_chain
from nni_plugins.supernet.convolution import FastConv2d, is_last
from nni_plugins.supernet.weighted_norm import UncountedBatchNorm2d, scaled_batch_norm

_KNOWN = ("torch.nn", "nni_plugins.supernet")
_PLAIN = (nn.BatchNorm2d.forward, UncountedBatchNorm2d.forward)


class WeightedOperation(nn.Module):
    """A candidate operation, split into the parts that a mixture can share or fold.

    Parameters
    ----------
    operation
        The candidate. If it starts with a ReLU, the mixture hands it the rectified input, made once per source; if it
        ends with a BatchNorm, the mixture weight goes into that. Without parameters (``has_parameters`` is False) all
        edges from one source compute the same feature with it, unless a module of it says ``deterministic = False``.
        Where only the part before the BatchNorm is like that (pooling, in RF-DARTS), ``body_key`` names that part.
    """

    def __init__(self, operation: nn.Module) -> None:
        super().__init__()
        layers = list(cast(nn.Sequential, operation)) if _is_sequence(operation) else [operation]
        single = _single_layers(operation)
        self.rectified = bool(single) and isinstance(single[0], nn.ReLU)
        self.stages = stages_of(single[1:] if self.rectified else single)
        if self.rectified and layers[0] is single[0]:  # one deeper inside makes no difference to what is rectified
            layers = layers[1:]
        folds = bool(layers) and isinstance(layers[-1], nn.BatchNorm2d)
        self.norm = cast(nn.BatchNorm2d, layers.pop()) if folds else None
        self.body = nn.Sequential(*layers)
        self.has_parameters = next(operation.parameters(), None) is not None
        deterministic = all(getattr(module, "deterministic", True) for module in operation.modules())
        self.computes_the_same = deterministic and not self.has_parameters
        # what a module of someone else's does may not show in its repr
        told_by_repr = all(type(module).__module__.startswith(_KNOWN) for module in self.body.modules())
        shares_body = told_by_repr and next(self.body.parameters(), None) is None
        self.body_key = f"{self.rectified} {self.body}" if shares_body else None

    def forward(self, x: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
        """Return ``weight * operation(x)``.

        Parameters
        ----------
        x
            The source node's features (batch, channels, height, width), rectified if :attr:`rectified`.
        weight
            The mixture weight, repeated for every channel: (channels,). None for 1.
        """
        if self.stages and runs_as_chain(self.stages, x):
            return run_chain(self.stages, x, weight)
        return self.normalise(self.body(x), weight)

    def normalise(self, x: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
        """Return ``weight * operation``, from what its part before the BatchNorm has made."""
        if self.norm is None:
            return x if weight is None else x * weight.to(x.dtype).view(-1, *(1 for _ in x.shape[2:]))
        return scaled_batch_norm(self.norm, x, weight)


def _is_sequence(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _single_layers(module: nn.Module) -> list[nn.Module]:
    """Return the layers of sequences within sequences, in their order."""
    if not _is_sequence(module):
        return [module]
    return [layer for child in cast(nn.Sequential, module) for layer in _single_layers(child)]


def stages_of(layers: Sequence[nn.Module]) -> list[Stage] | None:
    """Return the stages that ``layers`` are, or None if they are something else.

    Parameters
    ----------
    layers
        Behind the first ReLU: convolutions, BatchNorm, ReLU, convolutions, BatchNorm and so on.
    """
    stages: list[Stage] = []
    convolutions: list[FastConv2d] = []
    needs_relu = False
    for layer in layers:
        if needs_relu:
            if not isinstance(layer, nn.ReLU):
                return None
            needs_relu = False
        elif type(layer) is FastConv2d and layer.bias is None:
            convolutions.append(layer)
        elif isinstance(layer, nn.BatchNorm2d) and type(layer).forward in _PLAIN and convolutions:
            stages.append(Stage(convolutions, layer))
            convolutions, needs_relu = [], True
        else:
            return None
    return stages if stages and needs_relu else None


def weighted_sums(weights: torch.Tensor, features: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Return ``sum_k weights[t, k] * features[k]`` for every t, as one matrix product.

    Parameters
    ----------
    weights
        (targets, features).
    features
        Tensors of one shape (batch, channels, height, width).
    """
    stacked = torch.cat(list(features))  # unlike torch.stack, this keeps channels-last
    last = is_last(stacked)
    if last:
        stacked = stacked.permute(0, 2, 3, 1)
    rows = stacked.reshape(len(features), -1)
    if rows.device.type == "cpu":
        # not in bfloat16: on a CPU with AMX, oneDNN 3.12 divides by zero in the gradient of 3x3 weights over 524,288
        # values, which ends the process
        kind = torch.promote_types(rows.dtype, torch.float32)
        with torch.autocast("cpu", enabled=False):
            sums = (weights.to(kind) @ rows.to(kind)).to(rows.dtype)
    else:
        sums = weights.to(rows.dtype) @ rows
    sums = sums.view(len(weights), -1, *stacked.shape[1:])
    return (sums.permute(0, 1, 4, 2, 3) if last else sums).unbind(0)
