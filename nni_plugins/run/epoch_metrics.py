"""What is measured of a search at the end of every epoch, for people only: the search never sees it."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from nni.nas.oneshot.pytorch.base_lightning import BaseOneShotLightningModule

from nni_plugins.methods.bilevel.hessian import architecture_eigenvalue
from nni_plugins.methods.bilevel.step import BilevelModule
from nni_plugins.methods.relative_nas.one_shot import WeightSetModule
from nni_plugins.report.collapse import (
    SKIP,
    mean_entropy,
    mean_gap,
    picked_operations,
    signs,
    skip_warning,
    stop_epoch,
    to_metrics,
)
from nni_plugins.report.nasbench201_table import Table, score
from nni_plugins.run.classifier import ImageClassifier
from nni_plugins.run.epoch_report import EpochMetrics
from nni_plugins.run.settings import SearchRecipe, Settings
from nni_plugins.supernet.consistency import consistency
from search_spaces import Genotype
from search_spaces.operation_names import PARAMETER_FREE

_logger = logging.getLogger(__name__)


class SearchWatch:
    """Accuracy, the derived cell, its parameter-free picks, and on request its accuracy in a table.

    Parameters
    ----------
    settings
        Says what is measured.
    """

    def __init__(self, settings: Settings) -> None:
        self._space = settings.space
        self._recipe = settings.search
        self._table = None if settings.search.table is None else Table.load(settings.search.table)

    def __call__(self, trainer: pl.Trainer, module: pl.LightningModule) -> EpochMetrics:
        """Metrics of the epoch that ends."""
        assert isinstance(module, BaseOneShotLightningModule)
        classifier = module.training_module
        assert isinstance(classifier, ImageClassifier)
        training, validation = classifier.epoch_metrics("training"), classifier.epoch_metrics("validation")
        genotype = Genotype.from_sample(module.export(), self._space)
        picks = [operation for operations in picked_operations(genotype).values() for operation in operations]
        metrics: EpochMetrics = {
            "default": validation["validation_accuracy"],
            **validation,
            "parameter_free": sum(operation in PARAMETER_FREE for operation in picks),
            SKIP: picks.count(SKIP),
            **self._of_the_search(module, genotype, training),
        }
        if self._table is not None:
            metrics |= {f"table_{name}": accuracy for name, accuracy in score(genotype, self._table).accuracy.items()}
        return {**metrics, "genotype": genotype.to_json()}

    def _of_the_search(self, module: pl.LightningModule, genotype: Genotype, training: EpochMetrics) -> EpochMetrics:
        """What only one kind of search has; ``training`` are loss and accuracy of its training steps."""
        raise NotImplementedError


class PopulationWatch(SearchWatch):
    """A :class:`SearchWatch` with the validation losses of a generation and its diversity."""

    def _of_the_search(self, module: pl.LightningModule, genotype: Genotype, training: EpochMetrics) -> EpochMetrics:
        assert isinstance(module, WeightSetModule)
        return {**training, **module.generation_metrics()}


class GradientWatch(SearchWatch):
    """A :class:`SearchWatch` with losses of both steps, signs of collapse, consistency and Hessian eigenvalue.

    Parameters
    ----------
    settings
        Says what is measured.
    validation
        Batches of the architecture half, in order and without augmentation.
    """

    def __init__(self, settings: Settings, validation: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
        super().__init__(settings)
        self._validation = validation

    def _of_the_search(self, module: pl.LightningModule, genotype: Genotype, training: EpochMetrics) -> EpochMetrics:
        assert isinstance(module, BilevelModule)
        if warning := skip_warning(genotype):
            _logger.warning("epoch %d: %s", module.current_epoch + 1, warning)
        metrics = {**module.epoch_losses(), **self._signs(module, genotype), **self._consistency(module)}
        if self._recipe.hessian or self._recipe.hessian_stop:
            images, labels = next(iter(self._validation))
            metrics["hessian"] = architecture_eigenvalue(module, images, labels)
        return metrics

    def _signs(self, module: BilevelModule, genotype: Genotype) -> dict[str, Any]:
        by_kind: dict[str, list[torch.Tensor]] = {}
        for architecture in module.architectures():
            by_kind.setdefault(architecture.label.split("/")[0], []).append(architecture.probabilities())
        every = [row for tables in by_kind.values() for row in tables]
        found = signs(genotype, {kind: torch.cat(by_kind[kind]) for kind in genotype.cells})
        return {
            "alpha_entropy": sum(mean_entropy(p) * len(p) for p in every) / sum(len(p) for p in every),
            "alpha_gap": sum(mean_gap(p) * len(p) for p in every) / sum(len(p) for p in every),
            **to_metrics(found),
        }

    def _consistency(self, module: BilevelModule) -> dict[str, float]:
        batches = self._recipe.consistency_batches
        if not batches:
            return {}
        measured = consistency(module.model, itertools.islice(iter(self._validation), batches))
        return {"derived_accuracy": measured.derived, "consistency_gap": measured.gap}


def hessian_stop_epoch(recipe: SearchRecipe, history: Sequence[EpochMetrics]) -> int | None:
    """The epoch (from 0) whose cell to take because the Hessian's eigenvalue grows; None while the search goes on."""
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


def genotype_of_epoch(history: Sequence[EpochMetrics], epoch: int) -> Genotype:
    """The cell that a search stood for after epoch ``epoch``, counted from 1.

    Raises
    ------
    ValueError
        If the search did not have that epoch.
    """
    found = [metrics for metrics in history if metrics["epoch"] == epoch - 1]
    if not found:
        raise ValueError(f"The search has the epochs 1 to {len(history)}, not {epoch}.")
    return Genotype.from_json(found[0]["genotype"])
