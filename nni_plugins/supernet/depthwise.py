"""Depthwise convolution whose backward pass is written as two more convolutions.

For stride 1, kernel size k and dilation d, with g the gradient of the output,

    grad_x      = depthwise convolution of g with the flipped kernel
    grad_w[i,j] = sum over batch and pixels of x[h + d*i - p, w + d*j - p] * g[h, w]

and the second is a convolution of x with g as the kernel, one group per channel and image. On a CPU, torch 2.13's own
backward of a dilated or 5x5 depthwise convolution is 10 to 20 times slower than these two, and it dominates the step of
a DARTS-like supernet. On other devices the module is an ordinary convolution.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn


class _DepthwiseFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, dilation: int) -> torch.Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        ctx.dilation = dilation
        return _depthwise(x, weight, dilation)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = _depthwise(gradient, weight.flip(-1, -2), ctx.dilation)
        if ctx.needs_input_grad[1]:
            images, channels, height, width = x.shape
            kernel = weight.shape[-1]
            grad_weight = F.conv2d(
                x.reshape(1, images * channels, height, width),
                gradient.reshape(images * channels, 1, height, width),
                stride=ctx.dilation,
                padding=ctx.dilation * (kernel - 1) // 2,
                groups=images * channels,
            )
            grad_weight = grad_weight[..., :kernel, :kernel].reshape(images, channels, 1, kernel, kernel).sum(0)
        return grad_x, grad_weight, None


def _depthwise(x: torch.Tensor, weight: torch.Tensor, dilation: int) -> torch.Tensor:
    padding = dilation * (weight.shape[-1] - 1) // 2
    return F.conv2d(x, weight, padding=padding, dilation=dilation, groups=weight.shape[0])


class DepthwiseConv2d(nn.Conv2d):
    """A resolution-keeping depthwise convolution with the fast backward pass; parameters as in ``nn.Conv2d``."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if input.device.type != "cpu" or not torch.is_grad_enabled() or torch.compiler.is_exporting():
            return super().forward(input)
        return _DepthwiseFunction.apply(input, self.weight, self.dilation[0])


def use_fast_depthwise(module: nn.Module) -> nn.Module:
    """Give every convolution inside ``module`` that qualifies the fast backward pass; weights and names stay.

    What qualifies is depthwise, without bias, square, of odd size and stride 1, zero-padded to keep the resolution.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d) and _qualifies(child):
            fast = DepthwiseConv2d(
                child.in_channels, child.out_channels, child.kernel_size[0],
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
        and conv.stride == (1, 1)
        and conv.dilation == (dilation, dilation)
        and conv.padding_mode == "zeros"
        and keeps_resolution
    )
