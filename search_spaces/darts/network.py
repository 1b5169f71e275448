"""The network of DARTS (arXiv 1806.09055), for all spaces of this package.

A stack of cells with two inputs and four nodes each; *reduction* cells at one and two thirds of the depth halve the
resolution and double the width, the others are *normal* cells::

    stem -> normal ... normal -> reduce -> normal ... normal -> reduce -> normal ... normal -> pool -> linear
                                                                  |
                                                                  +--> auxiliary head, while an evaluation net trains
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from nni.mutable import Sample
from nni.nas.nn.pytorch import ModelSpace, model_context
from nni.nas.space import current_model
from torch import nn

from ..arguments import Accepts, checked_arguments
from ..cell_graph import Layout
from ..cells import Classes, Count, Operations, Probability, Stem, Width, make_cell, make_stem, stem_taps
from ..operation_names import DARTS_OPERATIONS, DARTS_OPERATIONS_WITHOUT_NONE
from ..taps import Tap, Tapped
from . import DARTS, DARTS_ANY, NORMAL, REDUCE, ROBUST_DARTS

Layers = Annotated[int, Accepts(at_least=3)]
"""Cells of a network: at least one normal and two reduction cells."""


class AuxiliaryHead(nn.Module):
    """Second classifier on the features of the second reduction cell [DARTS, released code].

    Pooling leaves 2x2 pixels. Its window is 5 on the 8x8 pixels of CIFAR (stride 3) and on the 7x7 of ImageNet
    (stride 2); other sizes, which the released code does not take, get the window that covers them.

    Parameters
    ----------
    channels, num_classes
        Channels of the features, classes to tell apart.
    stem
        The ImageNet head has no second BatchNorm.
    """

    def __init__(self, channels: int, num_classes: int, stem: Stem) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 128, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False), *([nn.BatchNorm2d(768)] if stem == "cifar" else []), nn.ReLU(),
        )  # fmt: skip
        self.classifier = nn.Linear(768, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, num_classes) of features (batch, channels, height, width) of at least 2x2 pixels."""
        sides = [int(side) for side in x.shape[2:]]
        windows = [max(min(5, side - 1), (side + 1) // 2) for side in sides]
        strides = [side - window for side, window in zip(sides, windows, strict=True)]
        pooled = F.avg_pool2d(x.relu(), windows, strides, count_include_pad=False)
        return self.classifier(self.features(pooled).flatten(1))


class DARTSSpace(Tapped, ModelSpace):
    """DARTS search space; frozen (or made inside ``model_context``) it is the evaluation network.

    NNI's hub has this space without ``none`` and with fixed classes and image channels.

    Parameters
    ----------
    num_classes, in_channels
        Classes to tell apart and channels of the images.
    stem
        ``"cifar"`` keeps the resolution and has 3C channels, ``"imagenet"`` divides it by 8 and has C.
    channels
        C: node width of the first cells.
    layers
        Number of cells, at least 3; cells ``layers // 3`` and ``2 * layers // 3`` are reduction cells.
    operations
        Candidates of every edge, in the order of alpha.
    drop_path
        Probability of dropping an operation other than the identity for a sample; evaluation nets only.
    auxiliary
        Give the evaluation net an auxiliary head: in training mode it then returns two logits, the net's and the
        head's.

    Raises
    ------
    ValueError
        If an argument is not valid.
    """

    heads = ("auxiliary_head", "global_pooling", "classifier")

    @checked_arguments
    def __init__(
        self,
        num_classes: Classes = 10,
        in_channels: Count = 3,
        stem: Stem = "cifar",
        channels: Width = 16,
        layers: Layers = 8,
        operations: Operations = DARTS_OPERATIONS,
        drop_path: Probability = 0.0,
        auxiliary: bool = False,
    ) -> None:
        super().__init__()
        self._settings: dict[str, Any] = dict(
            num_classes=num_classes, in_channels=in_channels, stem=stem, channels=channels, layers=layers,
            operations=operations, drop_path=drop_path, auxiliary=auxiliary,
        )  # fmt: skip
        search = current_model() is None
        reductions = (layers // 3, 2 * layers // 3)

        entering = 3 * channels if stem == "cifar" else channels
        self.stem0, self.stem1 = make_stem(stem, in_channels, entering)
        self.trunk_taps = stem_taps(stem, entering)
        before, width, previous_reduces = entering, channels, stem == "imagenet"
        self.cells = nn.ModuleList()
        self.auxiliary_head: AuxiliaryHead | None = None
        layout = self._layout()
        cell_of = partial(make_cell, search=search, drop_path=drop_path)
        for layer in range(layers):
            reduces = layer in reductions
            width *= 2 if reduces else 1
            kind = REDUCE if reduces else NORMAL
            self.cells.append(
                cell_of(
                    kind, layout[kind], (before, entering), width,
                    reduces=reduces, previous_reduces=previous_reduces,
                )
            )  # fmt: skip
            before, entering, previous_reduces = entering, layout[kind].num_nodes * width, reduces
            self.trunk_taps.append(Tap(self.trunk_taps[-1].stride * (2 if reduces else 1), entering))
            if layer == reductions[-1] and auxiliary and not search:
                self.auxiliary_head = AuxiliaryHead(entering, num_classes, stem)

        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(entering, num_classes)

    def _layout(self) -> Layout:
        """Return the cells with the operations that were asked for."""
        return _with_operations(DARTS.layout, self._settings["operations"])

    def trunk(self, images: torch.Tensor) -> Iterator[torch.Tensor]:
        before = entering = self.stem0(images)
        yield entering
        if self.stem1 is not None:
            entering = self.stem1(before)
            yield entering
        for cell in self.cells:
            before, entering = entering, cell([before, entering])
            yield entering

    def forward(self, images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Return logits ``(batch, num_classes)`` of ``images`` ``(batch, in_channels, height, width)``.

        With an auxiliary head and in training mode: the pair of the network's and the head's logits.
        """
        auxiliary, first_cell = None, len(self.trunk_taps) - len(self.cells)
        for number, features in enumerate(self.trunk(images), start=-first_cell):
            if self.training and self.auxiliary_head is not None and number == 2 * len(self.cells) // 3:
                auxiliary = self.auxiliary_head(features)
        logits = self.classifier(self.global_pooling(features).flatten(1))
        return logits if auxiliary is None else (logits, auxiliary)

    def freeze(self, sample: Sample) -> DARTSSpace:
        """Return the evaluation network of ``sample``, freshly initialised, at this space's sizes."""
        with model_context(sample):
            return type(self)(**self._settings)


def _with_operations(layout: Layout, operations: tuple[str, ...]) -> Layout:
    return {kind: replace(graph, operations=operations) for kind, graph in layout.items()}


class AnyDARTSSpace(DARTSSpace):
    """:class:`DARTSSpace` whose nodes keep any number of connections; the seven operations without ``none``.

    A node keeps at least one connection, and several operations from one predecessor if it likes. In the evaluation net
    drop-path drops every connection on its own.

    Parameters
    ----------
    num_classes, in_channels, stem, channels, layers, operations, drop_path, auxiliary
        As in :class:`DARTSSpace`.

    Raises
    ------
    ValueError
        If an argument is not valid, or ``none`` is among the operations.
    """

    @checked_arguments
    def __init__(
        self,
        num_classes: Classes = 10,
        in_channels: Count = 3,
        stem: Stem = "cifar",
        channels: Width = 16,
        layers: Layers = 8,
        operations: Operations = DARTS_OPERATIONS_WITHOUT_NONE,
        drop_path: Probability = 0.0,
        auxiliary: bool = False,
    ) -> None:
        super().__init__(num_classes, in_channels, stem, channels, layers, operations, drop_path, auxiliary)

    def _layout(self) -> Layout:
        return _with_operations(DARTS_ANY.layout, self._settings["operations"])


class RobustDARTS(DARTSSpace):
    """S1 to S4: the DARTS space with few candidates an edge, on which DARTS collapses [RobustDARTS, section 3].

    In S1 NNI's sample calls a candidate by its number on the edge, so that whatever edge and candidate a
    strategy picks exist; :class:`search_spaces.Genotype` names operations.

    Parameters
    ----------
    space
        ``"s1"``, ``"s2"``, ``"s3"`` or ``"s4"``.
    num_classes, in_channels, stem, channels, layers, drop_path, auxiliary
        As in :class:`DARTSSpace`.

    Raises
    ------
    ValueError
        If there is no such space, or another argument is not valid.
    """

    @checked_arguments
    def __init__(
        self,
        space: str = "s1",
        num_classes: Classes = 10,
        in_channels: Count = 3,
        stem: Stem = "cifar",
        channels: Width = 16,
        layers: Layers = 8,
        drop_path: Probability = 0.0,
        auxiliary: bool = False,
    ) -> None:
        if space not in ROBUST_DARTS:
            raise ValueError(f"Unknown RobustDARTS space {space!r}; expected one of {', '.join(ROBUST_DARTS)}.")
        self.space = space
        super().__init__(num_classes, in_channels, stem, channels, layers, drop_path=drop_path, auxiliary=auxiliary)
        self._settings = {"space": space} | {k: v for k, v in self._settings.items() if k != "operations"}

    def _layout(self) -> Layout:
        return ROBUST_DARTS[self.space].layout
