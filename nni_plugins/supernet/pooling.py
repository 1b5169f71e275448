"""3x3 pooling that does not run in torch's scalar code for channels-first images on a CPU.

Maxima are taken channels last, where torch's code is vectorised, and so are their gradients: ties go where torch sends
them. An average over the pixels inside the image is a depthwise convolution with the constant kernel 1/9, times 9 over
the number of pixels that count: 1 but at the border, and a product of one factor per row and one per column.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nni_plugins.supernet.convolution import Convolution, convolve, grad_input, with_gradients


class FastMaxPool2d(nn.MaxPool2d):
    """Maximum over a window, as ``nn.MaxPool2d``."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the maxima, in the memory format of ``input``."""
        written_down = torch.compiler.is_exporting() or torch.jit.is_tracing()
        if input.device.type != "cpu" or written_down or not input.is_contiguous():
            return super().forward(input)
        return super().forward(input.contiguous(memory_format=torch.channels_last)).contiguous()


class FastAvgPool2d(nn.AvgPool2d):
    """Average over the pixels of a window that lie inside the image, as ``nn.AvgPool2d(count_include_pad=False)``."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the averages, in the memory format of ``input``."""
        if input.device.type != "cpu" or not with_gradients():
            return super().forward(input)
        kernel, stride, padding = (int(size) for size in (self.kernel_size, self.stride, self.padding))  # type: ignore[arg-type]
        return _Average.apply(input, kernel, Convolution((stride,) * 2, (padding,) * 2, (1, 1), input.shape[1]))


class _Average(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, kernel: int, how: Convolution) -> torch.Tensor:
        ctx.shape, ctx.kernel, ctx.how = x.shape, kernel, how
        return _weigh_border_(convolve(x, _constant(x, kernel), how), x.shape, kernel, how)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        weighed = _weigh_border_(gradient.clone(), ctx.shape, ctx.kernel, ctx.how)
        return grad_input(weighed, ctx.shape, _constant(gradient, ctx.kernel), ctx.how), None, None


def _constant(like: torch.Tensor, kernel: int) -> torch.Tensor:
    return like.new_full((like.shape[1], 1, kernel, kernel), 1 / kernel**2)


def _weigh_border_(averages: torch.Tensor, shape: torch.Size, kernel: int, how: Convolution) -> torch.Tensor:
    """Multiply by (window / pixels inside the image), in place, row by row and column by column where that is not 1."""
    for dim in (2, 3):
        size, stride, padding = shape[dim], how.stride[dim - 2], how.padding[dim - 2]
        for n in range(averages.shape[dim]):
            start = n * stride - padding
            inside = min(start + kernel, size) - max(start, 0)
            if inside < kernel:
                averages.select(dim, n).mul_(kernel / inside)
    return averages


def fast_pooling(pool: Any) -> nn.Module | None:
    """Return ``pool`` in its fast form; None for what has none."""
    if type(pool).forward is nn.MaxPool2d.forward and not pool.return_indices:
        fast = FastMaxPool2d(pool.kernel_size, pool.stride, pool.padding, pool.dilation, ceil_mode=pool.ceil_mode)
        return fast.train(pool.training)
    if type(pool).forward is nn.AvgPool2d.forward and _qualifies(pool):
        average = FastAvgPool2d(pool.kernel_size, pool.stride, pool.padding, count_include_pad=False)
        return average.train(pool.training)
    return None


def _qualifies(pool: nn.AvgPool2d) -> bool:
    sizes = (pool.kernel_size, pool.stride, pool.padding)
    square = all(isinstance(size, int) for size in sizes)
    plain = not pool.count_include_pad and not pool.ceil_mode and pool.divisor_override is None
    return square and plain
