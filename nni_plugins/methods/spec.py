"""What a method declares, once and beside its class, and what a run asks of its strategy.

Names on the command line, defaults, help texts and the README's table follow from the declarations. A method of another
package declares itself the same way, under the entry point group ``nni_plugins.methods``. Declarations are read without
importing torch or NNI.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

if TYPE_CHECKING:
    import pytorch_lightning as pl
    import torch
    from nni.nas.evaluator.pytorch import Lightning, LightningModule
    from nni.nas.nn.pytorch import ModelSpace

    from nni_plugins.data import SearchLoaders
    from nni_plugins.methods.latency import LatencyPenalty
    from nni_plugins.methods.metric import Metrics
    from nni_plugins.tools.checked import Checked
    from search_spaces import Genotype

Values = Mapping[str, Any]

PUBLISHED_EPOCHS = 50
"""Length of the searches in the papers of all methods here, in epochs (generations of RelativeNAS)."""


@dataclass(frozen=True)
class EpochEnd:
    """What a strategy may look at when it measures an epoch.

    Parameters
    ----------
    genotype
        The cell that the search stands for now.
    training
        Loss and accuracy over the training steps of the epoch.
    validation
        Batches of the architecture half, in order and without augmentation.
    consistency_batches, hessian
        As in :class:`~nni_plugins.run.recipes.SearchRecipe`; ``hessian`` also where only ``hessian_stop`` asks for it.
    """

    genotype: Genotype
    training: Metrics
    validation: Iterable[tuple[torch.Tensor, torch.Tensor]]
    consistency_batches: int
    hessian: bool


class Strategy(Protocol):
    """An NNI one-shot strategy as a run drives it; :class:`SearchMethod` has a default for all but ``choices``."""

    preset: ClassVar[Values]
    extra_epochs: ClassVar[int]
    unused_settings: ClassVar[tuple[str, ...]]

    def __init__(self, **choices: Any) -> None: ...

    @property
    def choices(self) -> Checked:
        """All settings of the strategy, those of its preset included."""

    @classmethod
    def setting_names(cls) -> list[str]:
        """Return the names of the settings that ``__init__`` takes."""

    @classmethod
    def fitted(cls, choices: Values, epochs: int) -> dict[str, Any]:
        """Return ``choices`` with what follows from the length of the search; refuse what does not fit it."""

    def limit_latency(self, penalty: LatencyPenalty) -> None:
        """Let latency count in the search, or refuse."""

    def mutate_model(self, model: ModelSpace) -> ModelSpace:
        """Turn ``model`` into a supernet, in place."""

    def make_evaluator(self, module: LightningModule, trainer: pl.Trainer, loaders: SearchLoaders) -> Lightning:
        """Return NNI's evaluator of the search, ready to be given the supernet."""

    def epoch_metrics(self, module: pl.LightningModule, epoch: EpochEnd) -> Metrics:
        """Return what only this kind of search measures; ``module`` is the evaluator's."""

    def too_short(self, steps: int, epochs: int) -> str | None:
        """Return a sentence, with the fix, if a search of ``epochs`` epochs of ``steps`` steps cannot decide."""

    def undecided(self, module: pl.LightningModule, last: Mapping[str, float]) -> str | None:
        """Return a sentence, with the fix, if a search has ended undecided; ``last`` are its last epoch's metrics."""


class SearchMethod:
    """Defaults of a :class:`Strategy` that suit any one-shot strategy of NNI; mixed in before NNI's class."""

    preset: ClassVar[Values] = MappingProxyType({})
    """Settings in which the method differs from its family's defaults."""
    extra_epochs: ClassVar[int] = 0
    """Epochs of the Trainer beyond those of the search."""
    unused_settings: ClassVar[tuple[str, ...]] = ("compile", "consistency_batches", "hessian", "hessian_stop")
    """Fields of :class:`~nni_plugins.run.recipes.SearchRecipe` that mean nothing to the method."""

    choices: Any

    @classmethod
    def setting_names(cls) -> list[str]:
        """Return the names of the settings that ``__init__`` takes; by default there are none."""
        return []

    @classmethod
    def fitted(cls, choices: Values, epochs: int) -> dict[str, Any]:
        """Return ``choices`` with what follows from the length of the search; by default as they are."""
        return dict(choices)

    def limit_latency(self, penalty: LatencyPenalty) -> None:
        """Refuse to let latency count.

        Raises
        ------
        ValueError
            By default.
        """
        raise ValueError(
            f"{type(self).__name__} does not let latency count in its search; leave latency_weight out, or take a "
            "gradient method or relative_nas."
        )

    def make_evaluator(self, module: LightningModule, trainer: pl.Trainer, loaders: SearchLoaders) -> Lightning:
        """Return NNI's evaluator: the weights half to train on, the architecture half to validate on."""
        from nni.nas.evaluator.pytorch import Lightning

        evaluator = Lightning(module, trainer, loaders.weights, loaders.validation)
        return cast(Any, self).mutate_evaluator(evaluator)

    def epoch_metrics(self, module: pl.LightningModule, epoch: EpochEnd) -> Metrics:
        """Return loss and accuracy of the training steps."""
        return epoch.training

    def too_short(self, steps: int, epochs: int) -> str | None:
        """Return nothing: a method without a sign of its own is not judged."""
        return None

    def undecided(self, module: pl.LightningModule, last: Mapping[str, float]) -> str | None:
        """Return nothing: a method without a sign of its own is not judged."""
        return None


LARGE_BATCH: Values = MappingProxyType({"batch_size": 1024, "lr": 0.5, "schedule": "linear", "lr_warmup_epochs": 5})
"""Retraining on ImageNet as PC-DARTS (arXiv 1907.05737) does it, and those who evaluate as it does."""


@dataclass(frozen=True)
class OnSpace:
    """What the paper of a method sets on one space.

    Parameters
    ----------
    arguments
        Of the search space, where the paper takes another form of it.
    evaluation
        By stem, fields of :class:`~nni_plugins.run.recipes.RetrainRecipe` that differ from the space's own evaluation.
    sizes
        By stem, sizes of the evaluation network that differ from the space's own.
    """

    arguments: Values = field(default_factory=dict)
    evaluation: Mapping[str, Values] = field(default_factory=dict)
    sizes: Mapping[str, Values] = field(default_factory=dict)


@dataclass(frozen=True)
class MethodSpec:
    """One method of the command line.

    Parameters
    ----------
    name
        What ``--strategy`` and NNI's parameters call it.
    strategy
        The class, or where it is, ``package.module:Class``, so that the declaration is read without importing torch.
    summary
        What it is, in one line.
    papers
        Their arXiv numbers.
    search
        Fields of :class:`~nni_plugins.run.recipes.SearchRecipe` as published for CIFAR-10.
    spaces
        The spaces that its paper searches, by name; others are allowed.
    quick
        What small images such as digits need set otherwise, by the names and with the values or texts that ``--set``
        takes: fields of the search recipe, settings of the strategy.
    """

    name: str
    strategy: type[Strategy] | str
    summary: str
    papers: tuple[str, ...]
    search: Values = field(default_factory=dict)
    spaces: Mapping[str, OnSpace] = field(default_factory=dict)
    quick: Values = field(default_factory=dict)

    def load_strategy(self) -> type[Strategy]:
        """Return the class; this imports torch and NNI.

        Raises
        ------
        ImportError, AttributeError
            If :attr:`strategy` does not exist.
        """
        if not isinstance(self.strategy, str):
            return self.strategy
        module, _, name = self.strategy.partition(":")
        return getattr(importlib.import_module(module), name)

    def on(self, space: str) -> OnSpace:
        """Return what the paper sets on ``space``."""
        return self.spaces.get(space, OnSpace())
