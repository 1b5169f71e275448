"""The broad CNN of BNAS and BNAS-v2 (arXiv 2001.06679, 2009.08886).

A few *broad* cells instead of a deep stack: each convolution block ends in a broad cell that halves the resolution
and doubles the width; *enhancement* cells follow at the last resolution; and what enters every broad cell, together
with every enhancement cell's output, goes through a small *knowledge embedding* straight to the classifier::

    stem -> [deep ... deep broad] -> [deep ... deep broad] -> enhancement ... enhancement
                        |                        |               |              |
                        +------------------------+---------------+--------------+--> concat -> pool -> linear

Deep and broad cells share one genotype, the *convolution* cell; the enhancement cells have their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Annotated

import torch
from nni.mutable import Sample
from nni.nas.nn.pytorch import ModelSpace, model_context
from nni.nas.space import current_model
from torch import nn

from ..arguments import Accepts, checked_arguments
from ..cells import Classes, Count, Operations, Probability, Stem, Width, make_cell, make_stem, stem_taps
from ..operation_names import DARTS_OPERATIONS
from ..operations import factorized_reduce, relu_conv_bn
from ..taps import Tap, Tapped
from . import CONVOLUTION, ENHANCEMENT, SPEC


def _embedding(channels_in: int, channels_out: int, halvings: int) -> nn.Sequential:
    """Return a knowledge embedding: ReLU-Conv1x1-BN, then one FactorizedReduce for every halving of the resolution."""
    return nn.Sequential(
        relu_conv_bn(channels_in, channels_out, affine=True),
        *(factorized_reduce(channels_out, channels_out, affine=True) for _ in range(halvings)),
    )


class BCNN(Tapped, ModelSpace):
    """Broad CNN search space; frozen (or made inside ``model_context``) it is the evaluation network.

    Parameters
    ----------
    num_classes, in_channels
        Classes to tell apart and channels of the images.
    stem
        ``"cifar"`` keeps the resolution, ``"imagenet"`` divides it by 8.
    channels
        C: node width of the first block's deep cells. The stem has 3C channels (C in the ImageNet evaluation net).
    blocks
        Convolution blocks, at least 2; every block ends in one broad cell.
    deep_cells
        Deep cells of each block.
    enhancement_cells
        Enhancement cells after the last block, at least 1.
    layers
        Alternative to ``deep_cells``: the number of convolution-part cells, deep and broad, of all blocks together.
    operations
        Candidates of every edge, in the order of alpha.
    drop_path
        Probability of dropping an operation other than the identity for a sample; evaluation nets only.

    Raises
    ------
    ValueError
        If an argument is not valid, or the sizes do not fit together.

    Notes
    -----
    With two blocks the released code feeds the first enhancement cell's input 0 from block 1 alone; with more blocks
    from the concatenation of all but the last.
    """

    heads = ("convolution_to_pooling", "enhancement_to_pooling", "global_pooling", "classifier")

    @checked_arguments
    def __init__(
        self,
        num_classes: Classes = 10,
        in_channels: Count = 3,
        stem: Stem = "cifar",
        channels: Width = 16,
        blocks: Annotated[int, Accepts(at_least=2)] = 2,
        deep_cells: Annotated[int, Accepts(at_least=0)] = 0,
        enhancement_cells: Count = 1,
        layers: Annotated[int | None, Accepts(at_least=2, none="what blocks and deep_cells say")] = None,
        operations: Operations = DARTS_OPERATIONS,
        drop_path: Probability = 0.0,
    ) -> None:
        super().__init__()
        if layers is None:
            layers = blocks * (deep_cells + 1)
        if layers % blocks or layers < blocks:
            raise ValueError(
                f"layers={layers} convolution cells cannot be shared evenly by {blocks} blocks; "
                f"choose a multiple of {blocks}."
            )
        self._settings = dict(
            num_classes=num_classes, in_channels=in_channels, stem=stem, channels=channels, blocks=blocks,
            enhancement_cells=enhancement_cells, layers=layers, operations=operations, drop_path=drop_path,
        )  # fmt: skip
        search = current_model() is None
        convolution, enhancement = (
            replace(SPEC.layout[kind], operations=operations) for kind in (CONVOLUTION, ENHANCEMENT)
        )
        cell_of = partial(make_cell, search=search, drop_path=drop_path)

        stem_width = channels if stem == "imagenet" and not search else 3 * channels
        self.stem0, self.stem1 = make_stem(stem, in_channels, stem_width)
        self.trunk_taps = stem_taps(stem, stem_width)
        self._pooled_outputs = []  # of the trunk, by number: what enters a broad cell, what an enhancement cell gives
        previous_reduces = stem == "imagenet"

        self.convolution_cells = nn.ModuleList()
        self.convolution_to_pooling = nn.ModuleList()
        self.convolution_to_enhancement = nn.ModuleList()
        before, entering, width, pooled_width, enhancement_width = stem_width, stem_width, channels, 0, 0
        for layer in range(layers):
            block, broad = divmod(layer, layers // blocks)[0], (layer + 1) % (layers // blocks) == 0
            later_broad_cells = blocks - 1 - block
            if broad:
                self._pooled_outputs.append(len(self.trunk_taps) - 1)
                self.convolution_to_pooling.append(_embedding(entering, width, later_broad_cells + 1))
                pooled_width += width
                width *= 2
            self.convolution_cells.append(
                cell_of(
                    CONVOLUTION, convolution, (before, entering), width,
                    reduces=broad, previous_reduces=previous_reduces,
                )
            )  # fmt: skip
            before, entering, previous_reduces = entering, convolution.num_nodes * width, broad
            self.trunk_taps.append(Tap(self.trunk_taps[-1].stride * (2 if broad else 1), entering))
            if broad:
                embedded = width if later_broad_cells else entering
                self.convolution_to_enhancement.append(_embedding(entering, embedded, later_broad_cells))
                enhancement_width += embedded if later_broad_cells else 0

        self.enhancement_cells = nn.ModuleList()
        self.enhancement_to_pooling = nn.ModuleList()
        output_width = enhancement.num_nodes * width
        for cell in range(enhancement_cells):
            first, last = cell == 0, cell == enhancement_cells - 1
            inputs = (enhancement_width, output_width) if first else (output_width, output_width)
            self.enhancement_cells.append(
                cell_of(ENHANCEMENT, enhancement, inputs, width, reduces=False, previous_reduces=False)
            )
            embedded = output_width if last else width
            self.enhancement_to_pooling.append(_embedding(output_width, embedded, 0))
            pooled_width += embedded
            self._pooled_outputs.append(len(self.trunk_taps))
            self.trunk_taps.append(Tap(self.trunk_taps[-1].stride, output_width))

        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(pooled_width, num_classes)

    def trunk(self, images: torch.Tensor) -> Iterator[torch.Tensor]:
        before = entering = self.stem0(images)
        yield entering
        if self.stem1 is not None:
            entering = self.stem1(before)
            yield entering
        per_block = len(self.convolution_cells) // len(self.convolution_to_enhancement)
        enhancing: list[torch.Tensor] = []
        for layer, cell in enumerate(self.convolution_cells, start=1):
            before, entering = entering, cell([before, entering])
            if layer % per_block == 0:
                enhancing.append(self.convolution_to_enhancement[len(enhancing)](entering))
            yield entering

        before, entering, last_broad = torch.cat(enhancing[:-1], 1), enhancing[-1], entering
        for cell in self.enhancement_cells:
            output = cell([before, entering])
            yield output
            before, entering = (last_broad if cell is self.enhancement_cells[0] else entering), output

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits ``(batch, num_classes)`` of ``images`` ``(batch, in_channels, height, width)``."""
        embeddings = [*self.convolution_to_pooling, *self.enhancement_to_pooling]
        embedding_of = dict(zip(self._pooled_outputs, embeddings, strict=True))
        pooled = [embedding_of[n](output) for n, output in enumerate(self.trunk(images)) if n in embedding_of]
        return self.classifier(self.global_pooling(torch.cat(pooled, 1)).flatten(1))

    def freeze(self, sample: Sample) -> BCNN:
        """Return the evaluation network of ``sample``, freshly initialised, at this space's sizes."""
        with model_context(sample):
            return BCNN(**self._settings)  # type: ignore[arg-type]
