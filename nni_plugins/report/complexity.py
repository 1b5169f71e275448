"""Size of a network: parameters, multiply-adds, and how much it shrinks an image."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(net: nn.Module, *, auxiliary: bool = False) -> int:
    """Return the number of parameters of ``net``, shared ones counted once.

    Parameters
    ----------
    auxiliary
        Count an auxiliary head too, which only training needs; papers do not.
    """
    head = None if auxiliary else getattr(net, "auxiliary_head", None)
    left_out = set() if head is None else set(head.parameters())
    return sum(parameter.numel() for parameter in net.parameters() if parameter not in left_out)


def count_multiply_adds(net: nn.Module, in_channels: int, image_size: int) -> int:
    """Return the multiply-adds of convolutions and linear layers for one image, in evaluation mode."""
    training = net.training
    example = next(net.parameters()).new_zeros(1, in_channels, image_size, image_size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net.eval()(example)
    net.train(training)
    return counter.get_total_flops() // 2


def total_stride(net: nn.Module, in_channels: int, image_size: int) -> int:
    """Return how many pixels of the image's side become one of the smallest feature map.

    Feature maps are what convolutions give for an image of ``image_size``, in evaluation mode; a map of a single pixel
    is taken for one that has been pooled on purpose and is not counted.
    """
    sides = [image_size]

    def note(_: nn.Module, __: object, output: torch.Tensor) -> None:
        sides.append(output.shape[-1])

    hooks = [module.register_forward_hook(note) for module in net.modules() if isinstance(module, nn.Conv2d)]
    training = net.training
    try:
        with torch.no_grad():
            net.eval()(next(net.parameters()).new_zeros(1, in_channels, image_size, image_size))
    finally:
        net.train(training)
        for hook in hooks:
            hook.remove()
    return image_size // min(side for side in sides if side > 1)
