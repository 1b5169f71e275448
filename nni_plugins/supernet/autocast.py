"""Autocast for convolutions with a backward pass of their own.

Inside ``torch.autograd.Function`` autocast would cast for the forward pass alone, and the backward pass would meet
inputs and gradients of two precisions. Where the casts come before the function, autograd undoes them.
"""

from __future__ import annotations

import torch


def autocast(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return ``tensors`` in the precision in which autocast would run a convolution on them; as they are without it."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(tensor.to(dtype) for tensor in tensors)
