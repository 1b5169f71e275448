"""Search: from settings to a genotype, resumable after every epoch."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl

from nni_plugins.data import ImageSet, SearchLoaders, search_loaders
from nni_plugins.methods.spec import Strategy
from nni_plugins.run.classifier import ImageClassifier
from nni_plugins.run.compiled import CompiledSteps, compile_cells
from nni_plugins.run.devices import OnEpoch, on_devices
from nni_plugins.run.epoch_metrics import SearchMeasure, hessian_stop_epoch
from nni_plugins.run.epoch_report import EpochReport, History
from nni_plugins.run.genotypes import genotype_of_epoch
from nni_plugins.run.latency import load_table, penalty_of
from nni_plugins.run.networks import build_space
from nni_plugins.run.out_of_memory import advising_a_smaller_batch
from nni_plugins.run.settings import Settings
from nni_plugins.run.training import channels_last, device, make_trainer, resume_arguments
from nni_plugins.supernet.fast_layers import lay_out
from search_spaces import Genotype

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchResult:
    """What a search leaves: the architecture, NNI's sample of it, and the metrics of every epoch."""

    genotype: Genotype
    sample: dict[str, Any]
    history: History


class SearchParts(NamedTuple):
    """What a search trains, on what, and how it is measured."""

    strategy: Strategy
    supernet: Any
    loaders: SearchLoaders
    measure: SearchMeasure


def build_search(settings: Settings, data: ImageSet) -> SearchParts:
    """Return the parts of a search, its supernet freshly initialised from the settings' seed.

    Raises
    ------
    ValueError
        If the strategy cannot search the space, or a setting does not fit the data; if the latency table is none, or
        one of other networks.
    """
    pl.seed_everything(settings.seed, verbose=False)
    strategy, recipe = settings.make_strategy(), settings.search
    table = load_table(settings, data)
    if (penalty := penalty_of(table, settings)) is not None:
        strategy.limit_latency(penalty)
    supernet: Any = strategy.mutate_model(build_space(settings, data))
    lay_out(supernet, channels_last=channels_last(recipe))
    if recipe.compile:
        compile_cells(supernet)
    loaders = search_loaders(
        data,
        batch_size=recipe.batch_size,
        seed=settings.seed,
        device=device(),
        fractions=(recipe.weights_fraction, recipe.architecture_fraction),
        cutout=recipe.cutout,
        augment_validation=recipe.augment_validation,
        channels_last=channels_last(recipe),
    )
    return SearchParts(strategy, supernet, loaders, SearchMeasure(settings, strategy, loaders.validation, table))


def search(
    settings: Settings,
    data: ImageSet,
    folder: Path,
    on_epoch: OnEpoch | None = None,
) -> SearchResult:
    """Run the search of ``settings``, or resume it where ``folder`` says it was interrupted.

    A search that ends undecided says so in one warning, with the setting to change.

    Parameters
    ----------
    settings
        Strategy, space, recipe, seed.
    data
        Only its training images are used.
    folder
        Checkpoints and logs.
    on_epoch
        Called with the record of every finished epoch.

    Raises
    ------
    ValueError
        As :func:`build_search`; if there are not as many devices as the recipe says.
    Diverged
        If a loss is not finite.
    MemoryError
        If memory does not hold the batches.
    ChildProcessError
        If the process of one of several devices has died.
    """
    recipe = settings.search
    with advising_a_smaller_batch("search", "batch_size", recipe.batch_size):
        return on_devices(recipe.devices, _search, settings, data, folder, on_epoch=on_epoch, what="search")


def _search(settings: Settings, data: ImageSet, folder: Path, on_epoch: OnEpoch | None) -> SearchResult:
    parts, recipe = build_search(settings, data), settings.search
    report = EpochReport(
        "search",
        parts.measure,
        on_epoch,
        stops=lambda history: hessian_stop_epoch(recipe, history) is not None,
    )
    trainer = make_trainer(
        recipe,
        folder,
        report,
        extra_epochs=parts.strategy.extra_epochs,
        callbacks=[CompiledSteps()] if recipe.compile else [],
    )
    evaluator = parts.strategy.make_evaluator(ImageClassifier(recipe, data.num_classes), trainer, parts.loaders)
    evaluator.fit_kwargs = resume_arguments(folder / "search")
    evaluator.evaluate(parts.supernet)
    if (epoch := hessian_stop_epoch(recipe, report.history)) is not None:
        genotype = genotype_of_epoch(report.history, epoch + 1)
        return SearchResult(genotype, genotype.to_sample(), report.history)
    if warning := parts.strategy.undecided(evaluator.module, report.history[-1]):
        _logger.warning("%s", warning)
    sample = evaluator.module.export()
    return SearchResult(Genotype.from_sample(sample, settings.space), sample, report.history)
