"""Time and memory of training steps under Lightning: of the GPU where there is one, else of this process."""

from __future__ import annotations

import statistics
import time
from typing import Any

import pytorch_lightning as pl
import torch
from memory import PeakMemory


class StepCosts(pl.Callback):
    """Times every step from the moment its batch is there, and measures memory from the first one on.

    Parameters
    ----------
    warm_up
        Steps at the start that are not counted.
    """

    def __init__(self, warm_up: int) -> None:
        self._warm_up = warm_up
        self._cuda = torch.cuda.is_available()
        self._seconds: list[float] = []
        self._started = 0.0
        self._memory: PeakMemory

    def on_train_start(self, *_: Any) -> None:
        self._memory = PeakMemory()

    def on_train_batch_start(self, *_: Any) -> None:
        self._started = self._now()

    def on_train_batch_end(self, *_: Any) -> None:
        self._seconds.append(self._now() - self._started)

    def _now(self) -> float:
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def seconds(self) -> float:
        """Return the median of the steps that count."""
        return statistics.median(self._seconds[self._warm_up :])

    def peak_mb(self) -> float:
        """Return the MB at the peak, above those before the first step."""
        return self._memory.mb()


def bare_trainer(costs: StepCosts, precision: str, **arguments: Any) -> pl.Trainer:
    """Return a trainer of one epoch on one device that does nothing but train."""
    from nni.nas.evaluator.pytorch import Trainer

    return Trainer(
        max_epochs=1, accelerator="gpu" if torch.cuda.is_available() else "cpu", devices=1, precision=precision,
        callbacks=[costs], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0, num_sanity_val_steps=0, **arguments,
    )  # fmt: skip
