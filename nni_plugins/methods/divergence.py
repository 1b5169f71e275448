"""A loss that is not finite ends a search or a retraining before more time goes into it."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch

from nni_plugins.tools.diverged import Diverged

STEPS_BETWEEN_CHECKS = 16
ADVICE = "lower the learning rate, set gradient_clip_val, or check the data for values that are not finite"


class FiniteLosses:
    """Losses of the latest steps; the device is asked about many of them at once, since each question stalls a GPU."""

    def __init__(self) -> None:
        self._unchecked: list[tuple[int, int, torch.Tensor]] = []

    def add(self, loss: torch.Tensor, *, epoch: int, step: int) -> None:
        """Note the loss (a scalar on any device) of a step, and check all that are noted every 16 calls.

        Raises
        ------
        Diverged
            As :meth:`check`.
        """
        self._unchecked.append((epoch, step, loss.detach()))
        if len(self._unchecked) >= STEPS_BETWEEN_CHECKS:
            self.check()

    def check(self) -> None:
        """Check the losses that are not checked yet.

        Raises
        ------
        Diverged
            If one is not finite; the message names the first, its epoch and its step, both counted from 0.
        """
        noted, self._unchecked = self._unchecked, []
        if not noted:
            return
        finite = torch.stack([loss for *_, loss in noted]).isfinite().tolist()
        for (epoch, step, loss), fine in zip(noted, finite, strict=True):
            if not fine:
                raise Diverged(f"The loss became {loss.item()} in epoch {epoch}, step {step}; {ADVICE}.")


class StopWhenDiverged(pl.Callback):
    """Raise :class:`Diverged` when the loss that Lightning minimises is not finite, before the epoch is reported."""

    def __init__(self) -> None:
        self._losses = FiniteLosses()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._losses.add(outputs["loss"], epoch=trainer.current_epoch, step=batch_idx)
        if trainer.is_last_batch:  # what reports and checkpoints the epoch comes after this
            self._losses.check()
