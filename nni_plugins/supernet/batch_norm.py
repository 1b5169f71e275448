"""BatchNorm over a batch, as a function and its gradients, for code that keeps its own record of what these need.

    y = scale * (z - mean) / sqrt(var + eps) + shift        mean, var: over batch and pixels, var biased

torch's kernel, but for few channels that lie next to each other: there it leaves most of a vector register idle, and
sums over rows of several pixels are up to six times faster once there are enough numbers to sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from nni_plugins.supernet.convolution import as_images, is_last

NARROW = 16
"""Fewer channels than this do not fill a vector register of 512 bits with float32."""

VECTOR = 8
"""Numbers that torch's kernel takes at a time; it leaves none idle for a multiple of them."""

ENOUGH = 2**14
"""Fewer numbers than this are done in the time that it takes to start several kernels."""

ROW = 256
"""Numbers in a row of several pixels."""


class Statistics(NamedTuple):
    """Mean and ``1 / sqrt(var + eps)`` of a batch, (channels,) each."""

    mean: torch.Tensor
    inverse_deviation: torch.Tensor


class Running(NamedTuple):
    """What a BatchNorm does with the statistics of a batch."""

    mean: torch.Tensor | None
    var: torch.Tensor | None
    momentum: float
    eps: float


def running(norm: nn.BatchNorm2d) -> Running:
    """Return the running statistics that a training batch moves; it is counted if they are a cumulative average."""
    if not (norm.training and norm.track_running_stats):
        return Running(None, None, 0.0, norm.eps)
    momentum = norm.momentum
    if momentum is None and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        momentum = 1 / float(norm.num_batches_tracked)
    return Running(norm.running_mean, norm.running_var, momentum or 0.0, norm.eps)


def scale_and_shift(
    norm: nn.BatchNorm2d, weight: torch.Tensor | None
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Return those of ``weight * norm``, (channels,) each, None for 1 and 0; ``weight`` is (channels,) or None."""
    scale: torch.Tensor | None = norm.weight
    shift: torch.Tensor | None = norm.bias
    if weight is None:
        return scale, shift
    return weight if scale is None else weight * scale, None if shift is None else weight * shift


def normalise(
    z: torch.Tensor, scale: torch.Tensor | None, shift: torch.Tensor | None, moved: Running
) -> tuple[torch.Tensor, Statistics]:
    """Return BatchNorm's output for a training batch, and the batch's statistics; running statistics move.

    Parameters
    ----------
    z
        (batch, channels, height, width).
    scale, shift
        (channels,), None for 1 and 0.
    moved
        Running statistics.
    """
    if not is_narrow(z):
        y, mean, inverse = torch.native_batch_norm(
            z, scale, shift, moved.mean, moved.var, True, moved.momentum, moved.eps
        )
        return y, Statistics(mean, inverse)
    rows, widen, fold = _rows(z)
    count = z.numel() // z.shape[1]
    mean = fold(rows.sum(0)) / count
    y = rows - widen(mean)
    var = fold(y.square().sum(0)) / count
    inverse = (var + moved.eps).rsqrt_()
    y.mul_(widen(inverse if scale is None else inverse * scale))
    if shift is not None:
        y.add_(widen(shift))
    if moved.mean is not None and moved.var is not None:
        moved.mean.lerp_(mean.to(moved.mean.dtype), moved.momentum)
        moved.var.lerp_((var * (count / max(1, count - 1))).to(moved.var.dtype), moved.momentum)
    return as_images(y, z, z.shape[1]), Statistics(mean, inverse)


def normalise_again(
    z: torch.Tensor, scale: torch.Tensor | None, shift: torch.Tensor | None, known: Statistics
) -> torch.Tensor:
    """Return what :func:`normalise` returned, from the batch's statistics."""
    factor = known.inverse_deviation if scale is None else known.inverse_deviation * scale
    offset = -known.mean * factor if shift is None else shift - known.mean * factor
    if not is_narrow(z):
        return torch.addcmul(offset.view(-1, 1, 1), z, factor.view(-1, 1, 1)).to(z.dtype)
    rows, widen, _ = _rows(z)
    return as_images(torch.addcmul(widen(offset), rows, widen(factor)), z, z.shape[1])


def gradients(
    gradient: torch.Tensor,
    z: torch.Tensor,
    scale: torch.Tensor | None,
    known: Statistics,
    eps: float,
    wanted: tuple[bool, bool, bool],
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Return the gradients by ``z``, ``scale`` and ``shift``, each None where it is not ``wanted``."""
    mean, inverse = known
    if not (is_narrow(z) and is_last(gradient)):
        return torch.ops.aten.native_batch_norm_backward(
            gradient, z, scale, None, None, mean, inverse, True, eps, list(wanted)
        )
    rows, widen, fold = _rows(z)
    given, _, _ = _rows(gradient)
    count = z.numel() // z.shape[1]
    by_shift = fold(given.sum(0))
    by_scale = (fold((given * rows).sum(0)) - mean * by_shift) * inverse
    factor = inverse if scale is None else inverse * scale
    by_z = None
    if wanted[0]:
        slope = factor * inverse * by_scale / -count
        by_z = torch.addcmul(widen(-factor * by_shift / count - slope * mean), given, widen(factor))
        by_z = as_images(by_z.addcmul_(rows, widen(slope)), z, z.shape[1])
    return by_z, by_scale if wanted[1] else None, by_shift if wanted[2] else None


def is_narrow(z: torch.Tensor) -> bool:
    """Return whether torch's kernel is the slower one for ``z``."""
    narrow = z.shape[1] < NARROW and z.shape[1] % VECTOR != 0 and z.numel() >= ENOUGH
    known = z.device.type == "cpu" and z.dtype in (torch.float32, torch.float64)
    return narrow and known and is_last(z) and _pixels_in_a_row(z) > 1


def _pixels_in_a_row(z: torch.Tensor) -> int:
    """Return the largest power of two that divides the pixels and keeps a row at most :data:`ROW` numbers long."""
    pixels = z.numel() // z.shape[1]
    return min(pixels & -pixels, 2 ** ((ROW // z.shape[1]).bit_length() - 1))


def _rows(
    z: torch.Tensor,
) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]:
    """Return ``z`` in rows of several pixels, and how numbers per channel become a row and are summed out of one."""
    pixels, channels = _pixels_in_a_row(z), z.shape[1]
    rows = z.permute(0, 2, 3, 1).reshape(-1, pixels * channels)
    return rows, lambda numbers: numbers.repeat(pixels), lambda row: row.view(pixels, channels).sum(0)
