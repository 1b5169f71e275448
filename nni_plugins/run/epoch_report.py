"""What a person and NNI see of a run while it runs: one record and one line an epoch."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch

from nni_plugins.methods.metric import MEMORY_MB, SECONDS, Metrics

History = list[dict[str, Any]]
"""The flat dicts of all epochs, as they lie in ``report.json``."""


@dataclass(frozen=True)
class EpochRecord:
    """What was measured of one epoch.

    Parameters
    ----------
    epoch
        Its number, from 0.
    metrics
        What was measured.
    genotype
        The cell that the search stood for at its end, as JSON; None where there is no search.
    """

    epoch: int
    metrics: Metrics
    genotype: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the record as one flat dict, for the history."""
        measured = {metric.name: value for metric, value in self.metrics.items() if value is not None}
        genotype = {} if self.genotype is None else {"genotype": self.genotype}
        return {"epoch": self.epoch, **measured, **genotype}

    def on_page(self) -> dict[str, float]:
        """Return what NNI's page shows: the same names in every epoch, without numbers that its JSON cannot say."""
        shown = {
            metric.name: metric.unmeasured if value is None else value
            for metric, value in self.metrics.items()
            if metric.on_page
        }
        return {name: float(value) for name, value in shown.items() if value is not None and math.isfinite(value)}


Measure = Callable[[pl.Trainer, pl.LightningModule, History], EpochRecord]
"""From trainer, Lightning module and the epochs so far to the record of the epoch that ends."""


class EpochReport(pl.Callback):
    """Collect each epoch's record, keep it as history, log it, print a line and pass it on.

    Parameters
    ----------
    stage
        Word at the start of the line: ``search``, ``retrain`` or ``evaluate``.
    measure
        What to measure at the end of an epoch.
    on_epoch
        Called with every record; this is where a trial reports to NNI.
    stops
        Whether a run with this history is over before its last epoch; never by default.

    Attributes
    ----------
    history
        All epochs so far, those before an interruption included.
    """

    def __init__(
        self,
        stage: str,
        measure: Measure,
        on_epoch: Callable[[EpochRecord], None] | None = None,
        stops: Callable[[History], bool] = lambda history: False,
    ) -> None:
        self.stage = stage
        self.history: History = []
        self._measure = measure
        self._on_epoch = on_epoch
        self._stops = stops
        self._started = time.perf_counter()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave a run as it is that was interrupted after its early end."""
        trainer.should_stop = self._stops(self.history)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        seconds = time.perf_counter() - self._started
        measured = self._measure(trainer, pl_module, self.history)
        costs = {SECONDS: seconds, MEMORY_MB: peak_memory_mb()}
        record = EpochRecord(measured.epoch, {**measured.metrics, **costs}, measured.genotype)
        self.history.append(record.to_dict())
        numbers = {metric.name: value for metric, value in record.metrics.items() if value is not None}
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=trainer.current_epoch)
        left = seconds * (int(trainer.max_epochs or 0) - trainer.current_epoch - 1)
        trainer.should_stop = trainer.should_stop or self._stops(self.history)
        if trainer.is_global_zero:
            print(_line(self.stage, trainer, record.metrics, left), flush=True)
        if self._on_epoch is not None:
            self._on_epoch(record)

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history[:] = state_dict["history"]


def _line(stage: str, trainer: pl.Trainer, metrics: Metrics, left: float) -> str:
    values = "  ".join(
        f"{metric.name} {value:.4g}" for metric, value in metrics.items() if metric.on_line and value is not None
    )
    return f"{stage} epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {values}  left {_duration(left)}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def peak_memory_mb() -> float:
    """Return the largest memory so far in MB: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    per_unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * per_unit / 2**20


def show_bar() -> bool:
    """Return whether a progress bar helps: on a terminal, not in a log file."""
    return sys.stderr.isatty()
