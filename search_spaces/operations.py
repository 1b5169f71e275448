"""The candidate operations of the DARTS family, and the building blocks between cells.

In a supernet (``search=True``) BatchNorm carries no affine parameters and pooling is followed by one; an evaluation
network has affine BatchNorm and plain pooling [DARTS, released code].
"""

from __future__ import annotations

import torch
from torch import nn


class Zero(nn.Module):
    """The ``none`` operation: zeros, at the resolution that ``stride`` leaves."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class Noise(nn.Module):
    """The ``noise`` operation of S4: fresh N(0, 1) for every forward pass, at the resolution that ``stride`` leaves."""

    deterministic = False
    """Two edges with the same source must not share one draw."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.randn_like(x[:, :, :: self.stride, :: self.stride])


class InterleavedConv(nn.Module):
    """Two stride-2 1x1 convolutions, one on the even and one on the odd pixels, concatenated.

    Raises
    ------
    ValueError
        If there is no channel for each of the two.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        if channels_out < 2:
            raise ValueError(
                f"A skip connection that halves the resolution needs at least 2 channels, got {channels_out}; widen "
                "the network, or with partial channels choose a smaller K."
            )
        self.even = nn.Conv2d(channels_in, channels_out // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(channels_in, channels_out - channels_out // 2, 1, stride=2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.even(x), self.odd(self.shifted(x))], dim=1)

    @staticmethod
    def shifted(x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` moved by one pixel, its odd pixels where the even ones were; zeros come in."""
        return nn.functional.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]


def relu_conv_bn(channels_in: int, channels_out: int, kernel: int = 1, *, affine: bool) -> nn.Sequential:
    """Build ReLU-Conv-BN at stride 1; with a 1x1 kernel the pre-processing of a cell's input."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels_out, affine=affine),
    )


def factorized_reduce(channels_in: int, channels_out: int, *, affine: bool) -> nn.Sequential:
    """Halve the resolution without dropping pixels."""
    return nn.Sequential(
        nn.ReLU(), InterleavedConv(channels_in, channels_out), nn.BatchNorm2d(channels_out, affine=affine)
    )


def _depthwise(channels: int, kernel: int, stride: int, dilation: int, affine: bool) -> list[nn.Module]:
    padding = dilation * (kernel - 1) // 2
    return [
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    ]


def _sep_conv(channels: int, kernel: int, stride: int, affine: bool) -> nn.Sequential:
    return nn.Sequential(*_depthwise(channels, kernel, stride, 1, affine), *_depthwise(channels, kernel, 1, 1, affine))


def _pool(pool: nn.Module, channels: int, search: bool) -> nn.Module:
    return nn.Sequential(pool, nn.BatchNorm2d(channels, affine=False)) if search else pool


def make_operation(name: str, channels: int, stride: int, *, search: bool) -> nn.Module:
    """Build one candidate operation.

    Parameters
    ----------
    name
        One of :data:`search_spaces.operation_names.DARTS_OPERATIONS`; ``noise`` (S4); ``conv_1x1`` or ``conv_3x3``
        (NAS-Bench-201).
    channels
        Channels of input and output.
    stride
        1, or 2 on the edges that leave a reducing cell's inputs.
    search
        For a supernet: non-affine BatchNorm, and one after pooling.
    """
    affine = not search
    if name == "none":
        return Zero(stride)
    if name == "max_pool_3x3":
        return _pool(nn.MaxPool2d(3, stride, padding=1), channels, search)
    if name == "avg_pool_3x3":
        return _pool(nn.AvgPool2d(3, stride, padding=1, count_include_pad=False), channels, search)
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else factorized_reduce(channels, channels, affine=affine)
    if name == "sep_conv_3x3":
        return _sep_conv(channels, 3, stride, affine)
    if name == "sep_conv_5x5":
        return _sep_conv(channels, 5, stride, affine)
    if name == "dil_conv_3x3":
        return nn.Sequential(*_depthwise(channels, 3, stride, 2, affine))
    if name == "dil_conv_5x5":
        return nn.Sequential(*_depthwise(channels, 5, stride, 2, affine))
    if name == "noise":
        return Noise(stride)
    if name in ("conv_1x1", "conv_3x3") and stride == 1:
        return relu_conv_bn(channels, channels, int(name[-1]), affine=affine)
    raise ValueError(f"Unknown operation {name!r} at stride {stride}.")
