"""The bilevel search that every gradient method of this package shares.

    min over alpha of  L_val(w*(alpha), alpha)    with    w*(alpha) = argmin over w of  L_train(w, alpha)

One step descends alpha on a batch of the architecture half, then w on a batch of the weights half [DARTS eq. 3-4,
algorithm 1]. First order takes ``w* = w``; second order (``unrolled``) takes ``w' = w - lr * grad_w L_train(w, alpha)``
and the finite difference [DARTS eq. 7-8]

    grad_alpha L_val(w', alpha)  -  (grad_alpha L_train(w+, alpha) - grad_alpha L_train(w-, alpha)) / (2 r)

with ``w+- = w +- r * d``, ``d = lr * grad_w' L_val(w', alpha)``, ``r = 0.01 / ||d||``; every weight has the learning
rate of its parameter group.

A method is a choice of independent parts (:class:`Choices`); the named methods in this folder are presets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

from nni.nas.evaluator.pytorch import Lightning, LightningModule
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.strategy import DARTS, OneShotStrategy, no_default_hook

from nni_plugins.methods.bilevel.schedules import Constant, Schedule
from nni_plugins.methods.bilevel.step import BilevelModule
from nni_plugins.methods.bilevel.trainable import Everything, Trainable
from nni_plugins.supernet.build import Builder, EngineCells
from nni_plugins.supernet.channels import AllChannels, Channels
from nni_plugins.supernet.features import Features, PerEdge
from nni_plugins.supernet.relaxation import Relaxation, Softmax

ModelSpaceType = TypeVar("ModelSpaceType", bound=ModelSpace)


@dataclass(frozen=True)
class Choices:
    """The independent choices of a bilevel search.

    Parameters
    ----------
    relaxation
        From architecture parameters to mixture weights and to the derived cell.
    channels
        Which channels are mixed.
    features
        What the edges that leave a node share.
    engine_cells
        Which cells mix: their numbers in the order of the network, ``"first"`` for the first of every kind, or None for
        all. The others are Transit-cells: they run their derived connections alone.
    trains
        Which weights train.
    arch_lr
        Schedule of the architecture learning rate: a factor on ``arch_learning_rate``.
    arch_learning_rate, arch_betas, arch_weight_decay
        Adam on the architecture parameters.
    arch_gradient_clip_val, gradient_clip_val
        Largest gradient norm of architecture parameters and of weights; None for no clipping.
    warmup_epochs
        Epochs at the start in which only the weights train.
    unrolled
        Second order.
    """

    relaxation: Relaxation = field(default_factory=Softmax)
    channels: Channels = field(default_factory=AllChannels)
    features: Features = field(default_factory=PerEdge)
    engine_cells: EngineCells = None
    trains: Trainable = field(default_factory=Everything)
    arch_lr: Schedule = field(default_factory=Constant)
    arch_learning_rate: float = 3e-4
    arch_betas: tuple[float, float] = (0.5, 0.999)
    arch_weight_decay: float = 1e-3
    arch_gradient_clip_val: float | None = None
    gradient_clip_val: float | None = 5.0
    warmup_epochs: int = 0
    unrolled: bool = False

    def __post_init__(self) -> None:
        for name, (method, example) in _PARTS.items():
            if not hasattr(getattr(self, name), method):
                raise ValueError(f"{name} must be a part such as {example}, got {getattr(self, name)!r}.")
        if not _is_number(self.arch_learning_rate) or not self.arch_learning_rate > 0:
            raise ValueError(f"arch_learning_rate must be positive, got {self.arch_learning_rate!r}.")
        if not _is_number(self.arch_weight_decay) or self.arch_weight_decay < 0:
            raise ValueError(f"arch_weight_decay must be at least 0, got {self.arch_weight_decay!r}.")
        if len(self.arch_betas) != 2 or not all(_is_number(beta) and 0 <= beta < 1 for beta in self.arch_betas):
            raise ValueError(f"arch_betas must be two numbers from 0 to below 1, got {self.arch_betas!r}.")
        object.__setattr__(self, "arch_betas", tuple(self.arch_betas))
        if type(self.warmup_epochs) is not int or self.warmup_epochs < 0:
            raise ValueError(f"warmup_epochs must be a whole number of at least 0, got {self.warmup_epochs!r}.")
        if not isinstance(self.unrolled, bool):
            raise ValueError(f"unrolled must be true or false, got {self.unrolled!r}.")
        for name in ("gradient_clip_val", "arch_gradient_clip_val"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and value > 0):
                raise ValueError(f"{name} must be positive, or None for no clipping, got {value!r}.")
        if self.engine_cells is not None and self.engine_cells != "first":
            object.__setattr__(self, "engine_cells", _cell_numbers(self.engine_cells))

    @classmethod
    def names(cls) -> list[str]:
        """Every setting, in the order of the docstring."""
        return [each.name for each in dataclasses.fields(cls)]


def refuse_many_devices(evaluator: Lightning) -> None:
    """Refuse a Trainer on more than one device; data-parallel searches are not what the papers do.

    Raises
    ------
    ValueError
        If there is more than one.
    """
    devices = evaluator.trainer.num_devices * evaluator.trainer.num_nodes
    if devices > 1:
        raise ValueError(
            f"A search runs on one device, but the Trainer was given {devices}; pass devices=1 and run one trial per "
            "GPU instead."
        )


_PARTS = MappingProxyType(
    {
        "relaxation": ("derive", "EdgeNormalisation()"),
        "channels": ("split", "PartialChannels(fraction=4)"),
        "features": ("shares", "PerSource()"),
        "trains": ("freeze", "BatchNormOnly()"),
        "arch_lr": ("factor", "Confident(power=2)"),
    }
)
"""Fields that hold a part: a method that every such part has, and an example."""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _cell_numbers(numbers: Any) -> tuple[int, ...]:
    if not isinstance(numbers, (list, tuple)) or not all(type(number) is int for number in numbers):
        raise ValueError(
            f"engine_cells must be numbers of cells such as (0, 2), first or None for all cells, got {numbers!r}."
        )
    return tuple(numbers)


class BilevelSearch(DARTS):
    """Differentiable architecture search as an NNI one-shot strategy.

    Parameters
    ----------
    mutation_hooks
        As in NNI: hooks for mutables of your own, asked first.
    **choices
        Fields of :class:`Choices` that differ from the preset.

    Raises
    ------
    ValueError
        If a setting does not exist or is out of range; the sentence lists the valid ones.
    """

    preset: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    extra_epochs: ClassVar[int] = 0
    """Epochs of the Trainer beyond those of the search."""
    unused_settings: ClassVar[tuple[str, ...]] = ()
    """Settings of a run that mean nothing to the strategy."""

    def __init__(self, *, mutation_hooks: Sequence[Any] | None = None, **choices: Any) -> None:
        unknown = [name for name in choices if name not in Choices.names()]
        if unknown:
            raise ValueError(
                f"{type(self).__name__} has no setting {unknown[0]!r}; expected one of {', '.join(Choices.names())}."
            )
        self.choices = Choices(**{**self.preset, **choices})
        super().__init__(
            arc_learning_rate=self.choices.arch_learning_rate,
            gradient_clip_val=self.choices.gradient_clip_val,
            warmup_epochs=self.choices.warmup_epochs,
            mutation_hooks=list(mutation_hooks or []),
        )

    @classmethod
    def setting_names(cls) -> list[str]:
        """Settings that the strategy has."""
        return Choices.names()

    def mutate_model(self, model: ModelSpaceType) -> ModelSpaceType:
        """Turn ``model`` into a supernet, in place.

        Raises
        ------
        ValueError
            If the strategy cannot search this space; nothing is changed then.
        """
        choices = self.choices
        self._builder = Builder(
            choices.relaxation,
            choices.channels,
            choices.features,
            choices.engine_cells,
            prepare=choices.trains.prepare_operation,
        )
        self._builder.check(model)
        self.choices.trains.check(model)
        supernet = OneShotStrategy.mutate_model(self, model)
        self.choices.trains.freeze(supernet)
        return supernet

    def default_mutation_hooks(self) -> list[Any]:
        return [self._builder.hook, no_default_hook]

    def run_hook(self, hook: Any, name: str, module: Any, memo: dict[str, Any]) -> Any:
        return hook(module, name, memo, {})

    def configure_oneshot_module(self, training_module: LightningModule) -> BilevelModule:
        return BilevelModule(training_module, self.choices)

    def mutate_evaluator(self, evaluator: Lightning) -> Lightning:
        refuse_many_devices(evaluator)
        return super().mutate_evaluator(evaluator)

    def val_dataloader(self, train_dataloader_fn: Any, val_dataloader_fn: Any) -> Any:
        """The validation data, so that every epoch reports an accuracy (NNI's DARTS validates nothing)."""
        return val_dataloader_fn()
