"""BatchNorm that does not count its batches.

``num_batches_tracked`` is read where ``momentum`` is None alone, for a cumulative average. Everywhere else counting it
is a kernel of its own at every call, about 1,600 of them in a step of a DARTS supernet. The counter stays in the state
dict, as it was when the search began.
"""

from __future__ import annotations

import torch
from nni.nas.nn.pytorch import MutableBatchNorm2d
from torch import nn

from nni_plugins.supernet.operation import scaled_batch_norm

_COUNTING = (nn.BatchNorm2d, MutableBatchNorm2d)
"""What is replaced: exactly these, no subclass of someone else's. NNI's is torch's once its sizes are fixed."""


class UncountedBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` without the counting."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        self._check_input_dim(input)
        return scaled_batch_norm(self, input)


def stop_counting(module: nn.Module) -> None:
    """Let every BatchNorm inside ``module`` that never reads its count count no longer, in place; names stay."""
    replaced: dict[nn.BatchNorm2d, UncountedBatchNorm2d] = {}
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and type(child) in _COUNTING and child.momentum is not None:
                if child not in replaced:
                    replaced[child] = _uncounted(child)
                setattr(parent, name, replaced[child])


def _uncounted(norm: nn.BatchNorm2d) -> UncountedBatchNorm2d:
    uncounted = UncountedBatchNorm2d(
        norm.num_features, norm.eps, norm.momentum, affine=False, track_running_stats=norm.track_running_stats,
        device="meta",
    )  # fmt: skip
    uncounted.affine, uncounted.weight, uncounted.bias = norm.affine, norm.weight, norm.bias
    for name, buffer in norm.named_buffers():
        setattr(uncounted, name, buffer)
    return uncounted.train(norm.training)
