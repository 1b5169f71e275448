"""Convolutions on a CPU: the function, and its gradients by input and by weight, each the fastest way for its layout.

For stride s, kernel size k, dilation d and padding p, with g the gradient of the output and g' the same at stride 1
(g at every s-th pixel, zero between), a depthwise convolution has

    grad_x      = depthwise convolution of g' with the flipped kernel
    grad_w[i,j] = sum over batch and pixels of x[s*h + d*i - p, s*w + d*j - p] * g[h, w]

and torch 2.13's own backward pass of a dilated or 5x5 one is many times slower than what is done here for the second:

* channels first: a convolution of x with g as the kernel, one group per channel and image;
* channels last: torch's own, whose kernels are fast up to a width of 3. A dilated convolution is an ordinary one on
  each of the d * d phases of the image, and a kernel of width 5 is two of width 3, its left and its right columns.
  An image smaller than the kernel goes the other way.

A 1x1 convolution whose channels lie next to each other is a matrix product. Where s divides d and p, or the kernel is a
single pixel, only every s-th pixel takes part, and a convolution of stride 1 on these pixels does. The input is kept
for the backward pass only where the weight has a gradient: torch keeps it always.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from nni_plugins.supernet.autocast import CastOnce, autocast

FAST_WIDTH = 3
"""Up to this width of the kernel torch's own weight gradient of a depthwise convolution is fast, channels last."""


class Convolution(NamedTuple):
    """How a convolution goes over its input: the arguments of ``F.conv2d`` behind the weight and the bias."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


def convolve(x: torch.Tensor, weight: torch.Tensor, how: Convolution) -> torch.Tensor:
    """Return the convolution of ``x`` (batch, channels, height, width) with ``weight``."""
    x, how = _on_pixels_that_count(x, weight, how)
    if _is_product(x, weight, how):
        return as_images(_as_rows(x) @ weight.flatten(1).t(), x, len(weight))
    return F.conv2d(x, weight, None, *how)


def grad_input(gradient: torch.Tensor, shape: torch.Size, weight: torch.Tensor, how: Convolution) -> torch.Tensor:
    """Return the gradient by an input of ``shape``, from the gradient of the output."""
    step, how = _thinned(weight, how)
    if step != (1, 1):
        spread = _empty(shape, gradient).zero_()
        kept = spread[:, :, :: step[0], :: step[1]]
        kept.copy_(grad_input(gradient, kept.shape, weight, how))
        return spread
    if _is_product(gradient, weight, how):
        return as_images(_as_rows(gradient) @ weight.flatten(1), gradient, weight.shape[1])
    around = tuple(d * (k - 1) - p for d, k, p in zip(how.dilation, weight.shape[2:], how.padding, strict=True))
    if min(around) >= 0 and (how.stride == (1, 1) or (_is_depthwise(weight, how) and not is_last(gradient))):
        flipped = weight.flip(-1, -2)
        if how.groups == 1:
            return F.conv2d(gradient, flipped.transpose(0, 1), None, 1, around, how.dilation)
        if _is_depthwise(weight, how):
            return F.conv2d(_spread(gradient, shape, how), flipped, None, 1, around, how.dilation, how.groups)
    unused = _empty(shape, gradient)  # its values are not; its layout decides which of torch's kernels runs
    return _torchs_gradients(unused, gradient, weight, how, (True, False, False))[0]


def grad_weight(x: torch.Tensor, gradient: torch.Tensor, weight: torch.Tensor, how: Convolution) -> torch.Tensor:
    """Return the gradient by ``weight``, from the input and the gradient of the output."""
    x, how = _on_pixels_that_count(x, weight, how)
    if _is_product(x, weight, how):
        return (_as_rows(gradient).t() @ _as_rows(x)).view(weight.shape)
    if _is_depthwise(weight, how):
        return _depthwise_grad_weight(x, gradient, weight, how)
    return _torchs_gradients(x, gradient, weight, how, (False, True, False))[1]


def _torchs_gradients(
    x: torch.Tensor, gradient: torch.Tensor, weight: torch.Tensor, how: Convolution, wanted: tuple[bool, bool, bool]
) -> Any:
    return torch.ops.aten.convolution_backward(
        gradient, x, weight, None, how.stride, how.padding, how.dilation, False, (0, 0), how.groups, wanted
    )


def with_gradients() -> bool:
    """Return whether gradients may be computed, and nobody writes down what runs: an export, a trace."""
    return torch.is_grad_enabled() and not torch.compiler.is_exporting() and not torch.jit.is_tracing()


def is_last(x: torch.Tensor) -> bool:
    """Return whether ``x`` are images whose channels lie next to each other in memory."""
    return x.ndim == 4 and x.stride(1) == 1 and x.shape[1] > 1


def _empty(shape: torch.Size, like: torch.Tensor) -> torch.Tensor:
    memory_format = torch.channels_last if is_last(like) else torch.contiguous_format
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=memory_format)


def _is_depthwise(weight: torch.Tensor, how: Convolution) -> bool:
    """Return whether every channel is convolved alone, padded to keep the resolution but for the stride."""
    kept = tuple(d * (k - 1) // 2 for d, k in zip(how.dilation, weight.shape[2:], strict=True))
    odd = all(k % 2 for k in weight.shape[2:])
    alone = how.groups == weight.shape[0] and weight.shape[1] == 1 and how.groups > 1
    return alone and odd and how.padding == kept


def _is_product(x: torch.Tensor, weight: torch.Tensor, how: Convolution) -> bool:
    single_pixel = weight.shape[2:] == (1, 1) and how.padding == (0, 0) and how.stride == (1, 1)
    return single_pixel and how.groups == 1 and is_last(x)


def _as_rows(x: torch.Tensor) -> torch.Tensor:
    """Return ``x`` as (pixels, channels)."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def as_images(rows: torch.Tensor, like: torch.Tensor, channels: int) -> torch.Tensor:
    """Return numbers that lie pixel by pixel as (batch, channels, height, width), of the batch and size of ``like``.

    Where autograd does not look it is no view, so that what an autograd function returns can be added to in place.
    """
    images = rows.view(len(like), *like.shape[2:], channels).permute(0, 3, 1, 2)
    if torch.is_grad_enabled():
        return images
    own = torch.empty(0, dtype=rows.dtype, device=rows.device)
    return own.set_(images.untyped_storage(), images.storage_offset(), images.shape, images.stride())


def _thinned(weight: torch.Tensor, how: Convolution) -> tuple[tuple[int, int], Convolution]:
    """Return every how many pixels of the input take part at all, and the convolution on these pixels."""
    dilation = tuple(0 if k == 1 else d for d, k in zip(how.dilation, weight.shape[2:], strict=True))
    if how.stride == (1, 1) or any(n % s for s, n in zip(how.stride * 2, dilation + how.padding, strict=True)):
        return (1, 1), how
    (down, across), (high, wide) = how.stride, dilation
    padding = (how.padding[0] // down, how.padding[1] // across)
    return how.stride, Convolution((1, 1), padding, (max(1, high // down), max(1, wide // across)), how.groups)


def _on_pixels_that_count(x: torch.Tensor, weight: torch.Tensor, how: Convolution) -> tuple[torch.Tensor, Convolution]:
    step, how = _thinned(weight, how)
    return (x if step == (1, 1) else x[:, :, :: step[0], :: step[1]]), how


def _spread(gradient: torch.Tensor, shape: torch.Size, how: Convolution) -> torch.Tensor:
    """Return every pixel of ``gradient`` at its place among zeros, a stride apart, in ``shape``."""
    if how.stride == (1, 1):
        return gradient
    spread = gradient.new_zeros(shape)
    spread[:, :, :: how.stride[0], :: how.stride[1]] = gradient
    return spread


def _depthwise_grad_weight(
    x: torch.Tensor, gradient: torch.Tensor, weight: torch.Tensor, how: Convolution
) -> torch.Tensor:
    if not is_last(x):
        return _by_groups(x, gradient, weight, how)
    if how.stride == (1, 1) and how.dilation != (1, 1):
        padding = (weight.shape[2] // 2, weight.shape[3] // 2)
        on_a_phase = Convolution((1, 1), padding, (1, 1), how.groups)
        return _depthwise_grad_weight(_phases(x, how), _phases(gradient, how), weight, on_a_phase)
    if min(x.shape[2:]) < max(weight.shape[2:]):
        return _by_groups(x.contiguous(), gradient.contiguous(), weight, how)
    stride, width = how.stride[1], weight.shape[3]
    if width != 2 * FAST_WIDTH - 1 or how.dilation != (1, 1) or stride not in (1, 2):
        return _torchs_gradients(x, gradient, weight, how, (False, True, False))[1]
    half, wanted = weight[..., :FAST_WIDTH].contiguous(), (False, True, False)
    x, halfway = F.pad(x, (1, 1)), how._replace(padding=(how.padding[0], 1))
    # output columns added at the right belong to the left half of the kernel, those at the left to the right half
    more = (x.shape[3] + 2 - FAST_WIDTH) // stride + 1 - gradient.shape[3]
    left = _torchs_gradients(x, F.pad(gradient, (0, more)), half, halfway, wanted)[1]
    right = _torchs_gradients(x, F.pad(gradient, (2 // stride, more - 2 // stride)), half, halfway, wanted)[1]
    return torch.cat([left, right[..., 1:]], -1)


def _phases(x: torch.Tensor, how: Convolution) -> torch.Tensor:
    """Return the images made of every d-th pixel, all d * d of each, one after the other along the batch."""
    down, across = how.dilation
    if x.shape[2] % down or x.shape[3] % across:
        x = F.pad(x, (0, -x.shape[3] % across, 0, -x.shape[2] % down))
    images, channels, height, width = x.shape
    tiles = x.permute(0, 2, 3, 1).reshape(images, height // down, down, width // across, across, channels)
    phases = tiles.permute(2, 4, 0, 1, 3, 5).reshape(-1, height // down, width // across, channels)
    return phases.permute(0, 3, 1, 2)


def _by_groups(x: torch.Tensor, gradient: torch.Tensor, weight: torch.Tensor, how: Convolution) -> torch.Tensor:
    """Return the weight's gradient as a convolution of ``x`` with ``gradient`` as the kernel."""
    images, channels, height, width = x.shape
    kernel = weight.shape[2:]
    grad_weight = F.conv2d(
        x.reshape(1, images * channels, height, width),
        gradient.reshape(images * channels, 1, *gradient.shape[2:]),
        stride=how.dilation,
        padding=how.padding,
        dilation=how.stride,
        groups=images * channels,
    )
    return grad_weight[..., : kernel[0], : kernel[1]].reshape(images, channels, 1, *kernel).sum(0)


class _ConvolutionFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, how: Convolution) -> torch.Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        ctx.shape, ctx.how = x.shape, how
        return convolve(x, weight, how)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        by_input = grad_input(gradient, ctx.shape, weight, ctx.how) if ctx.needs_input_grad[0] else None
        by_weight = grad_weight(x, gradient, weight, ctx.how) if ctx.needs_input_grad[1] else None
        return by_input, by_weight, None


class FastConv2d(nn.Conv2d):
    """A convolution with the gradients of this module on a CPU; parameters as in ``nn.Conv2d``.

    Attributes
    ----------
    frozen
        The weight never has a gradient, so that on a GPU, too, the input need not be kept.
    """

    frozen = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cast_weight = CastOnce()

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the convolution, as ``nn.Conv2d`` does."""
        ours = input.device.type == "cpu" or self.frozen
        if not ours or not with_gradients():
            return super().forward(input)
        (input,), weight = autocast(input), self.cast_weight(self.weight)
        x = _ConvolutionFunction.apply(input, weight, self.how)
        return x if self.bias is None else x + self.bias.to(x.dtype).view(-1, 1, 1)

    @property
    def how(self) -> Convolution:
        """How the convolution goes over its input."""
        return Convolution(self.stride, self.padding, self.dilation, self.groups)  # type: ignore[arg-type]


def fast_convolution(conv: nn.Conv2d) -> FastConv2d | None:
    """Return ``conv`` with the fast gradients, its parameters shared; None if it pads with other than zeros."""
    if type(conv).forward is not nn.Conv2d.forward or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return None
    fast = FastConv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride,  # type: ignore[arg-type]
        padding=conv.padding, dilation=conv.dilation, groups=conv.groups, bias=False, device="meta",  # type: ignore[arg-type]
    )  # fmt: skip
    fast.weight, fast.bias = conv.weight, conv.bias
    return fast.train(conv.training)
