"""What is measured of a search at the end of every epoch.

Measuring changes nothing in the search: weights, architecture parameters and random states are the same with and
without it. One measurement may end a search early, and only on request (``hessian_stop``).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from nni.nas.oneshot.pytorch.base_lightning import BaseOneShotLightningModule

from nni_plugins.methods.metric import (
    CHANGED_SINCE_FIRST,
    DEFAULT,
    EPOCHS_UNCHANGED,
    PARAMETER_FREE,
    SKIP_CONNECT,
    VALIDATION_ACCURACY,
    Metric,
    Metrics,
)
from nni_plugins.methods.spec import EpochEnd, Strategy
from nni_plugins.report.collapse import SKIP, picked_operations, stop_epoch
from nni_plugins.report.decision import epochs_unchanged, share_changed
from nni_plugins.report.latency_table import LatencyTable
from nni_plugins.report.nasbench201_table import Table, score
from nni_plugins.run.classifier import ImageClassifier
from nni_plugins.run.epoch_report import EpochRecord, History
from nni_plugins.run.recipes import SearchRecipe
from nni_plugins.run.settings import Settings
from search_spaces import Genotype
from search_spaces.operation_names import PARAMETER_FREE as WITHOUT_PARAMETERS

_logger = logging.getLogger(__name__)

PREDICTED_LATENCY = Metric("predicted_latency", "latency of the cell's network by the latency table, ms")


class SearchMeasure:
    """Measure accuracy, the derived cell, what the strategy has to tell, and on request the cell's rank in a table.

    Parameters
    ----------
    settings
        Says what is measured.
    strategy
        Measures what only its kind of search has.
    validation
        Batches of the architecture half, in order and without augmentation.
    latency_table
        Predicts the latency of every epoch's cell; None if that is not measured.

    Raises
    ------
    FileNotFoundError
        If there is no table where the settings name one.
    ValueError
        If it is no table, or the space has none.
    """

    def __init__(
        self,
        settings: Settings,
        strategy: Strategy,
        validation: Iterable[tuple[torch.Tensor, torch.Tensor]],
        latency_table: LatencyTable | None = None,
    ) -> None:
        self._space = settings.space
        self._recipe = settings.search
        self._strategy = strategy
        self._validation = validation
        self._latency_table = latency_table
        self._table = None if settings.search.table is None else Table.load(settings.search.table)
        if self._table is not None and settings.space != "nasbench201":
            raise ValueError(
                f"table is for cells of the nasbench201 space, but the space is {settings.space}; leave table out, or "
                "search nasbench201."
            )

    def __call__(self, trainer: pl.Trainer, module: pl.LightningModule, history: History) -> EpochRecord:
        """Return the record of the epoch that ends; ``history`` has those before it."""
        assert isinstance(module, BaseOneShotLightningModule)
        classifier = module.training_module
        assert isinstance(classifier, ImageClassifier)
        training, validation = classifier.epoch_metrics("training"), classifier.epoch_metrics("validation")
        genotype = Genotype.from_sample(module.export(), self._space)
        cells = [*(Genotype.from_json(epoch["genotype"]) for epoch in history), genotype]
        picks = [operation for operations in picked_operations(genotype).values() for operation in operations]
        own = self._strategy.epoch_metrics(
            module,
            EpochEnd(
                genotype,
                training,
                self._validation,
                self._recipe.consistency_batches,
                self._recipe.hessian or self._recipe.hessian_stop,
            ),
        )
        metrics: Metrics = {
            DEFAULT: validation.get(VALIDATION_ACCURACY),
            **validation,
            PARAMETER_FREE: sum(operation in WITHOUT_PARAMETERS for operation in picks),
            SKIP_CONNECT: picks.count(SKIP),
            **own,
            CHANGED_SINCE_FIRST: share_changed(genotype, cells[0]),
            EPOCHS_UNCHANGED: epochs_unchanged(cells),
            **self._in_the_table(genotype),
            **self._latency(genotype),
        }
        return EpochRecord(trainer.current_epoch, metrics, genotype.to_json())

    def _latency(self, genotype: Genotype) -> Metrics:
        return {} if self._latency_table is None else {PREDICTED_LATENCY: self._latency_table.predict(genotype)}

    def _in_the_table(self, genotype: Genotype) -> Metrics:
        if self._table is None:
            return {}
        return {
            Metric(
                f"table_{name}", f"test accuracy of the cell in the table on {name}, percent", on_line=name == "cifar10"
            ): accuracy
            for name, accuracy in score(genotype, self._table).accuracy.items()
        }


def hessian_stop_epoch(recipe: SearchRecipe, history: Sequence[dict[str, Any]] | History) -> int | None:
    """Return the epoch (from 0) whose cell to take because the Hessian's eigenvalue grows; None to continue."""
    if not recipe.hessian_stop:
        return None
    chosen = stop_epoch({each["epoch"]: each["hessian"] for each in history})
    if chosen is not None:
        _logger.warning(
            "The Hessian's eigenvalue grows; the search stops after epoch %d and takes the cell of epoch %d.",
            len(history),
            chosen + 1,
        )
    return chosen
