"""Where the features of a network can be taken, for heads of other tasks than classification."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch


class Tap(NamedTuple):
    """Features of one resolution: the side of an image over that of the features, and their channels."""

    stride: int
    channels: int


class Tapped:
    """Base, beside NNI's ``ModelSpace``, of a network that can serve as a backbone.

    A network says what its trunk puts out (:attr:`trunk_taps`), and :meth:`trunk` runs it; the last output of every
    resolution is a tap.
    """

    trunk_taps: list[Tap]
    """Of every output of :meth:`trunk`, in their order."""

    heads: tuple[str, ...] = ("global_pooling", "classifier")
    """Names of the parts that follow the trunk, which a backbone does without."""

    def trunk(self, images: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the outputs of stem and cells, each before what follows it is computed.

        Parameters
        ----------
        images
            (batch, in_channels, height, width).
        """
        raise NotImplementedError

    @property
    def taps(self) -> tuple[Tap, ...]:
        """The taps, the finest first."""
        return tuple({tap.stride: tap for tap in self.trunk_taps}.values())

    def forward_features(self, images: torch.Tensor) -> dict[int, torch.Tensor]:
        """Return the features of all taps by stride, the finest first; the classifier is not run.

        Parameters
        ----------
        images
            (batch, in_channels, height, width).
        """
        return {tap.stride: output for tap, output in zip(self.trunk_taps, self.trunk(images), strict=True)}
