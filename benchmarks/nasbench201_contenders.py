"""Strategies that search NAS-Bench-201 and tell after every epoch how well their supernets rank its cells.

Kendall's tau is between accuracies of fixed cells drawn at random, with the supernet's weights, and the table's test
accuracies; BatchNorm normalises with each batch. Of RelativeNAS also between the losses of a generation, which its
selection lives on, and the table.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from search_spaces import Genotype  # isort: skip  before NNI, or its DARTS is left unusable

import numpy as np
import pytorch_lightning as pl
from nni.nas.oneshot.pytorch.base_lightning import BaseOneShotLightningModule
from nni.nas.strategy import RandomOneShot
from nni_contenders import NNI_DARTS
from one_shot_ranking import accuracy, drawn_cells, tau

from nni_plugins import RFDARTS, BNASv2CLR, EnTranNAS, FirstOrderDARTS, RelativeNAS
from nni_plugins.methods.metric import Metric, Metrics
from nni_plugins.methods.relative_nas.one_shot import WeightSetModule
from nni_plugins.methods.spec import EpochEnd, MethodSpec, SearchMethod
from nni_plugins.report.nasbench201_table import Table, score
from nni_plugins.supernet.consistency import derived_subgraph, evaluating
from nni_plugins.tools.checked import Checked

SPACE = "nasbench201"
ONE_SHOT_TAU = Metric("one_shot_tau", "Kendall's tau of one-shot against tabular accuracy over cells drawn at random")
GENERATION_TAU = Metric("generation_tau", "Kendall's tau of a generation's negative losses against tabular accuracy")
BATCHES = 4
"""Validation batches of each one-shot accuracy."""

_SEARCH = MappingProxyType({"epochs": 50, "batch_size": 64, "lr": 0.025, "lr_min": 0.001})
"""NAS-Bench-201's own searches; the space sets Nesterov's momentum and the weight decay."""


@functools.cache
def table_at(path: str) -> Table:
    """Return the table; it is read once."""
    return Table.load(path)


@dataclass(frozen=True)
class NoChoices(Checked):
    """Of a strategy without settings of its own."""


class Ranking(SearchMethod):
    """Adds a supernet's ranking to the metrics of a strategy that this is mixed into.

    Parameters
    ----------
    ranked_by
        Path of the table.
    ranked_cells
        How many cells are ranked.
    **choices
        Of the strategy.
    """

    def __init__(self, *, ranked_by: str, ranked_cells: int = 64, **choices: Any) -> None:
        self.table = table_at(ranked_by)
        self.cells = drawn_cells(self.table, ranked_cells)
        super().__init__(**choices)

    @classmethod
    def setting_names(cls) -> list[str]:
        """Return the names of the settings that ``__init__`` takes."""
        return [*super().setting_names(), "ranked_by", "ranked_cells"]

    def running(self, module: BaseOneShotLightningModule, sample: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Let the supernet run one cell alone inside the block."""
        return derived_subgraph(module.model, sample)

    def epoch_metrics(self, module: pl.LightningModule, epoch: EpochEnd) -> Metrics:
        """Return the strategy's own metrics and the ranking."""
        assert isinstance(module, BaseOneShotLightningModule)
        batches = list(itertools.islice(iter(epoch.validation), BATCHES))
        found = []
        with evaluating(module.model):
            for sample in self.cells.samples:
                with self.running(module, sample):
                    found.append(accuracy(module.model, batches))
        return {**super().epoch_metrics(module, epoch), ONE_SHOT_TAU: tau(found, self.cells.accuracies)}


class RankingDARTS(Ranking, FirstOrderDARTS):
    """DARTS."""


class RankingRFDARTS(Ranking, RFDARTS):
    """RF-DARTS."""


class RankingCLR(Ranking, BNASv2CLR):
    """DARTS with the confident learning rate of BNAS-v2."""


class RankingEnTranNAS(Ranking, EnTranNAS):
    """EnTranNAS."""


class RankingRelativeNAS(Ranking, RelativeNAS):
    """RelativeNAS: the weight set's ranking and the generation's."""

    def epoch_metrics(self, module: pl.LightningModule, epoch: EpochEnd) -> Metrics:
        """Return RelativeNAS's metrics and both rankings."""
        assert isinstance(module, WeightSetModule)
        pairs = [
            (-loss, score(Genotype.from_sample(sample, SPACE), self.table).accuracy["cifar10"])
            for sample, loss in module.evaluated()
            if np.isfinite(loss)
        ]
        return {**super().epoch_metrics(module, epoch), GENERATION_TAU: tau(*zip(*pairs, strict=True))}


class SinglePath(Ranking, RandomOneShot):
    """NNI's RandomOneShot: one path, drawn uniformly, trains in each step; nothing is searched.

    Not stated in its paper (arXiv 1904.00420), whose ranking takes running statistics anew for every cell; here each
    batch's own, as of the other supernets.
    """

    choices = NoChoices()

    @contextmanager
    def running(self, module: BaseOneShotLightningModule, sample: Mapping[str, Any]) -> Iterator[None]:
        """Let the supernet run one cell; the next training step draws another one."""
        for mixture in module.supernet_modules():
            mixture.resample(dict(sample))
        yield


def _spec(name: str, strategy: type[Any], summary: str) -> MethodSpec:
    return MethodSpec(name=name, strategy=strategy, summary=summary, papers=(), search=_SEARCH)


DARTS = _spec("darts", RankingDARTS, "DARTS")
RF_DARTS = _spec("rf_darts", RankingRFDARTS, "RF-DARTS")
CLR = _spec("bnas_v2_clr", RankingCLR, "DARTS, confident learning rate")
ENTRANNAS = _spec("entrannas", RankingEnTranNAS, "EnTranNAS")
RELATIVE_NAS = _spec("relative_nas", RankingRelativeNAS, "RelativeNAS")
SINGLE_PATH = _spec("single_path", SinglePath, "NNI's single-path supernet")
__all__ = ["CLR", "DARTS", "ENTRANNAS", "NNI_DARTS", "RELATIVE_NAS", "RF_DARTS", "SINGLE_PATH"]
