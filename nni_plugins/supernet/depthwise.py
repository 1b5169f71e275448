"""Depthwise convolution whose backward pass is written as two more convolutions.

For stride s, kernel size k and dilation d, with g the gradient of the output and g' the same at stride 1 (g at every
s-th pixel, zero between),

    grad_x      = depthwise convolution of g' with the flipped kernel
    grad_w[i,j] = sum over batch and pixels of x[s*h + d*i - p, s*w + d*j - p] * g[h, w]

and the second is a convolution of x with g as the kernel, one group per channel and image. Where s divides d, only
every s-th pixel takes part, and a convolution of stride 1 on these pixels does. On a CPU, torch 2.13's own backward of
a dilated or 5x5 depthwise convolution is many times slower than these two, and it dominates the step of a
DARTS-like supernet. On other devices the module is an ordinary convolution.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from nni_plugins.supernet.autocast import CastOnce, autocast


class _DepthwiseFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, stride: int, dilation: int) -> torch.Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        ctx.shape, ctx.stride, ctx.dilation = x.shape, stride, dilation
        return _depthwise(x, weight, stride, dilation)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            spread = _spread(gradient, ctx.shape, ctx.stride)
            grad_x = _depthwise(spread, weight.flip(-1, -2), 1, ctx.dilation)
        if ctx.needs_input_grad[1]:
            images, channels, height, width = x.shape
            kernel = weight.shape[-1]
            grad_weight = F.conv2d(
                x.reshape(1, images * channels, height, width),
                gradient.reshape(images * channels, 1, *gradient.shape[2:]),
                stride=ctx.dilation,
                padding=ctx.dilation * (kernel - 1) // 2,
                dilation=ctx.stride,
                groups=images * channels,
            )
            grad_weight = grad_weight[..., :kernel, :kernel].reshape(images, channels, 1, kernel, kernel).sum(0)
        return grad_x, grad_weight, None, None


def _depthwise(x: torch.Tensor, weight: torch.Tensor, stride: int, dilation: int) -> torch.Tensor:
    padding = dilation * (weight.shape[-1] - 1) // 2
    return F.conv2d(x, weight, stride=stride, padding=padding, dilation=dilation, groups=weight.shape[0])


def _spread(gradient: torch.Tensor, shape: torch.Size, stride: int) -> torch.Tensor:
    """Return every pixel of ``gradient`` at its place among zeros, ``stride`` pixels apart."""
    if stride == 1:
        return gradient
    spread = gradient.new_zeros(shape)
    spread[:, :, ::stride, ::stride] = gradient
    return spread


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution, padded to keep the resolution but for its stride, with the fast backward pass."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._cast_weight = CastOnce()

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if input.device.type != "cpu" or not torch.is_grad_enabled() or torch.compiler.is_exporting():
            return super().forward(input)
        stride, dilation = self.stride[0], self.dilation[0]
        if dilation % stride == 0:
            input, stride, dilation = input[:, :, ::stride, ::stride], 1, dilation // stride
        (input,), weight = autocast(input), self._cast_weight(self.weight)
        return _DepthwiseFunction.apply(input, weight, stride, dilation)


def use_fast_depthwise(module: nn.Module) -> nn.Module:
    """Give every convolution inside ``module`` that qualifies the fast backward pass; weights and names stay.

    What qualifies is depthwise, without bias, square, of odd size, and zero-padded to keep the resolution but for its
    stride.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d) and _qualifies(child):
            fast = DepthwiseConv2d(
                child.in_channels, child.out_channels, child.kernel_size[0], child.stride[0],
                padding=cast("tuple[int, int]", child.padding), dilation=child.dilation[0], groups=child.groups,
                bias=False, device="meta",
            )  # fmt: skip
            fast.weight = child.weight
            setattr(module, name, fast.train(child.training))
        else:
            use_fast_depthwise(child)
    return module


def _qualifies(conv: nn.Conv2d) -> bool:
    kernel, dilation = conv.kernel_size[0], conv.dilation[0]
    keeps_resolution = conv.padding == (dilation * (kernel - 1) // 2,) * 2
    return (
        conv.groups == conv.in_channels == conv.out_channels
        and conv.bias is None
        and conv.kernel_size == (kernel, kernel)
        and kernel % 2 == 1
        and conv.stride == (conv.stride[0],) * 2
        and conv.dilation == (dilation, dilation)
        and conv.padding_mode == "zeros"
        and keeps_resolution
    )
