"""What a person and NNI see of a run while it goes on: one dict and one line an epoch."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch

EpochMetrics = dict[str, Any]

SHOWN = (
    "validation_accuracy",
    "validation_loss",
    "training_accuracy",
    "training_loss",
    "architecture_loss",
    "weights_loss",
    "alpha_entropy",
    "parameter_free",
    "best_loss",
    "loss_spread",
    "diversity",
    "consistency_gap",
    "hessian",
    "table_cifar10",
    "seconds",
)
"""Metrics on the line of an epoch; the others are in the history and in TensorBoard."""


class EpochReport(pl.Callback):
    """Collect each epoch's metrics, keep them as history, log them, print a line and pass them on.

    Parameters
    ----------
    on_epoch
        Called with those metrics; this is where a trial reports to NNI.
    stage
        Word at the start of the line: ``search`` or ``retrain``.

    Attributes
    ----------
    measure
        From trainer and Lightning module to the metrics of the epoch that ends.
    stops
        Whether a run with this history is over before its last epoch.
    history
        Metrics of all epochs so far, those before an interruption included.
    """

    measure: Callable[[pl.Trainer, pl.LightningModule], EpochMetrics]
    stops: Callable[[list[EpochMetrics]], bool]

    def __init__(self, on_epoch: Callable[[EpochMetrics], None] | None = None, stage: str = "search") -> None:
        self.history: list[EpochMetrics] = []
        self.stops = lambda history: False
        self._on_epoch = on_epoch
        self._stage = stage
        self._started = time.perf_counter()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A run that was interrupted after its early end does not go on."""
        trainer.should_stop = self.stops(self.history)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        seconds = time.perf_counter() - self._started
        metrics = {
            "epoch": trainer.current_epoch,
            **self.measure(trainer, pl_module),
            "seconds": seconds,
            "memory_mb": peak_memory_mb(),
        }
        self.history.append(metrics)
        numbers = {name: value for name, value in metrics.items() if isinstance(value, (int, float))}
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=trainer.current_epoch)
        left = seconds * (int(trainer.max_epochs or 0) - trainer.current_epoch - 1)
        print(_line(self._stage, trainer, numbers, left), flush=True)
        trainer.should_stop = trainer.should_stop or self.stops(self.history)
        if self._on_epoch is not None:
            self._on_epoch(metrics)

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history[:] = state_dict["history"]


def _line(stage: str, trainer: pl.Trainer, numbers: EpochMetrics, left: float) -> str:
    shown = {name: numbers[name] for name in SHOWN if name in numbers}
    values = "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
    return f"{stage} epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {values}  left {_duration(left)}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def peak_memory_mb() -> float:
    """Largest memory so far in MB: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    per_unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * per_unit / 2**20


def show_bar() -> bool:
    """Whether a progress bar helps: on a terminal, not in a log file."""
    return sys.stderr.isatty()
