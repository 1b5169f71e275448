"""The Lightning module that trains an image classifier, a supernet as well as a derived network."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, cast

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
import torchmetrics
from nni.nas.evaluator.pytorch import LightningModule
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    LRScheduler,
    SequentialLR,
)
from torchmetrics.classification import MulticlassAccuracy

from nni_plugins.methods.divergence import StopWhenDiverged
from nni_plugins.methods.metric import (
    TRAINING_ACCURACY,
    TRAINING_LOSS,
    VALIDATION_ACCURACY,
    VALIDATION_LOSS,
    Metric,
    Metrics,
)
from nni_plugins.run.recipes import Recipe
from search_spaces.cells import set_drop_path

_METRICS: Mapping[str, tuple[Metric, Metric]] = MappingProxyType(
    {"training": (TRAINING_LOSS, TRAINING_ACCURACY), "validation": (VALIDATION_LOSS, VALIDATION_ACCURACY)}
)


class ImageClassifier(LightningModule):
    """Cross-entropy, SGD and a learning rate per epoch.

    Parameters
    ----------
    recipe
        Optimiser and schedule.
    num_classes
        Classes to tell apart.
    drop_path
        Probability at the last epoch; grows linearly from 0.
    auxiliary_weight
        Weight of the loss of a second output, where the network has one in training.
    """

    def __init__(
        self, recipe: Recipe, num_classes: int, *, drop_path: float = 0.0, auxiliary_weight: float = 0.0
    ) -> None:
        super().__init__()
        self.recipe = recipe
        self.drop_path = drop_path
        self.auxiliary_weight = auxiliary_weight
        self.means = torch.nn.ModuleDict()
        for stage in ("training", "validation"):
            # what they would check of their input waits for the device at every step
            self.means[f"{stage}_loss"] = torchmetrics.MeanMetric(nan_strategy="disable")
            self.means[f"{stage}_accuracy"] = MulticlassAccuracy(num_classes, average="micro", validate_args=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images)

    def on_train_epoch_start(self) -> None:
        if self.drop_path:
            set_drop_path(self.model, self.drop_path * self.trainer.current_epoch / self.recipe.epochs)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        images, labels = batch
        output = self.model(images)
        logits, *auxiliary = output if isinstance(output, tuple) else (output,)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        # a search takes training steps in evaluation mode to validate a candidate
        self._record("training" if self.training else "validation", loss, logits, labels)
        for extra in auxiliary:
            loss = loss + self.auxiliary_weight * F.cross_entropy(
                extra, labels, label_smoothing=self.recipe.label_smoothing
            )
        return loss

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        images, labels = batch
        logits = self.model(images)
        # of every image, so that the mean does not depend on how they are cut into batches
        self._record("validation", F.cross_entropy(logits, labels, reduction="none"), logits, labels)

    def _record(self, stage: str, loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        self._mean(f"{stage}_loss").update(loss.detach())
        self._mean(f"{stage}_accuracy").update(logits.detach(), labels)

    def _mean(self, name: str) -> torchmetrics.Metric:
        return cast(torchmetrics.Metric, self.means[name])

    def epoch_metrics(self, stage: Literal["training", "validation"]) -> Metrics:
        """Return mean loss and accuracy (percent) since the last call; nothing if there was no batch."""
        loss, accuracy = self._mean(f"{stage}_loss"), self._mean(f"{stage}_accuracy")
        if not accuracy.update_called:
            return {}
        of_loss, of_accuracy = _METRICS[stage]
        metrics = {of_loss: float(loss.compute()), of_accuracy: 100 * float(accuracy.compute())}
        loss.reset()
        accuracy.reset()
        return metrics

    def configure_callbacks(self) -> list[pl.Callback]:
        """Stop a training of this module that diverges; around a supernet it is the search's module that is asked."""
        return [StopWhenDiverged()]

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        optimizer = torch.optim.SGD(
            [p for p in self.parameters() if p.requires_grad],
            lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, nesterov=recipe.nesterov,
        )  # fmt: skip
        warmup = min(recipe.lr_warmup_epochs, recipe.epochs - 1)
        schedule = falling(optimizer, recipe, recipe.epochs - warmup)
        if warmup:
            rise = LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
            schedule = SequentialLR(optimizer, [rise, schedule], milestones=[warmup])
        return [optimizer], [schedule]


def falling(optimizer: torch.optim.Optimizer, recipe: Recipe, epochs: int) -> LRScheduler:
    """Return the recipe's schedule after its warm-up: the rate of epoch e = 0 .. epochs - 1.

    ``cosine`` is ``lr_min + (lr - lr_min) (1 + cos(pi e / epochs)) / 2`` and ``linear`` is
    ``lr + (lr_min - lr) e / epochs``, both just short of ``lr_min`` in the last epoch; ``exponential`` is
    ``lr * lr_decay ** e``.
    """
    if recipe.schedule == "linear":
        return LinearLR(optimizer, 1.0, recipe.lr_min / recipe.lr, total_iters=epochs)
    if recipe.schedule == "exponential":
        return ExponentialLR(optimizer, recipe.lr_decay)
    return CosineAnnealingLR(optimizer, epochs, eta_min=recipe.lr_min)
