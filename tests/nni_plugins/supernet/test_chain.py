"""Operations as chains of stages against their layers one by one: function, gradients, statistics, memory."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from nni_plugins.supernet import batch_norm
from nni_plugins.supernet.batch_norm import ENOUGH, NARROW, VECTOR, is_narrow
from nni_plugins.supernet.chain import Stage, run_chain, runs_as_chain
from nni_plugins.supernet.fast_layers import lay_out, use_fast_layers
from nni_plugins.supernet.operation import WeightedOperation, stages_of
from search_spaces.operations import make_operation

FORMATS = [torch.contiguous_format, torch.channels_last]
WIDTHS = [4, NARROW + 4]


@pytest.fixture
def few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sums over rows of pixels are for more numbers than a quick test has."""
    monkeypatch.setattr(batch_norm, "ENOUGH", 0)


@pytest.mark.usefixtures("few_are_enough")
def test_narrow_sums_run_here() -> None:
    assert is_narrow(torch.randn(4, WIDTHS[0], 8, 8).to(memory_format=torch.channels_last))


def operation(name: str, channels: int, stride: int = 1, *, affine: bool = False) -> nn.Module:
    torch.manual_seed(0)
    made = make_operation(name, channels, stride, search=True).double()
    for module in made.modules():
        if affine and isinstance(module, nn.BatchNorm2d):
            module.affine = True
            module.weight = nn.Parameter(torch.randn(channels, dtype=torch.float64))  # negative scales among them
            module.bias = nn.Parameter(torch.randn(channels, dtype=torch.float64))
    return made


def fast(made: nn.Module) -> WeightedOperation:
    return WeightedOperation(use_fast_layers(copy.deepcopy(made)))


def by_name(module: WeightedOperation, tensors: Any) -> dict[str, torch.Tensor]:
    """Name the tensors of an operation as before it was split: behind the ReLU, the BatchNorm last."""
    last = sum(1 for _ in module.body) + 1
    names = {}
    for name, tensor in tensors:
        part, _, rest = name.partition(".")
        place = f"{int(rest.split('.')[0]) + 1}.{rest.split('.', 1)[1]}" if part == "body" else f"{last}.{rest}"
        names[place] = tensor
    return names


@pytest.mark.usefixtures("few_are_enough")
@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("channels", WIDTHS)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("name", ["sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"])
def test_equal_to_the_layers(
    name: str, memory_format: Any, channels: int, affine: bool, stride: int, size: tuple[int, int]
) -> None:
    expected = operation(name, channels, stride, affine=affine)
    actual = fast(expected)
    lay_out(actual, channels_last=memory_format is torch.channels_last)
    images = torch.randn(4, channels, *size, dtype=torch.float64, requires_grad=True)
    same_images = images.detach().clone(memory_format=memory_format).requires_grad_()
    weight = torch.rand(channels, dtype=torch.float64, requires_grad=True)
    same_weight = weight.detach().clone().requires_grad_()
    output = expected(images) * weight.view(-1, 1, 1)
    rectified = same_images.relu()
    assert runs_as_chain(actual.stages or [], rectified)
    same_output = actual(rectified, same_weight)
    torch.testing.assert_close(same_output, output, check_stride=False)
    output.sin().sum().backward()
    same_output.sin().sum().backward()
    torch.testing.assert_close(same_images.grad, images.grad, check_stride=False)
    torch.testing.assert_close(same_weight.grad, weight.grad)
    parameters = by_name(actual, actual.named_parameters())
    for place, parameter in expected.named_parameters():
        torch.testing.assert_close(parameters[place].grad, parameter.grad, check_stride=False)
    buffers = by_name(actual, actual.named_buffers())
    assert len(buffers) == len(list(expected.buffers())) > 0
    for place, buffer in expected.named_buffers():
        if not place.endswith("num_batches_tracked"):
            torch.testing.assert_close(buffers[place], buffer)


@pytest.mark.usefixtures("few_are_enough")
@pytest.mark.parametrize("channels", [2, 17])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_first_and_second_derivatives(memory_format: Any, channels: int) -> None:
    made = fast(operation("sep_conv_3x3", channels, affine=True))
    lay_out(made, channels_last=memory_format is torch.channels_last)
    images = torch.randn(2, channels, 3, 4, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
    weight = torch.rand(channels, dtype=torch.float64, requires_grad=True)
    for parameter in made.parameters():
        parameter.requires_grad_(parameter.ndim == 1)  # the convolutions' are compared above
    scales = [parameter for parameter in made.parameters() if parameter.requires_grad]
    assert torch.autograd.gradcheck(lambda x, w, *_: made(x.relu(), w), (images, weight, *scales))
    if channels == 2:
        assert torch.autograd.gradgradcheck(lambda x, w: made(x.relu(), w), (images, weight))


@pytest.mark.parametrize("channels", WIDTHS)
def test_a_hessian_vector_product_is_that_of_the_layers(channels: int) -> None:
    expected = operation("sep_conv_3x3", channels)
    products = []
    made = fast(expected)
    for run in (lambda x, w: expected(x) * w.view(-1, 1, 1), lambda x, w: made(x.relu(), w)):
        images = torch.linspace(-1, 1, 4 * channels * 16, dtype=torch.float64).view(4, channels, 4, 4).sin()
        weight = torch.linspace(0.1, 1, channels, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(run(images, weight).exp().sum(), weight, create_graph=True)
        products.append(torch.autograd.grad(gradient.sin().sum(), weight)[0])
    torch.testing.assert_close(*products)


def kept(run: Any) -> int:
    """Return how many numbers autograd keeps beside the operation's input."""
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.itemsize
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(storages.values())


@pytest.mark.parametrize(("name", "stages"), [("sep_conv_5x5", 2), ("dil_conv_3x3", 1)])
def test_one_feature_a_stage_is_kept(name: str, stages: int) -> None:
    made, images = fast(operation(name, 4)), torch.randn(8, 4, 16, 16, dtype=torch.float64)
    features = kept(lambda: made(images)) / images.numel()
    assert 1 + stages <= features < 1.1 + stages  # the input, the stages, and a little for weights and statistics


def test_no_input_gradient_where_none_is_wanted() -> None:
    made, images = fast(operation("dil_conv_3x3", 4)), torch.randn(2, 4, 6, 6, dtype=torch.float64)
    made(images).sum().backward()
    assert images.grad is None
    assert all(parameter.grad is not None for parameter in made.parameters())


# BatchNorm alone, where channels are few


@pytest.mark.usefixtures("few_are_enough")
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("shape", [(4, 3, 5, 7), (2, 1, 4, 4), (3, NARROW - 1, 2, 2), (3, NARROW, 2, 2), (1, 5, 3, 1)])
def test_batch_norm(shape: tuple[int, ...], affine: bool, momentum: float | None) -> None:
    expected = nn.BatchNorm2d(shape[1], affine=affine, momentum=momentum).double()
    if affine:
        nn.init.normal_(expected.weight)
        nn.init.normal_(expected.bias)
    actual = copy.deepcopy(expected)
    for _ in range(3):  # running statistics move more than once
        images = 3 + 2 * torch.randn(shape, dtype=torch.float64)
        images.requires_grad_()
        same_images = images.detach().clone(memory_format=torch.channels_last).requires_grad_()
        output, same_output = expected(images), run_chain([Stage([], actual)], same_images)
        torch.testing.assert_close(same_output, output, check_stride=False)
        output.sin().sum().backward()
        same_output.sin().sum().backward()
        torch.testing.assert_close(same_images.grad, images.grad, check_stride=False)
        for (name, parameter), same in zip(expected.named_parameters(), actual.parameters(), strict=True):
            torch.testing.assert_close(same.grad, parameter.grad, msg=name)
        for name, buffer in expected.named_buffers():
            if momentum is None or name != "num_batches_tracked":
                torch.testing.assert_close(actual.get_buffer(name), buffer)


def test_what_is_narrow() -> None:
    def last(channels: int, numbers: int = ENOUGH) -> torch.Tensor:
        side = math.isqrt(numbers // channels) + 1
        return torch.randn(2, channels, side - side % 2, side).to(memory_format=torch.channels_last)

    assert is_narrow(last(NARROW - 1))
    assert not is_narrow(last(NARROW - 1).contiguous())
    assert not is_narrow(last(NARROW - 1).bfloat16())
    assert not is_narrow(last(NARROW - 1, ENOUGH // 4))
    assert not is_narrow(last(VECTOR))
    assert not is_narrow(last(NARROW))


# What is a chain


@pytest.mark.parametrize(
    "layers",
    [
        [],
        [nn.BatchNorm2d(3)],
        [nn.Conv2d(3, 3, 1, bias=False)],
        [nn.Conv2d(3, 3, 1, bias=True), nn.BatchNorm2d(3)],
        [nn.Conv2d(3, 3, 1, bias=False), nn.ReLU(), nn.BatchNorm2d(3)],
        [nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3), nn.ReLU()],
        [nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3)],
        [nn.MaxPool2d(3), nn.BatchNorm2d(3)],
        [nn.Conv2d(3, 3, 1, bias=False), nn.SyncBatchNorm(3)],
    ],
    ids=str,
)
def test_what_is_none(layers: list[nn.Module]) -> None:
    assert stages_of([use_fast_layers(layer) for layer in layers]) is None


def test_not_in_evaluation_nor_without_gradients() -> None:
    made, images = fast(operation("dil_conv_3x3", 4)), torch.randn(2, 4, 6, 6, dtype=torch.float64)
    stages = made.stages
    assert stages is not None
    assert runs_as_chain(stages, images)
    with torch.no_grad():
        assert not runs_as_chain(stages, images)
    assert not runs_as_chain(stages, images.to("meta"))
    made.eval()
    assert not runs_as_chain(stages, images)
    torch.testing.assert_close(made(images), made.normalise(made.body(images)))
