"""Operations that leave one source and differ only in their target, computed as one.

The edges from x_i to its targets j carry the same kinds of operations, each with weights of its own. Where they run one
after the other, a GPU waits for the launch of many small kernels. Merged, an operation is as many times wider as there
are targets, its channels target by target:

    a first, dense convolution    one convolution of x_i with all kernels
    depthwise convolutions        one convolution with as many times more groups
    later 1x1 convolutions        one batched matrix product; on a CPU one product with a block-diagonal matrix
    BatchNorm                     one BatchNorm over all channels, scaled by all mixture weights

That is the same function to rounding. Weights are put side by side when they are used and running statistics written
back, so that every operation keeps its own under its own name.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import nn

from nni_plugins.supernet.batch_norm import NARROW, Running
from nni_plugins.supernet.chain import Stage, Step, run_steps, runs_as_chain
from nni_plugins.supernet.convolution import Convolution, FastConv2d, is_last
from nni_plugins.supernet.operation import WeightedOperation
from search_spaces.operations import InterleavedConv

WIDEST = 32
"""Beyond so many channels a block-diagonal matrix costs more than its merge saves (``benchmarks/search_step.py``)."""

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


def fastest_at_once(operation: WeightedOperation) -> int:
    """Return how many operations of this kind were measured to be fastest as one on the device of this process.

    On a CPU few channels do not fill a vector register, those of several targets do; more than that gain nothing. On a
    GPU nobody has measured it here.
    """
    if torch.cuda.is_available() or not operation.stages:
        return 1
    channels = operation.stages[-1].norm.num_features
    return WIDEST // channels if channels < NARROW else 1


def run_merged(
    operations: Sequence[WeightedOperation], x: torch.Tensor, beside: Callable[[], torch.Tensor], weight: torch.Tensor
) -> torch.Tensor:
    """Return ``weight * operation`` of operations of one kind.

    Parameters
    ----------
    operations
        One for each target.
    x
        Their common input (batch, channels, height, width), rectified if they want it so.
    beside
        Returns ``x`` once for each target, (batch, targets * channels, height, width).
    weight
        Their mixture weights, repeated for every channel: (targets * channels,).

    Returns
    -------
    torch.Tensor
        (batch, targets * channels, height, width), target by target.
    """
    stages = [operation.stages for operation in operations if operation.stages]
    if stages and runs_as_chain(stages[0], x):
        return _run_chains(stages, x, beside, weight)
    return merged_normalise(operations, _bodies(operations, x, beside), weight)


def _run_chains(
    chains: Sequence[Sequence[Stage]], x: torch.Tensor, beside: Callable[[], torch.Tensor], weight: torch.Tensor
) -> torch.Tensor:
    wide = False
    steps = []
    for copies in zip(*chains, strict=True):
        weights, hows = [], []
        for convolutions in zip(*(stage.convolutions for stage in copies), strict=True):
            if not wide and convolutions[0].groups > 1:
                x, wide = beside(), True
            together, how = _side_by_side(convolutions, wide)
            weights.append(together)
            hows.append(how)
            wide = True
        norms = [stage.norm for stage in copies]
        scale, shift = _scale_and_shift(norms, weight if copies[0] is chains[0][-1] else None)
        steps.append(Step(weights, hows, scale, shift, _running(norms)))
    y = run_steps(steps, x)
    for copies, step in zip(zip(*chains, strict=True), steps, strict=True):
        _write_back([stage.norm for stage in copies], step.running)
    return y


def _side_by_side(copies: Sequence[FastConv2d], wide: bool) -> tuple[torch.Tensor, Convolution]:
    """Return convolutions as one, of an input each (``wide``) or, ungrouped ones, of a common input."""
    weights, how = [conv.cast_weight(conv.weight) for conv in copies], copies[0].how
    if wide and how.groups == 1 and copies[0].kernel_size == (1, 1):
        return torch.block_diag(*(weight.flatten(1) for weight in weights))[..., None, None], how
    return torch.cat(weights), how._replace(groups=how.groups * (len(copies) if wide else 1))


def _bodies(
    operations: Sequence[WeightedOperation], x: torch.Tensor, beside: Callable[[], torch.Tensor]
) -> torch.Tensor:
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
    scale, shift = _scale_and_shift(norms, weight)
    if not first.training and first.running_mean is not None:
        mean, variance = (torch.cat(kept) for kept in zip(*map(_kept, norms), strict=True))
        return F.batch_norm(x, mean, variance, scale, shift, False, 0.0, first.eps)
    moved = _running(norms)
    y = F.batch_norm(x, moved.mean, moved.var, scale, shift, True, moved.momentum, first.eps)
    _write_back(norms, moved)
    return y


def _scale_and_shift(
    norms: Sequence[nn.BatchNorm2d], weight: torch.Tensor | None
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Return those of all BatchNorms times ``weight``, (channels of all,) each, None for 1 and 0."""
    scale = None if norms[0].weight is None else torch.cat([norm.weight for norm in norms])
    shift = None if norms[0].bias is None else torch.cat([norm.bias for norm in norms])
    if weight is None:
        return scale, shift
    return weight if scale is None else weight * scale, None if shift is None else weight * shift


def _running(norms: Sequence[nn.BatchNorm2d]) -> Running:
    """Return copies of the running statistics of all BatchNorms, side by side."""
    first = norms[0]
    if not (first.training and first.track_running_stats):
        return Running(None, None, 0.0, first.eps)
    mean, variance = (torch.cat(kept) for kept in zip(*map(_kept, norms), strict=True))
    return Running(mean, variance, cast(float, first.momentum), first.eps)


def _write_back(norms: Sequence[nn.BatchNorm2d], moved: Running) -> None:
    """Hand every BatchNorm its part of what the copies have become."""
    if moved.mean is not None and moved.var is not None:
        apart = [kept for norm in norms for kept in _kept(norm)]
        means, variances = moved.mean.chunk(len(norms)), moved.var.chunk(len(norms))
        torch._foreach_copy_(apart, [part for parts in zip(means, variances, strict=True) for part in parts])


def _kept(norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    return cast("tuple[torch.Tensor, torch.Tensor]", (norm.running_mean, norm.running_var))
