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
"""What changes: exactly these, no subclass of someone else's. NNI's is torch's once its sizes are fixed."""


class UncountedBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` without the counting."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        self._check_input_dim(input)
        return scaled_batch_norm(self, input)


def stop_counting(module: nn.Module) -> None:
    """Let every BatchNorm in ``module`` that never reads its count count no longer.

    They change their class and nothing else, so that whoever holds one holds the same one afterwards.
    """
    for norm in module.modules():
        if type(norm) in _COUNTING and norm.momentum is not None:
            norm.__class__ = UncountedBatchNorm2d
