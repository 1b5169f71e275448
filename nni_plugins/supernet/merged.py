"""Operations that leave one source and differ only in their target, computed as one.

The edges from x_i to its targets j carry the same kinds of operations, each with weights of its own. Where they run one
after the other, a GPU waits for the launch of many small kernels. Merged, an operation is as many times wider as there
are targets, its channels target by target:

    a first, dense convolution    one convolution of x_i with all kernels
    depthwise convolutions        one convolution with as many times more groups
    later 1x1 convolutions        one batched matrix product
    BatchNorm                     one BatchNorm over all channels, scaled by all mixture weights

That is the same function to rounding. Weights are put side by side when they are used and running statistics written
back, so that every operation keeps its own under its own name. On a CPU this is slower than one operation after the
other.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import nn

from nni_plugins.supernet.convolution import is_last
from nni_plugins.supernet.operation import WeightedOperation
from search_spaces.operations import InterleavedConv

_KNOWN_PACKAGES = ("torch.nn.", "nni.nas.nn.", "nni_plugins.", "search_spaces.")
"""A layer of theirs computes what its torch base class does; one of someone else's may not."""


class MergedUse(NamedTuple):
    """Operations of one kind on one source: their keys in the cell, their targets, their positions in its weights."""

    keys: tuple[str, ...]
    targets: tuple[int, ...]
    positions: tuple[int, ...]


def kind_of(operation: WeightedOperation) -> Hashable | None:
    """Return what operations that can be merged have in common; None for one that cannot be merged."""
    norm = operation.norm
    if norm is not None and not _mergeable(norm):
        return None
    if operation.body_key is not None:
        return operation.body_key, repr(norm)
    layers = list(_layers(operation.body))
    if not all(map(_mergeable, layers)):
        return None
    return operation.rectified, tuple(map(repr, layers)), repr(norm)


def merged_bodies(
    operations: Sequence[WeightedOperation], x: torch.Tensor, beside: Callable[[], torch.Tensor]
) -> torch.Tensor:
    """Return what precedes the BatchNorm of operations of one kind.

    Parameters
    ----------
    operations
        One for each target.
    x
        Their common input (batch, channels, height, width), rectified if they want it so.
    beside
        Returns ``x`` once for each target, (batch, targets * channels, height, width).

    Returns
    -------
    torch.Tensor
        (batch, targets * channels, height, width), target by target.
    """
    wide = False
    for copies in zip(*(_layers(operation.body) for operation in operations), strict=True):
        if not wide and not _takes_common_input(copies[0]):
            x, wide = beside(), True
        x = _layer(copies, x, wide)
        wide = True
    return x if wide else beside()


def _takes_common_input(layer: nn.Module) -> bool:
    """Return whether all copies of a layer are one layer of their common input, without making that wider."""
    return isinstance(layer, InterleavedConv) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)


def _layer(copies: Sequence[nn.Module], x: torch.Tensor, wide: bool) -> torch.Tensor:
    if isinstance(copies[0], nn.BatchNorm2d):
        return _norm(cast("Sequence[nn.BatchNorm2d]", copies), x)
    if isinstance(copies[0], InterleavedConv):
        return _interleaved(cast("Sequence[InterleavedConv]", copies), x, wide)
    if isinstance(copies[0], nn.Conv2d):
        return _convolution(cast("Sequence[nn.Conv2d]", copies), x, wide)
    return copies[0](x)


def merged_normalise(operations: Sequence[WeightedOperation], x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return ``weight * operation`` of operations of one kind, from what their parts before the BatchNorm have made.

    Parameters
    ----------
    operations
        One for each target.
    x
        (batch, targets * channels, height, width), target by target.
    weight
        Their mixture weights, repeated for every channel: (targets * channels,).
    """
    if operations[0].norm is None:
        return x * weight.to(x.dtype).view(-1, 1, 1)
    return _norm([cast(nn.BatchNorm2d, operation.norm) for operation in operations], x, weight)


def side_by_side(x: torch.Tensor, targets: int) -> torch.Tensor:
    """Return ``x`` as many times as there are targets, (batch, targets * channels, height, width)."""
    return torch.cat([x] * targets, 1)  # unlike repeat, this keeps channels-last


def _layers(body: nn.Module) -> Iterator[nn.Module]:
    """Return the layers of sequences inside sequences, in order."""
    if type(body).forward is nn.Sequential.forward:
        for child in body.children():
            yield from _layers(child)
    else:
        yield body


def _mergeable(layer: nn.Module) -> bool:
    if not f"{type(layer).__module__}.".startswith(_KNOWN_PACKAGES):
        return False
    if isinstance(layer, nn.BatchNorm2d):
        return layer.momentum is not None  # a cumulative average counts the batches of each
    if isinstance(layer, nn.Conv2d):
        return layer.padding_mode == "zeros"
    if isinstance(layer, nn.ReLU):
        return not layer.inplace
    return isinstance(layer, (nn.Identity, InterleavedConv))


def _convolution(copies: Sequence[nn.Conv2d], x: torch.Tensor, wide: bool) -> torch.Tensor:
    """Return all convolutions, of an input each (``wide``) or, ungrouped ones, of a common input."""
    first = copies[0]
    if wide and first.groups == 1 and first.kernel_size == first.stride == (1, 1) and first.padding == (0, 0):
        y = _pointwise(torch.stack([conv.weight.flatten(1) for conv in copies]), x)
    else:
        weight, groups = torch.cat([conv.weight for conv in copies]), first.groups * (len(copies) if wide else 1)
        y = F.conv2d(x, weight, None, first.stride, first.padding, first.dilation, groups)
    biases = [conv.bias for conv in copies if conv.bias is not None]
    return y + torch.cat(biases).to(y.dtype).view(-1, 1, 1) if biases else y


def _pointwise(weights: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return a 1x1 convolution for each target as one batched matrix product.

    Parameters
    ----------
    weights
        (targets, channels out, channels in).
    x
        (batch, targets * channels in, height, width).
    """
    targets, _, channels = weights.shape
    images, _, height, width = x.shape
    if is_last(x):
        pixels = x.permute(0, 2, 3, 1).reshape(-1, targets, channels).transpose(0, 1)
        y = (pixels @ weights.transpose(1, 2)).transpose(0, 1)
        return y.reshape(images, height, width, -1).permute(0, 3, 1, 2)
    return (weights @ x.reshape(images, targets, channels, -1)).view(images, -1, height, width)


def _interleaved(copies: Sequence[InterleavedConv], x: torch.Tensor, wide: bool) -> torch.Tensor:
    even = _convolution([copy.even for copy in copies], x, wide).chunk(len(copies), 1)
    odd = _convolution([copy.odd for copy in copies], InterleavedConv.shifted(x), wide).chunk(len(copies), 1)
    return torch.cat([half for halves in zip(even, odd, strict=True) for half in halves], 1)


def _norm(norms: Sequence[nn.BatchNorm2d], x: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Return all BatchNorms of an input each, scaled by ``weight`` (channels of all,) if it is given."""
    first = norms[0]
    scale = None if first.weight is None else torch.cat([norm.weight for norm in norms])
    shift = None if first.bias is None else torch.cat([norm.bias for norm in norms])
    if weight is not None:
        scale = weight if scale is None else weight * scale
        shift = None if shift is None else weight * shift
    use_batch = first.training or first.running_mean is None
    momentum = cast(float, first.momentum)
    if first.running_mean is None or not (first.track_running_stats or not first.training):
        return F.batch_norm(x, None, None, scale, shift, use_batch, momentum, first.eps)
    statistics = [norm.running_mean for norm in norms] + [norm.running_var for norm in norms]
    running = cast("list[torch.Tensor]", statistics)
    together = torch.cat(running)
    mean, variance = together.chunk(2)
    y = F.batch_norm(x, mean, variance, scale, shift, use_batch, momentum, first.eps)
    if use_batch:
        torch._foreach_copy_(running, together.chunk(len(running)))
    return y
