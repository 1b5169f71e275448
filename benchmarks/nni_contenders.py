"""NNI's own strategies beside ours: DARTS in the form that a run drives, random cells, regularized evolution."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from search_spaces import Genotype  # isort: skip  before NNI, or its DARTS is left unusable

import nni
import pytorch_lightning as pl
import torch
from nni.mutable import LabeledMutable, Sample
from nni.nas.evaluator.pytorch import Lightning, LightningModule
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.differentiable import DartsLightningModule
from nni.nas.oneshot.pytorch.supermodule.differentiable import DifferentiableMixedCell
from nni.nas.space import ExecutableModelSpace, ModelStatus
from nni.nas.strategy import DARTS, Random, RegularizedEvolution

from nni_plugins.data import SearchLoaders
from nni_plugins.methods.metric import ALPHA_GAP, DECIDED, Metrics
from nni_plugins.methods.spec import EpochEnd, MethodSpec, SearchMethod
from nni_plugins.report.collapse import mean_gap
from nni_plugins.report.decision import decidedness
from nni_plugins.tools.checked import Checked, setting

POPULATION, TOURNAMENT = 10, 3
"""Of the evolution: NNI's defaults, 100 and 25, are meant for more candidates than an hour can train."""


@dataclass(frozen=True)
class NNIDARTSChoices(Checked):
    """Settings of NNI's DARTS.

    Parameters
    ----------
    arch_learning_rate
        Adam's, on the architecture parameters.
    gradient_clip_val
        Largest gradient norm of the weights.
    """

    arch_learning_rate: float = setting(3e-4, above=0)
    gradient_clip_val: float = setting(5.0, above=0)


class NNIDARTS(SearchMethod, DARTS):
    """NNI's DARTS as it is, with the halves of the training set that our searches have."""

    choices: NNIDARTSChoices

    def __init__(self, **choices: Any) -> None:
        self.choices = NNIDARTSChoices(**choices)
        super().__init__(
            arc_learning_rate=self.choices.arch_learning_rate, gradient_clip_val=self.choices.gradient_clip_val
        )

    @classmethod
    def setting_names(cls) -> list[str]:
        """Return the names of the settings that ``__init__`` takes."""
        return NNIDARTSChoices.names()

    def make_evaluator(self, module: LightningModule, trainer: pl.Trainer, loaders: SearchLoaders) -> Lightning:
        """Return NNI's evaluator: a half for each of the two steps, no validation, as NNI has it."""
        return self.mutate_evaluator(Lightning(module, trainer, loaders.weights, loaders.architecture))

    def epoch_metrics(self, module: pl.LightningModule, epoch: EpochEnd) -> Metrics:
        """Return the training metrics, and how far alpha has decided between the candidates.

        NNI adds a zero candidate to every edge of a ``Cell``, as the last one, and never derives it; it is left out
        here.
        """
        assert isinstance(module, DartsLightningModule)
        mixed_cells = any(isinstance(m, DifferentiableMixedCell) for m in module.supernet_modules())
        kept = slice(-1) if mixed_cells else slice(None)
        alphas = torch.stack([alpha.detach()[kept] for alpha in module.arch_parameters()])
        weights = alphas.softmax(-1).cpu()
        return {**epoch.training, DECIDED: decidedness(weights), ALPHA_GAP: mean_gap(weights)}


NNI_DARTS = MethodSpec(
    name="nni_darts",
    strategy=NNIDARTS,
    summary="NNI's own DARTS",
    papers=("1806.09055",),
    search=MappingProxyType({"epochs": 50, "batch_size": 64, "lr": 0.025, "lr_min": 0.001, "weight_decay": 3e-4}),
)


class SampledCells(ExecutableModelSpace):
    """A space for NNI's multi-trial strategies in which a function says how good a sample is.

    Parameters
    ----------
    space
        The model space that is sampled; no model of it is built.
    evaluate
        From a sample to its metric, the larger the better.
    sample
        The one that this object stands for; None for the whole space.
    """

    evaluator = None

    def __init__(self, space: ModelSpace, evaluate: Callable[[Sample], float], sample: Sample | None = None) -> None:
        super().__init__(ModelStatus.Initialized if sample is None else ModelStatus.Frozen)
        self.space = space
        self.evaluate = evaluate
        self.sample = sample

    def leaf_mutables(self, is_leaf: Callable[[Any], bool]) -> Iterable[LabeledMutable]:
        return self.space.simplify().values()

    def check_contains(self, sample: Sample) -> Exception | None:
        return self.space.check_contains(sample)

    def freeze(self, sample: Sample) -> SampledCells:
        self.validate(sample)
        return SampledCells(self.space, self.evaluate, dict(sample))

    def execute(self) -> None:
        assert self.sample is not None
        nni.report_final_result(self.evaluate(self.sample))


class Until(SequentialExecutionEngine):
    """NNI's sequential engine with a budget of our own: it takes no more models once ``spent`` says so."""

    def __init__(self, spent: Callable[[], bool]) -> None:
        super().__init__()
        self.spent = spent

    def budget_available(self) -> bool:
        return not self.spent()


def random_cells(space: ModelSpace, name: str, number: int, seed: int) -> list[Genotype]:
    """Return different cells that NNI's random strategy draws; fewer of the same seed are the first of more.

    Parameters
    ----------
    space, name
        The model space, and what genotypes call it.
    number, seed
        How many, and of which seed.
    """
    samples: list[Sample] = []

    def keep(sample: Sample) -> float:
        samples.append(dict(sample))
        return 0.0

    Random(seed=seed)(SampledCells(space, keep), SequentialExecutionEngine(max_model_count=number))
    return [Genotype.from_sample(sample, name) for sample in samples]


def evolve(space: ModelSpace, evaluate: Callable[[Sample], float], spent: Callable[[], bool], seed: int) -> None:
    """Run NNI's regularized evolution, with a mean of one mutation a child, until the budget is spent.

    Parameters
    ----------
    space
        The model space.
    evaluate
        From a sample to its metric, the larger the better. The same answers lead to the same questions, so that an
        evolution resumes by being asked again.
    spent
        Whether the budget is spent, asked before every candidate.
    seed
        Of NNI's strategy.
    """
    strategy = RegularizedEvolution(
        population_size=POPULATION, sample_size=TOURNAMENT, mutation_prob=1 / len(space.simplify()), seed=seed
    )
    strategy(SampledCells(space, evaluate), Until(spent))
