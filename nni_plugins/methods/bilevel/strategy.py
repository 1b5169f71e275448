"""The bilevel search that every gradient method of this package shares.

    min over alpha of  L_val(w*(alpha), alpha)    with    w*(alpha) = argmin over w of  L_train(w, alpha)

One step descends alpha on a batch of the architecture half, then w on a batch of the weights half [DARTS eq. 3-4,
algorithm 1]. How alpha's gradient stands for ``w*`` is :mod:`nni_plugins.methods.bilevel.gradients`; the step itself is
:mod:`nni_plugins.methods.bilevel.step`; a method is a preset over :mod:`nni_plugins.methods.bilevel.choices`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import pytorch_lightning as pl
from nni.nas.evaluator.pytorch import Lightning, LightningModule
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.strategy import DARTS, OneShotStrategy, no_default_hook

from nni_plugins.data import SearchLoaders
from nni_plugins.methods.bilevel.choices import Choices
from nni_plugins.methods.bilevel.cuda_graphs import refuse_missing_cuda
from nni_plugins.methods.bilevel.graphed_step import GraphedBilevelModule, refuse_other_trainer
from nni_plugins.methods.bilevel.metrics import measure
from nni_plugins.methods.bilevel.step import BilevelModule
from nni_plugins.methods.data_parallel import refuse_other_parallelism
from nni_plugins.methods.latency import LatencyPenalty
from nni_plugins.methods.metric import ALPHA_GAP, Metrics
from nni_plugins.methods.spec import PUBLISHED_EPOCHS, EpochEnd, SearchMethod, Values
from nni_plugins.report.decision import DECIDED_GAP, rate_to_decide, rounded_up
from nni_plugins.supernet.build import Builder
from nni_plugins.supernet.channels import PartialChannels
from nni_plugins.supernet.fast_layers import lay_out, prefers_channels_last, use_fast_layers
from nni_plugins.tools.allocator import keep_freed_memory
from search_spaces.arguments import refuse_unknown

ModelSpaceType = TypeVar("ModelSpaceType", bound=ModelSpace)

DECIDING_PATH = 10.0
"""Length of the path along which alpha's Adam takes it, rate times steps, that a decision needs on small data.

Not stated in any of the papers; measured on digits: a path of 10 comes to a gap of 0.32 on NAS-Bench-201's space
(BNAS-D, 50 epochs), one of 18 to 0.13 on BCNN's (8 epochs). On CIFAR-10 the published settings have 0.5 to 6, over many
more steps, whose gradients agree better.
"""


class BilevelSearch(SearchMethod, DARTS):
    """Differentiable architecture search as an NNI one-shot strategy.

    Parameters
    ----------
    mutation_hooks
        As in NNI: hooks for mutables of your own, asked first.
    **choices
        Fields of :class:`~nni_plugins.methods.bilevel.choices.Choices` that differ from the preset.

    Raises
    ------
    ValueError
        If a setting does not exist or is out of range; the message lists the valid ones.
    """

    unused_settings: ClassVar[tuple[str, ...]] = ()
    choices: Choices
    latency: LatencyPenalty | None = None

    def __init__(self, *, mutation_hooks: Sequence[Any] | None = None, **choices: Any) -> None:
        refuse_unknown(choices, Choices.names(), owner=f"{type(self).__name__} has")
        self.choices = Choices(**{**self.preset, **choices})
        super().__init__(
            arc_learning_rate=self.choices.arch_learning_rate,
            gradient_clip_val=self.choices.gradient_clip_val,
            warmup_epochs=self.choices.warmup_epochs,
            mutation_hooks=list(mutation_hooks or []),
        )

    @classmethod
    def setting_names(cls) -> list[str]:
        """Return the names of the settings that ``__init__`` takes."""
        return Choices.names()

    @classmethod
    def fitted(cls, choices: Values, epochs: int) -> dict[str, Any]:
        """Return ``choices`` with a warm-up that keeps the paper's share of a search of another length.

        Raises
        ------
        ValueError
            If the warm-up leaves no epoch to the architecture.
        """
        published = cls.preset.get("warmup_epochs", 0)
        fitted = dict(choices)
        if published and "warmup_epochs" not in choices and epochs != PUBLISHED_EPOCHS:
            fitted["warmup_epochs"] = round(published * epochs / PUBLISHED_EPOCHS)
        refuse_endless_warmup(cls(**fitted).choices.warmup_epochs, epochs)
        return fitted

    def mutate_model(self, model: ModelSpaceType) -> ModelSpaceType:
        """Turn ``model`` into a supernet, in place.

        Raises
        ------
        ValueError
            If the strategy cannot search this space, or not on this machine; nothing is changed then.
        """
        choices = self.choices
        if choices.cuda_graphs:
            refuse_missing_cuda()
        self._builder = Builder(
            choices.relaxation,
            choices.channels,
            choices.features,
            choices.engine_cells,
            prepare=choices.trains.prepare_operation,
            merge_edges=choices.merge_edges,
        )
        self._builder.check(model)
        self.choices.trains.check_space(model)
        supernet = OneShotStrategy.mutate_model(self, model)
        self.choices.trains.freeze(supernet)
        use_fast_layers(supernet)
        lay_out(supernet, channels_last=prefers_channels_last())
        return supernet

    def limit_latency(self, penalty: LatencyPenalty) -> None:
        """Add ``penalty`` to the loss of every architecture step; to be called before the evaluator is made.

        Raises
        ------
        ValueError
            With ``cuda_graphs``: the penalty's costs come from the host at every step.
        """
        if self.choices.cuda_graphs:
            raise ValueError("cuda_graphs does not capture a latency penalty; leave latency_weight or cuda_graphs out.")
        self.latency = penalty

    def default_mutation_hooks(self) -> list[Any]:
        return [self._builder.hook, no_default_hook]

    def run_hook(self, hook: Any, name: str, module: Any, memo: dict[str, Any]) -> Any:
        return hook(module, name, memo, {})

    def configure_oneshot_module(self, training_module: LightningModule) -> BilevelModule:
        kind = GraphedBilevelModule if self.choices.cuda_graphs else BilevelModule
        return kind(training_module, self.choices, self.latency)

    def mutate_evaluator(self, evaluator: Lightning) -> Lightning:
        refuse_other_parallelism(evaluator)
        if self.choices.cuda_graphs:
            refuse_other_trainer(evaluator)
        refuse_endless_warmup(self.choices.warmup_epochs, evaluator.trainer.max_epochs)
        keep_freed_memory()
        return super().mutate_evaluator(evaluator)

    def make_evaluator(self, module: LightningModule, trainer: pl.Trainer, loaders: SearchLoaders) -> Lightning:
        """Return NNI's evaluator: a half for each of the two steps, and validation without augmentation."""
        evaluator = self.mutate_evaluator(Lightning(module, trainer, loaders.weights, loaders.architecture))
        evaluator.val_dataloaders = loaders.evaluation
        return evaluator

    def epoch_metrics(self, module: pl.LightningModule, epoch: EpochEnd) -> Metrics:
        """Return losses of both steps, signs of collapse, consistency, and the Hessian's eigenvalue if asked for."""
        assert isinstance(module, BilevelModule)
        return measure(module, epoch)

    def too_short(self, steps: int, epochs: int) -> str | None:
        """Return a sentence with the settings that let the search decide, where alpha's path is too short."""
        choices, path = self.choices, self._path(steps, epochs)
        if path >= DECIDING_PATH:
            return None
        fix = f"--set arch_learning_rate={rounded_up(choices.arch_learning_rate * DECIDING_PATH / path):g}"
        if isinstance(choices.channels, PartialChannels) and choices.arch_weight_decay:
            fix += " --set arch_weight_decay=0"  # it outweighs their weak gradient, see `undecided`
        return (
            f"arch_learning_rate={choices.arch_learning_rate:g} moves alpha by {path:.2g} at the most in the "
            f"{steps * (epochs - choices.warmup_epochs)} steps that this data gives the architecture, too little to "
            f"prefer an operation; the search decides with {fix} (our own estimate, not a published value)."
        )

    def undecided(self, module: pl.LightningModule, last: Mapping[str, float]) -> str | None:
        """Return a sentence with what would have let the search decide: another rate, or no weight decay of alpha.

        Adam takes the sum of the gradient and of ``arch_weight_decay * alpha``. Where the gradient is weak, as with
        partial channels, alpha stays where the two are equal, at any rate. Not stated in the papers; measured in
        docs/figures.md.
        """
        assert isinstance(module, BilevelModule)
        choices, trainer = self.choices, module.trainer
        gap, tables = last[ALPHA_GAP.name], [each.probabilities() for each in module.architectures()]
        candidates = sum(table.numel() for table in tables) / sum(len(table) for table in tables)
        if not 0 < gap < DECIDED_GAP:
            return None
        before = choices.arch_learning_rate
        rate = rate_to_decide(before, gap, candidates)
        fix = f"a search as long decides at about --set arch_learning_rate={rate:g} (it was {before:g})"
        path = self._path(int(trainer.num_training_batches), trainer.max_epochs or 0)
        if path >= DECIDING_PATH and choices.arch_weight_decay:
            fix = (
                "the rate would let alpha go far enough, but its weight decay holds it back: --set arch_weight_decay=0 "
                f"(it was {choices.arch_weight_decay:g})"
            )
        return (
            f"The search has not decided: an edge's best operation leads by {gap:.2g} of weight on average, and "
            f"{DECIDED_GAP} makes a decision, so that chance has picked much of the cell; {fix}."
        )

    def _path(self, steps: int, epochs: int) -> float:
        """Return how far Adam could take alpha: the sum of the rates of all architecture steps."""
        choices = self.choices
        factors = sum(choices.arch_lr.factor(epoch, epochs) for epoch in range(choices.warmup_epochs, epochs))
        return choices.arch_learning_rate * factors * steps

    def val_dataloader(self, train_dataloader_fn: Any, val_dataloader_fn: Any) -> Any:
        """Return the validation data, so that every epoch reports an accuracy (NNI's DARTS validates nothing)."""
        return val_dataloader_fn()


def refuse_endless_warmup(warmup_epochs: int, epochs: int | None) -> None:
    """Refuse a warm-up after which there is no epoch left, so that alpha would never train.

    Raises
    ------
    ValueError
        If the search, of ``epochs`` epochs, is not longer than its warm-up.
    """
    if epochs is not None and 0 <= epochs <= warmup_epochs:
        raise ValueError(
            f"warmup_epochs={warmup_epochs} leaves none of the {epochs} epochs to the architecture; lower it or raise "
            "epochs (the Trainer's max_epochs)."
        )
