"""A search space of your own: any NNI model space of Cell, LayerChoice and InputChoice.

From this folder, on the data of own_data.py:

    nni-plugins search --strategy darts --space own_space:SmallNet --data own_data:stripes --out /tmp/own \
        --set epochs=3 --set batch_size=32 --set lr=0.05 --set arch_learning_rate=0.01 \
        --set retrain.epochs=4 --set retrain.batch_size=32 --set retrain.lr=0.05 --set retrain.cutout=0

Search and retraining have the same size; `--set space.channels=16` makes both wider.
"""

from __future__ import annotations

import torch
from nni.nas.nn.pytorch import Cell, LayerChoice, ModelSpace
from torch import nn


class SmallNet(ModelSpace):
    """Two cells of three nodes with pooling between them, and a choice of what follows.

    Parameters
    ----------
    num_classes, in_channels
        Classes to tell apart and channels of the images; every space takes these two, and the data say what they are.
    channels
        Width of the cells. Arguments of your own are set with `--set space.NAME=VALUE`.
    """

    def __init__(self, num_classes: int, in_channels: int, channels: int = 8) -> None:
        super().__init__()
        # NNI calls each candidate with the node it feeds, its slot there, and the node it takes from.
        operations = {
            "conv_3x3": lambda node, slot, source: convolution(channels, 3),
            "conv_5x5": lambda node, slot, source: convolution(channels, 5),
            "max_pool_3x3": lambda node, slot, source: nn.MaxPool2d(3, 1, 1),
            "skip_connect": lambda node, slot, source: nn.Identity(),
        }

        def cell() -> nn.Sequential:
            # Cells of one label share their architecture. A cell concatenates its nodes.
            nodes = Cell(operations, num_nodes=3, num_ops_per_node=2, num_predecessors=1, label="cell")
            return nn.Sequential(nodes, nn.Conv2d(3 * channels, channels, 1, bias=False), nn.BatchNorm2d(channels))

        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.first, self.second = cell(), cell()
        self.pool = nn.MaxPool2d(2)
        self.neck = LayerChoice({"wide": convolution(channels, 5), "pointwise": convolution(channels, 1)}, label="neck")
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, num_classes) of images (batch, in_channels, height, width)."""
        x = self.second(self.pool(self.first(self.stem(images))))
        return self.classifier(self.neck(x).mean((2, 3)))


def convolution(channels: int, size: int) -> nn.Sequential:
    """Return Conv-BN-ReLU that keeps width and resolution."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, size, padding=size // 2, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
    )
