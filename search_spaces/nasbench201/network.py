"""The network of NAS-Bench-201 (arXiv 2001.00326).

Every node is the sum of one operation from each earlier node, ``none`` included; the last node is the output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import nni.nas.strategy  # noqa: F401  before NNI's hub, or NNI's own DARTS is left unusable
import torch
from nni.mutable import Sample
from nni.nas.hub.pytorch import NasBench201 as HubNasBench201
from nni.nas.nn.pytorch import model_context
from nni.nas.space import current_model
from torch import nn

from ..arguments import checked_arguments
from ..cells import Classes, Count
from ..operations import make_operation
from ..taps import Tap, Tapped


class NASBench201(Tapped, HubNasBench201):
    """NNI's NAS-Bench-201 space with what it lacks: image channels, and BatchNorm as the benchmark's own searches have.

    While it is searched, BatchNorm inside cells carries no scale and shift; frozen it does. Labels are the hub's:
    ``cell/0_1`` is the edge from node 0 to node 1.

    Parameters
    ----------
    num_classes, in_channels
        Classes to tell apart and channels of the images.
    stem
        Only ``"cifar"``, which keeps the resolution; the argument is there because all spaces have it.
    channels
        Width of the first of three stages; each stage has twice the width of the one before.
    cells
        Cells of each stage.

    Raises
    ------
    ValueError
        If a size is out of range.
    """

    heads = ("lastact", "global_pooling", "classifier")

    @checked_arguments
    def __init__(
        self,
        num_classes: Classes = 10,
        in_channels: Count = 3,
        stem: str = "cifar",
        channels: Count = 16,
        cells: Count = 5,
    ) -> None:
        if stem != "cifar":
            raise ValueError(
                f"NAS-Bench-201 has the stem cifar only, got {stem!r}; scale the images down (the benchmark has "
                "16x16 ImageNet), or take the darts space."
            )
        self._search = current_model() is None
        super().__init__(stem_out_channels=channels, num_modules_per_stack=cells, num_labels=num_classes)
        self._settings: dict[str, Any] = dict(
            num_classes=num_classes, in_channels=in_channels, stem=stem, channels=channels, cells=cells
        )
        self.stem[0] = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        # a residual block that halves the resolution precedes the cells of the second and of the third stage
        self.trunk_taps = [Tap(2**stage, channels * 2**stage) for stage in range(3) for _ in range(cells + 1)]

    def trunk(self, images: torch.Tensor) -> Iterator[torch.Tensor]:
        for part in (self.stem, *self.cells):
            images = part(images)
            yield images

    def _make_op_factory(self, prim: str) -> Callable[[int, int], nn.Module]:
        return partial(_cell_operation, prim, search=self._search)

    def freeze(self, sample: Sample) -> NASBench201:
        """Return the evaluation network of ``sample``, freshly initialised, at this space's sizes."""
        with model_context(sample):
            return NASBench201(**self._settings)


def _cell_operation(name: str, channels_in: int, channels_out: int, *, search: bool) -> nn.Module:
    assert channels_in == channels_out, "cells keep the width"
    if name == "avg_pool_3x3":  # plain, also in search [NAS-Bench-201, released code]
        return make_operation(name, channels_out, 1, search=False)
    return make_operation(name, channels_out, 1, search=search)
