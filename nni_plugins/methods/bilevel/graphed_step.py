"""The bilevel step with both its halves captured as CUDA graphs.

A search on a GPU waits for Python to launch tens of thousands of small kernels a step; a graph launches them all at
once. What each half captures, and what is done by hand at a replay because no Python runs:

| | architecture step | weight step |
| --- | --- | --- |
| captured | forward, gradients of alpha, clipping, Adam | forward, backward, clipping, the weights' optimiser |
| by hand | Lightning's count of steps; derived connections are forgotten | Lightning's count of steps |
| outside | metrics, the check of losses, learning rates | the same |

Both are captured anew in every epoch, and whenever a learning rate or a connection that Transit-cells run changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from nni.nas.evaluator.pytorch import Lightning
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nni_plugins.methods.bilevel.captured_step import CapturedStep, Graphs
from nni_plugins.methods.bilevel.cuda_graphs import CudaGraphs
from nni_plugins.methods.bilevel.step import BilevelModule
from nni_plugins.supernet.architecture import CellArchitecture
from nni_plugins.supernet.cell import MixedCell


class GraphedBilevelModule(BilevelModule):
    """A :class:`~nni_plugins.methods.bilevel.step.BilevelModule` that captures its steps and replays them.

    The capture itself has not been run on a GPU; see :mod:`nni_plugins.methods.bilevel.cuda_graphs`.
    """

    make_graphs: ClassVar[Callable[[], Graphs]] = CudaGraphs

    def on_fit_start(self) -> None:
        refuse_counting_batch_norm(self.model)
        graphs = type(self).make_graphs()
        self._architecture_half = self._captured(super()._architecture_step, graphs, of_architecture=True)
        self._weight_half = self._captured(super()._weight_step, graphs, of_architecture=False)
        super().on_fit_start()

    def on_fit_end(self) -> None:
        """Let the graphs and their memory go."""
        del self._architecture_half, self._weight_half
        super().on_fit_end()

    def _captured(
        self, step: Callable[[Any, int], torch.Tensor], graphs: Graphs, *, of_architecture: bool
    ) -> CapturedStep:
        def unlogged(batch: Any, batch_idx: int) -> torch.Tensor:
            with self._refusing_logs():
                return step(batch, batch_idx)

        def replayed() -> None:
            self._count_step(of_architecture)
            if of_architecture:
                for architecture in self.architectures():
                    if isinstance(architecture, CellArchitecture):
                        architecture.forget_derived()

        return CapturedStep(unlogged, self._fixed, graphs, self.training_module, replayed)

    def _architecture_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        return self._architecture_half({"val": batch["val"]}, batch_idx)

    def _weight_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self._weight_half(batch, batch_idx)

    def _fixed(self) -> object:
        """Return what a graph holds fixed: the epoch and all that is set by it, rates, connections that run."""
        groups = [group for optimizer in self.trainer.optimizers for group in optimizer.param_groups]
        rates = [{name: value for name, value in group.items() if name != "params"} for group in groups]
        transit = [m for m in self.modules() if isinstance(m, MixedCell) and not m.engine]
        return self.current_epoch, rates, [cell.architecture.connected() for cell in transit]

    def _count_step(self, of_architecture: bool) -> None:
        """Let Lightning count a step of which it has not seen its optimiser's ``step``."""
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            if getattr(optimizer, "is_arch_optimizer", False) == of_architecture:
                optimizer._on_before_step()
                optimizer._on_after_step()

    @contextmanager
    def _refusing_logs(self) -> Iterator[None]:
        def refuse(*_: Any, **__: Any) -> None:
            raise ValueError(
                f"cuda_graphs replays a training_step without its Python code, but that of "
                f"{type(self.training_module).__name__} calls self.log; update torchmetrics in it and log them at the "
                "end of an epoch, or leave cuda_graphs out."
            )

        log, self.training_module.log = self.training_module.log, refuse
        try:
            yield
        finally:
            self.training_module.log = log

    def configure_architecture_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam as it is, but with its count of steps on the device, where a graph reads it."""
        optimizer = super().configure_architecture_optimizers()
        for group in optimizer.param_groups:
            group["capturable"] = True
        return optimizer


def refuse_counting_batch_norm(supernet: nn.Module) -> None:
    """Refuse a BatchNorm with a cumulative average, whose momentum is worked out on the host at every step.

    Raises
    ------
    ValueError
        With its name.
    """
    for name, module in supernet.named_modules():
        if isinstance(module, _BatchNorm) and module.momentum is None:
            raise ValueError(
                f"cuda_graphs cannot capture the cumulative average of {name} (BatchNorm with momentum=None); give it "
                "a momentum, or leave cuda_graphs out."
            )


def refuse_other_trainer(evaluator: Lightning) -> None:
    """Refuse a Trainer on several devices, or on another one than a GPU.

    Raises
    ------
    ValueError
        As its name says.
    """
    trainer = evaluator.trainer
    devices = trainer.num_devices * trainer.num_nodes
    if devices > 1:
        raise ValueError(
            f"cuda_graphs captures the steps of one device, but the search is on {devices}; set devices=1, or leave "
            "cuda_graphs out."
        )
    if trainer.strategy.root_device.type != "cuda":
        raise ValueError(
            f"cuda_graphs needs a Trainer on a CUDA device, but this one is on {trainer.strategy.root_device.type}; "
            "pass accelerator='gpu', or leave cuda_graphs out."
        )
