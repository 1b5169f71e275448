"""BatchNorm as a supernet has it: weighted by the mixture in one pass, and without counting its batches.

``num_batches_tracked`` is read where ``momentum`` is None alone, for a cumulative average. Everywhere else counting it
is a kernel of its own at every call, about 1,600 of them in a step of a DARTS supernet. The counter stays in the state
dict, as it was when the search began.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from nni.nas.nn.pytorch import MutableBatchNorm2d
from torch import nn

from nni_plugins.supernet.batch_norm import Running, is_narrow, running, scale_and_shift
from nni_plugins.supernet.chain import Stage, run_chain, runs_as_chain

_COUNTING = (nn.BatchNorm2d, MutableBatchNorm2d)
"""What is exchanged: exactly these, no subclass of someone else's. NNI's is torch's once its sizes are fixed."""


def scaled_batch_norm(norm: nn.BatchNorm2d, x: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Return ``weight * norm(x)`` in one pass, (batch, channels, height, width); ``weight`` is (channels,) or None."""
    if runs_as_chain([alone := Stage([], norm)], x) and is_narrow(x):
        return run_chain([alone], x, weight)
    scale, shift = scale_and_shift(norm, weight)
    if not norm.training and norm.running_mean is not None:
        return F.batch_norm(x, norm.running_mean, norm.running_var, scale, shift, False, 0.0, norm.eps)
    moved = running(norm) if norm.training else Running(None, None, 0.0, norm.eps)
    return F.batch_norm(x, moved.mean, moved.var, scale, shift, True, moved.momentum, norm.eps)


class UncountedBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` without the counting."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the normalised ``input``, as ``nn.BatchNorm2d`` does."""
        if torch.compiler.is_exporting() or torch.jit.is_tracing():
            return super().forward(input)
        self._check_input_dim(input)
        return scaled_batch_norm(self, input)


def uncounted(norm: nn.Module) -> UncountedBatchNorm2d | None:
    """Return ``norm`` without the counting, its parameters and buffers shared; None for one that reads its count."""
    if type(norm) not in _COUNTING or not isinstance(norm, nn.BatchNorm2d) or norm.momentum is None:
        return None
    exchanged = UncountedBatchNorm2d(
        norm.num_features, norm.eps, norm.momentum, affine=False, track_running_stats=norm.track_running_stats,
        device="meta",
    )  # fmt: skip
    exchanged.affine, exchanged.weight, exchanged.bias = norm.affine, norm.weight, norm.bias
    for name, buffer in norm.named_buffers():
        setattr(exchanged, name, buffer)
    return exchanged.train(norm.training)
