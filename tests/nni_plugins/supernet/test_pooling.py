"""Fast pooling against torch's, ties, borders and both memory formats."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from nni_plugins.supernet.fast_layers import use_fast_layers
from nni_plugins.supernet.pooling import FastAvgPool2d, FastMaxPool2d

FORMATS = [torch.contiguous_format, torch.channels_last]


def average(kernel: int = 3, stride: int = 1, padding: int = 1, **changes: Any) -> nn.AvgPool2d:
    return nn.AvgPool2d(kernel, stride, padding, **{"count_include_pad": False, **changes})


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (5, 6), (3, 2), (2, 2), (1, 5)])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize(
    "pool",
    [nn.MaxPool2d(3, 1, 1), nn.MaxPool2d(3, 2, 1), average(), average(stride=2), average(5, 1, 2), average(5, 3, 2)],
    ids=str,
)
def test_equal_to_torch(pool: nn.Module, memory_format: Any, size: tuple[int, int]) -> None:
    fast = use_fast_layers(pool)
    assert type(fast) in (FastMaxPool2d, FastAvgPool2d)
    # few values, so that most windows have ties: their gradient goes to one pixel of the window, the one torch takes
    images = torch.randint(0, 3, (4, 3, *size), generator=torch.Generator().manual_seed(0)).double()
    images.requires_grad_()
    same_images = images.detach().clone(memory_format=memory_format).requires_grad_()
    output, same_output = pool(images), fast(same_images)
    torch.testing.assert_close(same_output, output, check_stride=False)
    assert same_output.is_contiguous(memory_format=memory_format)
    gradient = torch.randn_like(output)
    output.backward(gradient)
    same_output.backward(gradient)
    torch.testing.assert_close(same_images.grad, images.grad, check_stride=False)


@pytest.mark.parametrize("stride", [1, 2])
def test_derivatives_of_the_average(stride: int) -> None:
    fast = use_fast_layers(average(stride=stride))
    images = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(fast, (images,))
    assert torch.autograd.gradgradcheck(lambda x: fast(x).pow(2), (images,))


@pytest.mark.parametrize(
    "pool",
    [
        average(count_include_pad=True),
        average(ceil_mode=True),
        average(divisor_override=2),
        nn.AvgPool2d((3, 3), 1, 1, count_include_pad=False),
        nn.MaxPool2d(3, return_indices=True),
        nn.AdaptiveAvgPool2d(1),
    ],
    ids=str,
)
def test_what_stays(pool: nn.Module) -> None:
    assert use_fast_layers(pool) is pool
