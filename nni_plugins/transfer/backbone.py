"""A network without its classifier: features at several resolutions, for heads of other tasks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import nn

from nni_plugins.run.result import load_net
from nni_plugins.supernet.fast_layers import use_fast_layers
from search_spaces.taps import Tap, Tapped


def tapped(net: nn.Module) -> Tapped:
    """Return ``net`` as a network with taps.

    Raises
    ------
    ValueError
        If it has none.
    """
    if not isinstance(net, Tapped):
        raise ValueError(
            f"{type(net).__name__} says nowhere where its features can be taken; derive it from "
            "search_spaces.taps.Tapped, with its trunk and trunk_taps, to make it a backbone."
        )
    return net


class Backbone(nn.Module):
    """The features of a network, as torchvision's heads take them.

    Parameters
    ----------
    net
        Evaluation network of a space of this package, or of your own with taps. It is copied; what only classification
        needs is left out.
    strides
        Resolutions to give, as the side of an image over that of the features; by default the three coarsest: 8, 16, 32
        after an ImageNet stem (which gives 4 too) and 1, 2, 4 after a CIFAR stem.

    Attributes
    ----------
    taps : tuple of Tap
        Stride and channels of what is given, the finest first.
    out_channels : list of int
        Channels alone, as torchvision calls them.

    Raises
    ------
    ValueError
        If the network has no taps, or none at such a stride.
    """

    def __init__(self, net: nn.Module, strides: Sequence[int] | None = None) -> None:
        super().__init__()
        by_stride = {tap.stride: tap for tap in tapped(net).taps}
        chosen = sorted(by_stride)[-3:] if strides is None else sorted(strides)
        if not chosen or len(set(chosen)) < len(chosen) or not by_stride.keys() >= set(chosen):
            raise ValueError(
                f"strides must be some of {', '.join(map(str, by_stride))}, where this network has features, each "
                f"once, got {strides!r}."
            )
        self.taps: tuple[Tap, ...] = tuple(by_stride[stride] for stride in chosen)
        self.out_channels = [tap.channels for tap in self.taps]
        self.net = use_fast_layers(drop_heads(copy.deepcopy(net)))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return features (batch, channels, height / stride, width / stride) by stride, the finest first.

        Parameters
        ----------
        images
            (batch, in_channels, height, width), normalised as those that the network was trained on. Sides that the
            coarsest stride does not divide are rounded up.
        """
        features = cast(Tapped, self.net).forward_features(images)
        return {str(tap.stride): features[tap.stride] for tap in self.taps}


def load_backbone(folder: str | Path, strides: Sequence[int] | None = None) -> Backbone:
    """Return the trained network of a result folder as a backbone, on the CPU and in evaluation mode.

    Parameters
    ----------
    folder
        What ``nni-plugins search`` or ``retrain``, or a trial, has made. Its ``report.json`` has the mean and the
        standard deviation with which images are to be normalised.
    strides
        As in :class:`Backbone`.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`nni_plugins.run.result.load_net` and :class:`Backbone`.
    """
    return Backbone(load_net(folder), strides).eval()


def drop_heads(net: nn.Module) -> nn.Module:
    """Remove from ``net`` what its features do not need, and return it.

    Raises
    ------
    ValueError
        As :func:`tapped`.
    """
    for name in tapped(net).heads:
        setattr(net, name, None)
    return net
