"""Convolutions that do not train: the same function, without weight gradients and without kept inputs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from nni_plugins.supernet.depthwise import use_fast_depthwise
from nni_plugins.supernet.frozen import FrozenConv2d, freeze_convolutions

SETTINGS = [
    {"kernel_size": 1},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": 0, "dilation": 2},
    {"kernel_size": 3, "padding": 3},
    {"kernel_size": (1, 3), "padding": (0, 1), "bias": True},
    {"kernel_size": 3, "padding": 1, "stride": 2},
    {"kernel_size": 3, "padding": 1, "groups": 2},
    {"kernel_size": 5, "padding": 4, "dilation": 2, "stride": 2, "groups": 4, "out_channels": 4},
]


def convolution(settings: dict) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(**{"in_channels": 4, "out_channels": 6, "bias": False, "dtype": torch.float64, **settings})


def frozen(conv: nn.Module) -> nn.Module:
    parent = nn.Sequential(copy.deepcopy(conv))
    freeze_convolutions(parent)
    return parent[0]


@pytest.mark.parametrize("size", [(7, 7), (8, 6)])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_equal_to_conv2d(settings: dict, size: tuple[int, int]) -> None:
    expected = convolution(settings)
    actual = frozen(expected)
    assert type(actual) is FrozenConv2d
    images = torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True)
    same_images = images.detach().clone().requires_grad_()
    output, same_output = expected(images), actual(same_images)
    torch.testing.assert_close(same_output, output)
    gradient = torch.randn_like(output)
    output.backward(gradient)
    same_output.backward(gradient)
    torch.testing.assert_close(same_images.grad, images.grad)
    assert all(parameter.grad is None for parameter in actual.parameters())


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_second_derivative(settings: dict) -> None:
    conv = frozen(convolution(settings))
    images = torch.randn(1, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: conv(x).pow(2), (images,))


def kept_bytes(run: Callable[[], torch.Tensor], parameters: list[nn.Parameter]) -> int:
    known = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(kept.values())


def test_inputs_are_not_kept() -> None:
    stack = use_fast_depthwise(
        nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3))
    )
    images = torch.randn(2, 4, 8, 8, requires_grad=True)
    parameters = list(stack.parameters())
    trained = kept_bytes(lambda: stack(images), parameters)
    freeze_convolutions(stack)
    assert trained == 3 * images.nbytes
    assert kept_bytes(lambda: stack(images), parameters) == 0


def test_names_weights_and_mode_stay() -> None:
    net: Any = nn.ModuleDict({"block": nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))}).eval()
    names, weight = list(net.state_dict()), net["block"][0].weight
    freeze_convolutions(net)
    assert list(net.state_dict()) == names
    assert net["block"][0].weight is weight
    assert not net["block"][0].training
    assert [p.requires_grad for p in net.parameters()] == [False, False, True, True]


@pytest.mark.parametrize("settings", [{"padding": "same"}, {"padding": 1, "padding_mode": "reflect"}], ids=str)
def test_paddings_of_another_kind_keep_their_class(settings: dict) -> None:
    conv = frozen(convolution({"kernel_size": 3, **settings}))
    assert type(conv) is nn.Conv2d
    assert not conv.weight.requires_grad


def test_bfloat16_autocast() -> None:
    conv = frozen(convolution({"kernel_size": 3, "padding": 1})).float()
    images = torch.randn(2, 4, 6, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        output = conv(images)
    assert output.dtype is torch.bfloat16
    output.float().sum().backward()  # outside of autocast, as a training loop may have it
    expected = convolution({"kernel_size": 3, "padding": 1}).float()
    same_images = images.detach().clone().requires_grad_()
    expected(same_images).sum().backward()
    torch.testing.assert_close(images.grad, same_images.grad, rtol=0.05, atol=0.05)
