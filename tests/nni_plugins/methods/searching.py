"""Small spaces, data and a Lightning module on which the strategies are tested."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from nni.nas.evaluator.pytorch import DataLoader, Lightning, LightningModule, Trainer
from nni.nas.nn.pytorch import Cell, InputChoice, LayerChoice, ModelSpace
from torch import nn
from torch.utils.data import TensorDataset

from nni_plugins import BilevelSearch
from nni_plugins.methods.bilevel.step import BilevelModule
from nni_plugins.supernet.architecture import CellArchitecture, ChoiceArchitecture
from search_spaces.operations import make_operation

OPERATIONS = ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3")
CLASSES = 3
QUIET = dict(
    accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    num_sanity_val_steps=0,
)  # fmt: skip


def operation(node: int, slot: int, source: int | None, *, name: str, channels: int) -> nn.Module:
    return make_operation(name, channels, 1, search=True)


def cell(channels: int = 4, label: str = "cell", **settings: Any) -> Cell:
    candidates = {name: partial(operation, name=name, channels=channels) for name in OPERATIONS}
    return Cell(candidates, **{**dict(num_nodes=2, num_ops_per_node=1, num_predecessors=1), **settings}, label=label)


class OneCell(ModelSpace):
    """A cell between a stem and a classifier."""

    def __init__(self, channels: int = 4, make_cell: Callable[..., Cell] = cell) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.BatchNorm2d(channels))
        self.cell = make_cell(channels)
        self.classifier = nn.Linear(2 * channels, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.cell([self.stem(images)]).mean((2, 3)))


class OwnSpace(ModelSpace):
    """What a user may write: cells, layers and inputs to choose, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = LayerChoice([nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(1, 4, 5, padding=2)], label="stem")
        self.first, self.second = cell(label="z"), cell(8, label="a")
        self.input = InputChoice(2, 1, label="input")
        self.head = LayerChoice({"deep": nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, CLASSES)),
                                 "flat": nn.Linear(16, CLASSES)}, label="head")  # fmt: skip

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first = self.first([self.stem(images)])
        second = self.second([first])
        doubled = torch.cat([first, first], 1)
        return self.head(self.input([doubled, second]).mean((2, 3)))


def batches(count: int, seed: int, size: int = 4, images: tuple[int, ...] = (1, 6, 6)) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    total = count * size
    return TensorDataset(
        torch.randn(total, *images, generator=generator), torch.randint(CLASSES, (total,), generator=generator)
    )


class Probe(LightningModule):
    """Cross-entropy and SGD with momentum; ``watch`` is called before every loss, with the number of its batch."""

    def __init__(self, watch: Callable[[Probe, int], None] | None = None, lr: float = 0.1, **sgd: Any) -> None:
        super().__init__()
        self.watch = watch
        self.sgd = {"lr": lr, "momentum": 0.9, "weight_decay": 3e-4, **sgd}
        self.factor = 1.0

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.watch is not None:
            self.watch(self, batch_idx)
        images, labels = batch
        return self.factor * F.cross_entropy(self.model(images), labels)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        images, labels = batch
        self.log("val_acc", (self.model(images).argmax(-1) == labels).float().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), **self.sgd)


def of_architecture(supernet: nn.Module) -> dict[str, nn.Parameter]:
    """Architecture parameters by name, found without the code under test."""
    names = {
        f"{name}.{inner}"
        for name, module in supernet.named_modules()
        if isinstance(module, (CellArchitecture, ChoiceArchitecture))
        for inner, _ in module.named_parameters()
    }
    return {name: p for name, p in supernet.named_parameters() if name in names}


def weights_of(supernet: nn.Module) -> dict[str, nn.Parameter]:
    architecture = of_architecture(supernet)
    return {name: p for name, p in supernet.named_parameters() if name not in architecture}


def copied(parameters: dict[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in parameters.items()}


def same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def search(
    strategy: BilevelSearch,
    supernet: ModelSpace,
    module: LightningModule,
    *,
    steps: int = 2,
    prepare: Callable[[torch.Tensor], torch.Tensor] | None = None,
    images: tuple[int, ...] = (1, 6, 6),
    size: int = 4,
    **trainer: Any,
) -> BilevelModule:
    """Train a supernet with the strategy's evaluator; epochs have ``steps`` steps."""
    loaders = []
    for seed in (1, 2):  # training and validation half
        data = batches(steps, seed, size, images)
        if prepare is not None:
            data = TensorDataset(prepare(data.tensors[0]), data.tensors[1])
        loaders.append(DataLoader(data, batch_size=size))
    evaluator = strategy.mutate_evaluator(Lightning(module, Trainer(**{"max_epochs": 1, **QUIET, **trainer}), *loaders))
    evaluator.evaluate(supernet)
    return evaluator.module


def mutated(strategy: BilevelSearch, space: type[ModelSpace] = OneCell, seed: int = 0, **settings: Any) -> ModelSpace:
    torch.manual_seed(seed)
    return strategy.mutate_model(space(**settings))
