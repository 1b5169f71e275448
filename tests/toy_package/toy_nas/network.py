"""The network of the toy space."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from nni.nas.nn.pytorch import Cell, ModelSpace, model_context
from torch import nn

from search_spaces.operations import make_operation


def _operation(node: int, slot: int, source: int | None, *, name: str, channels: int) -> nn.Module:
    return make_operation(name, channels, 1, search=True)


class ToySpace(ModelSpace):
    """A cell between a stem and a classifier."""

    def __init__(self, num_classes: int = 10, in_channels: int = 3, stem: str = "cifar", channels: int = 4) -> None:
        super().__init__()
        self._settings: dict[str, Any] = dict(
            num_classes=num_classes, in_channels=in_channels, stem=stem, channels=channels
        )
        self.stem = nn.Sequential(nn.Conv2d(in_channels, channels, 3, padding=1), nn.BatchNorm2d(channels))
        candidates = {
            name: partial(_operation, name=name, channels=channels) for name in ("skip_connect", "sep_conv_3x3")
        }
        self.cell = Cell(candidates, num_nodes=2, num_ops_per_node=1, num_predecessors=1, label="toy")
        self.classifier = nn.Linear(2 * channels, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.cell([self.stem(images)]).mean((2, 3)))

    def freeze(self, sample: dict[str, Any]) -> ToySpace:
        with model_context(sample):
            return ToySpace(**self._settings)
