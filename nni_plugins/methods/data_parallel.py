"""Data-parallel training under Lightning, for searches and retraining: every rank has a share of each batch.

    gradient = mean over ranks of the gradient on the rank's share
    running statistic of BatchNorm <- its mean over ranks

Lightning's own DDP finds gradients by hooks, which do not see ``torch.autograd.grad`` (alpha's gradients), and reckons
with the same weights in every backward pass, while supernets leave out cells and candidates. Hence nothing is wrapped
here: gradients are averaged when a backward pass has ended, those of alpha where they are computed
(:mod:`nni_plugins.methods.bilevel.gradients`). BatchNorm normalises with the rank's share alone, as is usual. A running
statistic is a linear function of those of the batches, so that its mean over ranks after every backward pass is what
averaging each batch's statistics gives; no training step reads it before.
"""

from __future__ import annotations

import itertools

import torch
from nni.nas.evaluator.pytorch import Lightning
from pytorch_lightning.strategies import DDPStrategy
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nni_plugins.tools.ranks import average_, take_from_the_first


class DataParallel(DDPStrategy):
    """Lightning's strategy for one device per process, without its wrapper around the module."""

    def configure_ddp(self) -> None:
        """Start all ranks from the parameters and buffers of the first."""
        module = self.lightning_module
        assert module is not None
        take_from_the_first(tensor.data for tensor in itertools.chain(module.parameters(), module.buffers()))

    def post_backward(self, closure_loss: torch.Tensor) -> None:
        """Average the gradients that have just been computed, and BatchNorm's running statistics, over all ranks."""
        module = self.lightning_module
        assert module is not None
        gradients = [p.grad for p in module.parameters() if p.requires_grad and p.grad is not None]
        average_([*gradients, *running_statistics(module)])


def running_statistics(module: nn.Module) -> list[torch.Tensor]:
    """Return the running means and variances of every BatchNorm in ``module``, those of training."""
    norms = (norm for norm in module.modules() if isinstance(norm, _BatchNorm))
    kept = ((norm.running_mean, norm.running_var) for norm in norms)
    return [statistic for statistics in kept for statistic in statistics if statistic is not None]


def refuse_other_parallelism(evaluator: Lightning) -> None:
    """Refuse a Trainer on several devices whose strategy would not average all that a search computes.

    Raises
    ------
    ValueError
        If there are several devices under another strategy than :class:`DataParallel`.
    """
    trainer = evaluator.trainer
    devices = trainer.num_devices * trainer.num_nodes
    if devices > 1 and not isinstance(trainer.strategy, DataParallel):
        raise ValueError(
            f"A search on several devices averages the architecture's gradients itself, but the Trainer was given "
            f"{devices} devices with {type(trainer.strategy).__name__}; pass devices=1, or run nni-plugins search "
            f"--set devices={devices}."
        )
