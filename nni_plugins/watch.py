"""What is measured of a gradient search at the end of every epoch, for people only: the search never sees it."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch

from search_spaces import Genotype

from .classifier import ImageClassifier
from .collapse import SKIP, mean_entropy, mean_gap, signs, skip_warning, stop_epoch, to_metrics
from .progress import EpochMetrics
from .settings import Settings
from .strategies.bilevel_module import BilevelModule
from .strategies.hessian import architecture_eigenvalue
from .supernet.consistency import consistency
from .table import Table, score

_logger = logging.getLogger(__name__)


class SearchWatch:
    """Losses, accuracy, signs of collapse, consistency, and on request Hessian eigenvalue and tabular accuracy.

    Parameters
    ----------
    settings
        Says what is measured.
    validation
        Batches of the architecture half, in order and without augmentation.
    history
        The metrics of the epochs so far; the caller appends to it.
    """

    def __init__(
        self, settings: Settings, validation: Iterable[tuple[torch.Tensor, torch.Tensor]], history: list[EpochMetrics]
    ) -> None:
        self._space = settings.space
        self._recipe = settings.search
        self._validation = validation
        self._table = None if settings.search.table is None else Table.load(settings.search.table)
        self.history = history
        self.stopped_at: int | None = None

    def __call__(self, trainer: pl.Trainer, module: pl.LightningModule) -> EpochMetrics:
        """Metrics of the epoch that ends."""
        assert isinstance(module, BilevelModule)
        classifier = module.training_module
        assert isinstance(classifier, ImageClassifier)
        classifier.epoch_metrics("training")  # of both kinds of step; the losses below tell them apart
        validation = classifier.epoch_metrics("validation")
        genotype = Genotype.from_sample(module.export(), self._space)
        if warning := skip_warning(genotype):
            _logger.warning("epoch %d: %s", trainer.current_epoch + 1, warning)
        metrics: EpochMetrics = {
            "default": validation["validation_accuracy"],
            **validation,
            **module.epoch_losses(),
            **self._signs(module, genotype),
            **self._consistency(module),
        }
        if self._table is not None:
            metrics |= {f"table_{name}": accuracy for name, accuracy in score(genotype, self._table).accuracy.items()}
        if self._recipe.hessian:
            images, labels = next(iter(self._validation))
            metrics["hessian"] = architecture_eigenvalue(module, images, labels)
            self._stop_early(trainer, metrics["hessian"])
        return {**metrics, "genotype": genotype.to_json()}

    def _signs(self, module: BilevelModule, genotype: Genotype) -> dict[str, Any]:
        by_kind: dict[str, list[torch.Tensor]] = {}
        for architecture in module.architectures():
            by_kind.setdefault(architecture.label.split("/")[0], []).append(architecture.probabilities())
        every = [row for tables in by_kind.values() for row in tables]
        found = signs(genotype, {kind: torch.cat(by_kind[kind]) for kind in genotype.cells})
        return {
            "alpha_entropy": sum(mean_entropy(p) * len(p) for p in every) / sum(len(p) for p in every),
            "alpha_gap": sum(mean_gap(p) * len(p) for p in every) / sum(len(p) for p in every),
            "parameter_free": sum(each.parameter_free for each in found.values()),
            SKIP: sum(each.skips for each in found.values()),
            **to_metrics(found),
        }

    def _consistency(self, module: BilevelModule) -> dict[str, float]:
        batches = self._recipe.consistency_batches
        if not batches:
            return {}
        measured = consistency(module.model, itertools.islice(iter(self._validation), batches))
        return {"derived_accuracy": measured.derived, "consistency_gap": measured.gap}

    def _stop_early(self, trainer: pl.Trainer, eigenvalue: float) -> None:
        eigenvalues = {each["epoch"]: each["hessian"] for each in self.history} | {trainer.current_epoch: eigenvalue}
        if self._recipe.hessian_stop and (chosen := stop_epoch(eigenvalues)) is not None:
            _logger.warning(
                "The Hessian's eigenvalue grows; the search stops after epoch %d and takes the cell of epoch %d.",
                trainer.current_epoch + 1,
                chosen + 1,
            )
            self.stopped_at = chosen
            trainer.should_stop = True


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
