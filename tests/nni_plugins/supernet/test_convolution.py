"""Convolutions with gradients of their own, against torch's, in both memory formats."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from nni_plugins.supernet.convolution import FastConv2d
from nni_plugins.supernet.fast_layers import freeze_convolutions, lay_out, use_fast_layers

CHANNELS = 3
FORMATS = [torch.contiguous_format, torch.channels_last]


def depthwise(kernel: int = 3, dilation: int = 1, channels: int = CHANNELS, **changes: Any) -> nn.Conv2d:
    return convolution(
        {"in_channels": channels, "out_channels": channels, "kernel_size": kernel, "dilation": dilation,
         "padding": dilation * (kernel - 1) // 2, "groups": channels, **changes}
    )  # fmt: skip


def convolution(settings: dict[str, Any]) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(
        **{"in_channels": 4, "out_channels": 6, "kernel_size": 3, "bias": False, "dtype": torch.float64, **settings}
    )


def fast(conv: nn.Conv2d) -> Any:
    (child,) = use_fast_layers(nn.Sequential(copy.deepcopy(conv))).children()
    return child


def frozen(conv: nn.Conv2d) -> Any:
    parent = nn.Sequential(copy.deepcopy(conv))
    freeze_convolutions(parent)
    return parent[0]


def assert_equal(expected: nn.Conv2d, actual: nn.Conv2d, size: tuple[int, int], memory_format: Any) -> None:
    """Compare the function and its gradients by images and by every parameter that trains."""
    images = torch.randn(4, expected.in_channels, *size, dtype=torch.float64, requires_grad=True)
    same_images = images.detach().clone(memory_format=memory_format).requires_grad_()
    lay_out(actual, channels_last=memory_format is torch.channels_last)
    output, same_output = expected(images), actual(same_images)
    torch.testing.assert_close(same_output, output, check_stride=False)
    gradient = torch.randn_like(output)
    output.backward(gradient)
    same_output.backward(gradient.contiguous(memory_format=memory_format))
    torch.testing.assert_close(same_images.grad, images.grad, check_stride=False)
    for parameter, same in zip(expected.parameters(), actual.parameters(), strict=True):
        if same.requires_grad:
            torch.testing.assert_close(same.grad, parameter.grad, check_stride=False)
        else:
            assert same.grad is None


# sizes around the kernel's reach (9 pixels for 5x5 dilated), odd, even and down to one pixel
@pytest.mark.parametrize("size", [(8, 8), (9, 7), (5, 6), (3, 2), (1, 1), (1, 12)])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_depthwise(memory_format: Any, kernel: int, dilation: int, stride: int, size: tuple[int, int]) -> None:
    conv = depthwise(kernel, dilation, stride=stride)
    assert_equal(conv, fast(conv), size, memory_format)


OTHERS: list[dict[str, Any]] = [
    {"kernel_size": 1},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": 1, "stride": (1, 2)},
    {"kernel_size": 1, "padding": 1},
    {"padding": 1},
    {"padding": 0, "dilation": 2},
    {"padding": 0, "dilation": 2, "stride": 2},
    {"padding": 3},
    {"kernel_size": (1, 3), "padding": (0, 1), "bias": True},
    {"padding": 1, "stride": 2},
    {"padding": 1, "groups": 2},
    {"kernel_size": 4, "padding": 1},
    {"kernel_size": 5, "padding": 4, "dilation": 2, "stride": 2, "groups": 4, "out_channels": 4},
    {"kernel_size": (5, 3), "padding": (2, 1), "groups": 4, "out_channels": 4},
    {"kernel_size": (3, 5), "padding": (1, 2), "stride": (2, 1), "groups": 4, "out_channels": 4},
    {"padding": (1, 2), "dilation": (1, 2), "groups": 4, "out_channels": 4},
    {"padding": 2, "groups": 4, "out_channels": 4},
    {"padding": 1, "groups": 4, "out_channels": 8},
]  # fmt: skip


@pytest.mark.parametrize("size", [(7, 7), (8, 6)])
@pytest.mark.parametrize("settings", OTHERS, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("make", [fast, frozen])
def test_others(make: Callable[..., Any], memory_format: Any, settings: dict[str, Any], size: tuple[int, int]) -> None:
    conv = convolution(settings)
    made = make(conv)
    assert type(made) is FastConv2d
    assert_equal(conv, made, size, memory_format)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_first_and_second_derivatives(memory_format: Any, kernel: int, dilation: int, stride: int) -> None:
    conv = fast(depthwise(kernel, dilation, channels=2, stride=stride))
    images = torch.randn(2, 2, 4, 5, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()

    def function(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(conv, {"weight": weight}, (x,))

    assert torch.autograd.gradcheck(function, (images, conv.weight))
    assert torch.autograd.gradgradcheck(function, (images, conv.weight))


@pytest.mark.parametrize("settings", OTHERS, ids=str)
def test_second_derivative_of_a_frozen_one(settings: dict[str, Any]) -> None:
    conv = frozen(convolution(settings))
    images = torch.randn(1, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: conv(x).pow(2), (images,))


@pytest.mark.parametrize(("of_images", "of_weight"), [(True, False), (False, True)])
def test_one_of_the_gradients_alone(of_images: bool, of_weight: bool) -> None:
    expected, actual = depthwise(5, 2), fast(depthwise(5, 2))
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


def kept_bytes(run: Callable[[], torch.Tensor], parameters: list[nn.Parameter]) -> int:
    """Return the memory that autograd keeps for the backward pass, that of ``parameters`` not counted."""
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


def test_inputs_are_not_kept_for_weights_without_gradient() -> None:
    stack = use_fast_layers(
        nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3))
    )
    images = torch.randn(2, 4, 8, 8, requires_grad=True)
    parameters = list(stack.parameters())
    assert kept_bytes(lambda: stack(images), parameters) == 3 * images.nbytes
    stack.requires_grad_(False)
    assert kept_bytes(lambda: stack(images), parameters) == 0


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("settings", [{"padding": 1}, {"kernel_size": 1}, {"padding": 1, "groups": 4, "stride": 2}])
def test_bfloat16_autocast(settings: dict[str, Any], memory_format: Any, inside: bool) -> None:
    """With the backward pass inside of autocast, and outside of it, as Lightning has it."""
    reference = convolution({**settings, "out_channels": 4}).float()
    conv = fast(reference)
    images = torch.randn(2, 4, 8, 8).to(memory_format=memory_format).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        output = conv(images)
        assert output.dtype is torch.bfloat16
        if inside:
            output.float().pow(2).sum().backward()
    if not inside:
        output.float().pow(2).sum().backward()
    assert conv.weight.grad.dtype is torch.float32
    reference_images = images.detach().clone().requires_grad_()
    reference(reference_images).pow(2).sum().backward()
    torch.testing.assert_close(conv.weight.grad, reference.weight.grad, rtol=0.05, atol=1.0)
    torch.testing.assert_close(images.grad, reference_images.grad, rtol=0.05, atol=0.1)


# What is exchanged


@pytest.mark.parametrize("settings", [{"padding": "same"}, {"padding": 1, "padding_mode": "reflect"}], ids=str)
def test_paddings_of_another_kind_keep_their_class(settings: dict[str, Any]) -> None:
    conv = convolution(settings)
    (child,) = use_fast_layers(nn.Sequential(conv)).children()
    assert child is conv
    freeze_convolutions(nn.Sequential(conv))
    assert not conv.weight.requires_grad


def test_a_3d_or_transposed_convolution_and_a_class_of_its_own_stay() -> None:
    class Doubled(nn.Conv2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    layers = [nn.ConvTranspose2d(3, 3, 3), nn.Conv3d(3, 3, 3), Doubled(3, 3, 3)]
    assert list(use_fast_layers(nn.Sequential(*layers)).children()) == layers


def test_a_layer_itself_is_exchanged() -> None:
    assert type(use_fast_layers(depthwise())) is FastConv2d


@pytest.mark.parametrize("exchange", [use_fast_layers, freeze_convolutions])
def test_names_weights_and_mode_stay(exchange: Callable[[nn.Module], Any]) -> None:
    def network() -> Any:
        torch.manual_seed(0)
        inner = nn.Sequential(nn.ReLU(), depthwise(5, 2), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
        return nn.ModuleDict({"block": inner, "head": depthwise()}).eval()

    before, after = network(), network()
    weight = after["block"][1].weight
    exchange(after)
    assert [type(m) for m in (after["block"][1], after["head"])] == [FastConv2d, FastConv2d]
    assert after["block"][1].weight is weight
    assert not after["block"][1].training
    state = before.state_dict()
    assert list(after.state_dict()) == list(state)
    for name, value in after.state_dict().items():
        assert torch.equal(value, state[name])
    assert repr(after["head"]).removeprefix("FastConv2d") == repr(before["head"]).removeprefix("Conv2d")
    trained = [p.requires_grad for p in after["block"].parameters()]
    assert trained == ([True] * 5 if exchange is use_fast_layers else [False] * 3 + [True] * 2)


def test_torch_export_sees_an_ordinary_convolution() -> None:
    network = nn.Sequential(fast(depthwise(5, 2)).float(), nn.ReLU()).eval()
    images = torch.randn(2, CHANNELS, 8, 8)
    program = torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any("conv2d" in name for name in called)
    assert not any("autograd" in name.lower() or "Convolution" in name for name in called)
    other = torch.randn(5, CHANNELS, 8, 8)
    torch.testing.assert_close(program.module()(other), network(other))
