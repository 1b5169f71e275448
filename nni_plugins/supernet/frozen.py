"""Convolutions that do not train: no weight gradient is computed, and no input kept for one.

The input's gradient of a convolution needs the output's gradient and the weight alone, but torch keeps the input of
every convolution for the weight's gradient, wanted or not. In a supernet whose convolutions are frozen these inputs are
a good part of what a step keeps in memory. At stride 1 the input's gradient is itself a convolution, with the flipped
kernel whose input and output channels change places.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.grad import conv2d_input

from nni_plugins.supernet.autocast import CastOnce, autocast


class _FrozenConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, *settings: Any) -> torch.Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.settings = x.shape, settings
        return F.conv2d(x, weight, None, *settings)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        (weight,) = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.settings
        around = [d * (k - 1) - p for d, k, p in zip(dilation, weight.shape[2:], padding, strict=True)]
        if stride == (1, 1) and groups == 1 and min(around) >= 0:
            grad_x = F.conv2d(gradient, weight.transpose(0, 1).flip(-1, -2), None, stride, around, dilation)
        else:
            grad_x = conv2d_input(ctx.shape, weight, gradient, *ctx.settings)
        return grad_x, None, None, None, None, None


class FrozenConv2d(nn.Conv2d):
    """A convolution whose weight never gets a gradient; parameters as in ``nn.Conv2d``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._cast_weight = CastOnce()

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled() or torch.compiler.is_exporting():
            return super().forward(input)
        (input,), weight = autocast(input), self._cast_weight(self.weight)
        x = _FrozenConvolution.apply(input, weight, self.stride, self.padding, self.dilation, self.groups)
        return x if self.bias is None else x + self.bias.to(x.dtype).view(-1, 1, 1)


def freeze_convolutions(module: nn.Module) -> None:
    """Freeze every convolution inside ``module``, in place; weights and names stay."""
    for name, child in module.named_children():
        freeze_convolutions(child)
        if isinstance(child, nn.Conv2d):
            child.requires_grad_(False)
            if type(child) is nn.Conv2d and child.padding_mode == "zeros" and not isinstance(child.padding, str):
                kernel, stride, padding, dilation = (
                    cast("tuple[int, int]", size)
                    for size in (child.kernel_size, child.stride, child.padding, child.dilation)
                )
                frozen = FrozenConv2d(
                    child.in_channels, child.out_channels, kernel, stride, padding, dilation, child.groups,
                    bias=False, device="meta",
                )  # fmt: skip
                frozen.weight, frozen.bias = child.weight, child.bias
                setattr(module, name, frozen.train(child.training))
