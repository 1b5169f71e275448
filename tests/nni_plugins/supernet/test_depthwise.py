"""The depthwise convolution with its own backward pass, against torch's."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from nni_plugins.supernet.depthwise import DepthwiseConv2d, use_fast_depthwise

CHANNELS = 3


def plain(kernel: int = 3, dilation: int = 1, channels: int = CHANNELS, **changes) -> nn.Conv2d:
    settings = dict(
        padding=dilation * (kernel - 1) // 2, dilation=dilation, groups=channels, bias=False, dtype=torch.float64
    )
    torch.manual_seed(kernel + 10 * dilation)
    return nn.Conv2d(channels, channels, kernel, **{**settings, **changes})


def fast(conv: nn.Conv2d) -> Any:
    (child,) = use_fast_depthwise(nn.Sequential(copy.deepcopy(conv))).children()
    return child


# sizes around the kernel's reach (9 pixels for 5x5 dilated), odd, even and down to one pixel
@pytest.mark.parametrize("size", [(8, 8), (9, 7), (5, 6), (3, 2), (1, 1), (1, 12)])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
def test_equal_to_conv2d(kernel: int, dilation: int, stride: int, size: tuple[int, int]) -> None:
    expected, actual = plain(kernel, dilation, stride=stride), fast(plain(kernel, dilation, stride=stride))
    assert type(actual) is DepthwiseConv2d
    images = torch.randn(4, CHANNELS, *size, dtype=torch.float64, requires_grad=True)
    same_images = images.detach().clone().requires_grad_()
    output, same_output = expected(images), actual(same_images)
    torch.testing.assert_close(same_output, output)
    gradient = torch.randn_like(output)
    output.backward(gradient)
    same_output.backward(gradient)
    torch.testing.assert_close(same_images.grad, images.grad)
    torch.testing.assert_close(actual.weight.grad, expected.weight.grad)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
def test_first_and_second_derivatives(kernel: int, dilation: int, stride: int) -> None:
    conv = fast(plain(kernel, dilation, channels=2, stride=stride))
    images = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)

    def function(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(conv, {"weight": weight}, (x,))

    assert torch.autograd.gradcheck(function, (images, conv.weight))
    assert torch.autograd.gradgradcheck(function, (images, conv.weight))


@pytest.mark.parametrize(("of_images", "of_weight"), [(True, False), (False, True)])
def test_one_of_the_gradients_alone(of_images: bool, of_weight: bool) -> None:
    expected, actual = plain(5, 2), fast(plain(5, 2))
    gradients = []
    for conv in (expected, actual):
        conv.weight.requires_grad_(of_weight)
        images = torch.linspace(-1, 1, 2 * CHANNELS * 49, dtype=torch.float64).view(2, CHANNELS, 7, 7)
        images.requires_grad_(of_images)
        conv(images).pow(2).sum().backward()
        gradients.append((images.grad, conv.weight.grad))
    for (images_gradient, weight_gradient), wanted in zip(gradients, [(of_images, of_weight)] * 2, strict=True):
        assert (images_gradient is not None, weight_gradient is not None) == wanted
    torch.testing.assert_close(gradients[1][0 if of_images else 1], gradients[0][0 if of_images else 1])


def test_a_frozen_weight_keeps_no_images_for_the_backward_pass() -> None:
    conv = fast(plain())
    conv.weight.requires_grad_(False)
    images = torch.randn(2, CHANNELS, 8, 8, dtype=torch.float64, requires_grad=True)
    kept: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        conv(images)
    assert max(kept) == conv.weight.numel()


def test_channels_last() -> None:
    expected, actual = plain(5, 2), fast(plain(5, 2))
    images = torch.randn(2, CHANNELS, 6, 6, dtype=torch.float64)
    output = expected(images)
    same_output = actual.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(same_output, output)
    output.sin().sum().backward()
    same_output.sin().sum().backward()
    torch.testing.assert_close(actual.weight.grad, expected.weight.grad)


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_bfloat16_autocast(stride: int, inside: bool) -> None:
    """With the backward pass inside of autocast, and outside of it, as Lightning has it."""
    conv = fast(plain(stride=stride)).float()
    images = torch.randn(2, CHANNELS, 8, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        output = conv(images)
        assert output.dtype is torch.bfloat16
        if inside:
            output.float().pow(2).sum().backward()
    if not inside:
        output.float().pow(2).sum().backward()
    assert conv.weight.grad.dtype is torch.float32
    reference = plain(stride=stride).float()
    reference_images = images.detach().clone().requires_grad_()
    reference(reference_images).pow(2).sum().backward()
    torch.testing.assert_close(conv.weight.grad, reference.weight.grad, rtol=0.05, atol=0.5)
    torch.testing.assert_close(images.grad, reference_images.grad, rtol=0.05, atol=0.05)


# What is replaced


@pytest.mark.parametrize(
    "changes",
    [
        {"stride": (1, 2)},
        {"bias": True},
        {"groups": 1},
        {"padding": 0},
        {"padding": 2},
        {"padding": "same"},
        {"padding": (1, 0), "kernel_size": (3, 1)},
        {"padding_mode": "reflect"},
        {"dilation": (1, 2), "padding": (1, 2)},
        {"out_channels": 2 * CHANNELS},
        {"kernel_size": 4},
    ],
    ids=str,
)
def test_what_does_not_qualify_stays(changes: dict) -> None:
    settings = dict(in_channels=CHANNELS, out_channels=CHANNELS, kernel_size=3, padding=1, groups=CHANNELS, bias=False)
    conv = nn.Conv2d(**{**settings, **changes})
    (child,) = use_fast_depthwise(nn.Sequential(conv)).children()
    assert child is conv


def test_a_3d_or_transposed_convolution_stays() -> None:
    convs = [
        nn.ConvTranspose2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS, bias=False),
        nn.Conv3d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS, bias=False),
    ]
    assert list(use_fast_depthwise(nn.Sequential(*convs)).children()) == convs


def test_names_weights_and_mode_stay() -> None:
    def network() -> Any:
        torch.manual_seed(0)
        inner = nn.Sequential(nn.ReLU(), plain(5, 2), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
        return nn.ModuleDict({"block": inner, "head": plain()}).eval()

    before, after = network(), network()
    weight = after["block"][1].weight
    returned: Any = use_fast_depthwise(after)
    assert returned is after
    assert [type(m) for m in (after["block"][1], after["head"])] == [DepthwiseConv2d, DepthwiseConv2d]
    assert after["block"][1].weight is weight
    assert not after["block"][1].training
    state = before.state_dict()
    assert list(after.state_dict()) == list(state)
    for name, value in after.state_dict().items():
        assert torch.equal(value, state[name])
    assert repr(after["head"]).removeprefix("DepthwiseConv2d") == repr(before["head"]).removeprefix("Conv2d")


def test_torch_export_sees_an_ordinary_convolution() -> None:
    network = nn.Sequential(fast(plain(5, 2)).float(), nn.ReLU()).eval()
    images = torch.randn(2, CHANNELS, 8, 8)
    program = torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any("conv2d" in name for name in called)
    assert not any("autograd" in name.lower() or "Depthwise" in name for name in called)
    other = torch.randn(5, CHANNELS, 8, 8)
    torch.testing.assert_close(program.module()(other), network(other))
