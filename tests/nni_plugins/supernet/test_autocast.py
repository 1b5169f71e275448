"""Weights in the precision of autocast: those that do not train are cast once."""

from __future__ import annotations

import copy
from functools import partial
from typing import cast

import pytest
import torch
from torch import nn

from nni_plugins.supernet.autocast import CastOnce
from nni_plugins.supernet.fast_layers import freeze_convolutions, use_fast_layers

BFLOAT16 = partial(torch.autocast, "cpu", torch.bfloat16)


def test_cast_again_only_after_a_change() -> None:
    cast, weight = CastOnce(), torch.tensor([1.0, 1.001])
    assert cast(weight) is weight
    with BFLOAT16():
        first = cast(weight)
        assert torch.equal(first, weight.bfloat16())
        assert cast(weight) is first
        weight.mul_(3)
        assert torch.equal(cast(weight), weight.bfloat16())
        weight.data = torch.tensor([5.0, 6.0])  # as a move to another device does it
        assert torch.equal(cast(weight), weight.bfloat16())
    with torch.autocast("cpu", torch.float16):
        assert cast(weight).dtype == torch.float16


def test_what_trains_gets_its_gradient_every_time() -> None:
    cast, weight = CastOnce(), torch.ones(2, requires_grad=True)
    for _ in range(2):
        with BFLOAT16():
            cast(weight).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [2.0, 2.0]


@pytest.mark.parametrize("groups", [1, 4])
def test_a_frozen_convolution(groups: int) -> None:
    torch.manual_seed(0)
    conv = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=groups, bias=False))
    weight = cast(nn.Conv2d, conv[0]).weight.data
    frozen = copy.deepcopy(conv)
    freeze_convolutions(use_fast_layers(frozen))
    x = torch.randn(2, 4, 5, 5, requires_grad=True)
    for change in (lambda: None, lambda: weight.mul_(2), lambda: None):
        change()
        frozen.load_state_dict(conv.state_dict())
        with BFLOAT16():
            expected, actual = conv(x), frozen(x)
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(*(torch.autograd.grad(y.float().square().sum(), x)[0] for y in (actual, expected)))
