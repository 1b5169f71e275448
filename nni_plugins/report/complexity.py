"""Size of a network: parameters and multiply-adds."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(net: nn.Module) -> int:
    """Return the number of parameters of ``net``, shared ones counted once."""
    return sum(parameter.numel() for parameter in net.parameters())


def count_multiply_adds(net: nn.Module, in_channels: int, image_size: int) -> int:
    """Return the multiply-adds of convolutions and linear layers for one image, in evaluation mode."""
    training = net.training
    example = next(net.parameters()).new_zeros(1, in_channels, image_size, image_size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net.eval()(example)
    net.train(training)
    return counter.get_total_flops() // 2
