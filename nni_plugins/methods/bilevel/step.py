"""One bilevel step in Lightning: who has gradients when, and what is stepped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from nni.nas.evaluator.pytorch import LightningModule
from nni.nas.oneshot.pytorch.differentiable import DartsLightningModule
from torch import nn

from nni_plugins.methods.bilevel.choices import Choices
from nni_plugins.methods.bilevel.gradients import first_order, second_order, without_gradients
from nni_plugins.methods.divergence import FiniteLosses
from nni_plugins.methods.latency import LatencyPenalty
from nni_plugins.supernet.architecture import CellArchitecture, ChoiceArchitecture
from nni_plugins.tools.ranks import averaged


class BilevelModule(DartsLightningModule):
    """The Lightning module of a bilevel search around the evaluator's own.

    Parameters
    ----------
    training_module
        The evaluator's module; its ``training_step`` gives both losses, its optimiser steps the weights.
    choices
        The parts of the search.

    Attributes
    ----------
    initial_sample
        NNI's sample of the architecture that the initial parameters stand for, drawn anew from the same seed where a
        search resumes.
    latency
        Added to the loss of the architecture step; None for none.
    """

    def __init__(
        self, training_module: LightningModule, choices: Choices, latency: LatencyPenalty | None = None
    ) -> None:
        super().__init__(
            training_module,
            arc_learning_rate=choices.arch_learning_rate,
            gradient_clip_val=choices.gradient_clip_val,
            warmup_epochs=choices.warmup_epochs,
        )
        self.choices = choices
        self.initial_sample: dict[str, Any] = {}
        self.latency = latency
        self._losses = FiniteLosses()
        self._epoch_losses: dict[str, list[torch.Tensor]] = {"architecture": [], "weights": []}

    def architectures(self) -> list[CellArchitecture | ChoiceArchitecture]:
        """Architecture parameters by label, in the order of the network."""
        found = (m for m in self.modules() if isinstance(m, (CellArchitecture, ChoiceArchitecture)))
        return list(dict.fromkeys(found))

    def arch_parameters(self) -> list[nn.Parameter]:
        """Architecture parameters in the order of the network (NNI's own order differs between processes)."""
        return [p for architecture in self.architectures() for p in architecture.parameters()]

    def weight_parameters(self) -> list[nn.Parameter]:
        """Return what the weight optimiser steps."""
        return [p for group in self._weight_optimizer().param_groups for p in group["params"]]

    def export(self) -> dict[str, Any]:
        """Return the derived architecture as NNI's sample."""
        return {label: value for a in self.architectures() for label, value in a.export().items()}

    # One step

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        if self.current_epoch >= self.choices.warmup_epochs:
            self._watch("architecture", batch_idx, self._architecture_step(batch, batch_idx))
        loss = self._weight_step(batch["train"], batch_idx)
        self._watch("weights", batch_idx, loss)
        self.advance_lr_schedulers(batch_idx)
        return loss

    def _architecture_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        """Step the architecture parameters; return the validation loss that they had."""
        alpha, w = self.arch_parameters(), self.weight_parameters()

        def validation() -> torch.Tensor:
            loss = self._loss(batch["val"], 2 * batch_idx)
            return loss if self.latency is None else loss + self.latency.of(self.latency.expected(self.architectures()))

        def training() -> torch.Tensor:
            return self._loss(batch["train"], 2 * batch_idx + 1)

        if self.choices.unrolled:
            loss, gradients = second_order(training, validation, alpha, w, self._weight_optimizer())
        else:
            loss, gradients = first_order(validation, alpha, w)
        for parameter, gradient in zip(alpha, gradients, strict=True):
            parameter.grad = gradient
        if self.choices.arch_gradient_clip_val is not None:
            nn.utils.clip_grad_norm_(alpha, self.choices.arch_gradient_clip_val)
        self.architecture_optimizers().step()  # type: ignore[union-attr]
        return loss.detach()

    def _weight_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Step the weights; return the training loss that they had."""
        with without_gradients(self.arch_parameters()):
            loss = self._loss(batch, 2 * batch_idx + 1)
            self.advance_optimization(loss, batch_idx, self.choices.gradient_clip_val)
        return loss.detach()

    def _loss(self, batch: Any, index: int) -> torch.Tensor:
        result = self.training_module.training_step(batch, index)
        return result["loss"] if isinstance(result, dict) else result

    # Around the steps

    def setup(self, stage: str = "") -> None:
        """Note where the architecture starts, before Lightning loads a checkpoint."""
        self.initial_sample = self.export()
        super().setup(stage)

    def configure_architecture_optimizers(self) -> torch.optim.Optimizer:
        parameters = self.arch_parameters()
        choices = self.choices
        return torch.optim.Adam(
            parameters, choices.arch_learning_rate, betas=choices.arch_betas, weight_decay=choices.arch_weight_decay
        )

    def postprocess_weight_optimizers(self, optimizer: Any) -> Any:
        """Leave architecture parameters and frozen weights to no weight optimiser."""
        for group in _param_groups(super().postprocess_weight_optimizers(optimizer)):
            group["params"] = [p for p in group["params"] if p.requires_grad]
        return optimizer

    def _weight_optimizer(self) -> torch.optim.Optimizer:
        return next(o for o in self.trainer.optimizers if not getattr(o, "is_arch_optimizer", False))

    def on_train_epoch_start(self) -> None:
        """Set the architecture learning rate and the temperature of the epoch."""
        factor = self.choices.arch_lr.factor(self.current_epoch, self.trainer.max_epochs or 1)
        for optimizer in self.trainer.optimizers:
            if getattr(optimizer, "is_arch_optimizer", False):
                for group in optimizer.param_groups:
                    group["lr"] = self.choices.arch_learning_rate * factor
        for architecture in self.architectures():
            architecture.set_epoch(self.current_epoch)
        self.training_module.on_train_epoch_start()

    def on_train_epoch_end(self) -> None:
        self._losses.check()
        self.training_module.on_train_epoch_end()

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return self.training_module.validation_step(batch, batch_idx)

    def on_validation_epoch_start(self) -> None:
        self._losses.check()
        self.training_module.on_validation_epoch_start()

    def on_validation_epoch_end(self) -> None:
        self.training_module.on_validation_epoch_end()

    def epoch_losses(self) -> dict[str, float]:
        """Return mean losses since the last call, of ``architecture`` steps (if there were any) and ``weights``."""
        means = {kind: float(torch.stack(losses).mean()) for kind, losses in self._epoch_losses.items() if losses}
        self._epoch_losses = {kind: [] for kind in self._epoch_losses}
        return dict(zip(means, averaged(list(means.values())), strict=True))

    def _watch(self, kind: str, batch_idx: int, loss: torch.Tensor) -> None:
        self._epoch_losses[kind].append(loss.detach())
        self._losses.add(loss, epoch=self.current_epoch, step=batch_idx)


def _param_groups(optimizers: Any) -> Iterator[dict[str, Any]]:
    if isinstance(optimizers, torch.optim.Optimizer):
        yield from optimizers.param_groups
    elif isinstance(optimizers, dict):
        yield from _param_groups(optimizers.get("optimizer"))
    elif isinstance(optimizers, (list, tuple)):
        for item in optimizers:
            yield from _param_groups(item)
