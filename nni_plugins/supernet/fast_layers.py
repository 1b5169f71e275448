"""The layers of a network that have a faster form, exchanged for it: weights, names and results stay."""

from __future__ import annotations

import torch
from torch import nn

from nni_plugins.supernet.convolution import FastConv2d, fast_convolution
from nni_plugins.supernet.pooling import fast_pooling
from nni_plugins.supernet.weighted_norm import uncounted


def use_fast_layers(module: nn.Module) -> nn.Module:
    """Return ``module`` with the fast form of every layer that has one, exchanged in place inside of it."""
    return _exchanged(module, {})


def _exchanged(module: nn.Module, known: dict[nn.Module, nn.Module]) -> nn.Module:
    if module not in known:
        known[module] = _fast_form(module) or module
        for name, child in list(known[module].named_children()):
            exchanged = _exchanged(child, known)
            if exchanged is not child:
                setattr(known[module], name, exchanged)
    return known[module]


def _fast_form(module: nn.Module) -> nn.Module | None:
    if isinstance(module, nn.Conv2d):
        return fast_convolution(module)
    if isinstance(module, nn.BatchNorm2d):
        return uncounted(module)
    return fast_pooling(module)


def prefers_channels_last() -> bool:
    """Return whether channels that lie next to each other were measured to be faster on the device of this process.

    On a CPU they are, by a factor of 1.3 to 2 (``benchmarks/search_step.py``); on a GPU nobody has measured it here.
    """
    return not torch.cuda.is_available()


def lay_out(module: nn.Module, *, channels_last: bool) -> None:
    """Lay the weights of ``module`` out so that features come out channels last, or as torch has them."""
    module.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)  # type: ignore[call-overload]


def freeze_convolutions(module: nn.Module) -> None:
    """Freeze every convolution inside ``module``, in place, and keep no input for a gradient that is not computed."""
    use_fast_layers(module)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.requires_grad_(False)
        if isinstance(layer, FastConv2d):
            layer.frozen = True
