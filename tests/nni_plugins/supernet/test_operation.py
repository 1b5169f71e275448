"""A weighted candidate operation against the weight times the operation."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from nni_plugins.supernet.operation import WeightedOperation, weighted_sums
from nni_plugins.supernet.weighted_norm import scaled_batch_norm


class Residual(nn.Sequential):
    """A Sequential that is more than the sequence of its parts."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + super().forward(x)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Identity(),
        lambda: nn.ReLU(),
        lambda: nn.BatchNorm2d(4),
        lambda: nn.Sequential(),
        lambda: nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)),
        lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()),
        lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, affine=False, track_running_stats=False)),
        lambda: nn.Sequential(nn.AvgPool2d(3, 2, 1), nn.BatchNorm2d(4, momentum=None)),
        lambda: Residual(nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_a_weighted_operation(make: Callable[[], nn.Module], training: bool) -> None:
    torch.manual_seed(0)
    operation = make().double().train(training)
    weighted = WeightedOperation(copy.deepcopy(operation)).train(training)
    weight = torch.tensor(0.3, dtype=torch.float64)
    for _ in range(3):  # running averages add up
        x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
        given = x.relu() if weighted.rectified else x
        expected = operation(x)
        torch.testing.assert_close(weighted(given, weight.expand(4)), weight * expected)
    kept = dict(weighted.named_buffers())
    for name, expected_buffer in zip(kept, operation.buffers(), strict=True):
        counted = not name.endswith("num_batches_tracked") or weighted.norm is None or weighted.norm.momentum is None
        if counted:
            torch.testing.assert_close(kept[name], expected_buffer)
    operation.eval()
    weighted.eval()
    torch.testing.assert_close(weighted(given), operation(x))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_gradients_of_a_scaled_batch_norm(affine: bool, training: bool) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3, affine=affine, dtype=torch.float64).train(training)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, weight: scaled_batch_norm(norm, x, weight), (x, weight))


def test_weighted_sums() -> None:
    features = [torch.full((1, 2, 2, 2), value) for value in (1.0, 10.0, 100.0)]
    sums = weighted_sums(torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.5, 0.0]]), features)
    assert [tuple(total.shape) for total in sums] == [(1, 2, 2, 2)] * 2
    assert [total.unique().tolist() for total in sums] == [[321.0], [5.0]]


def test_weighted_sums_in_bfloat16_on_a_cpu() -> None:
    """At a size at which a product in bfloat16 ends the process on CPUs with AMX; its gradient would be rounded too."""
    torch.manual_seed(0)
    weights = torch.randn(3, 3, requires_grad=True)
    features = [torch.randn(64, 32, 16, 16, dtype=torch.bfloat16) for _ in range(3)]
    with torch.autocast("cpu", torch.bfloat16):
        sums = weighted_sums(weights, features)
    assert {total.dtype for total in sums} == {torch.bfloat16}
    sums[0].backward(features[1])
    expected = [(feature.double() * features[1].double()).sum() for feature in features]
    assert weights.grad is not None
    torch.testing.assert_close(weights.grad[0].double(), torch.stack(expected), rtol=1e-4, atol=1e-2)
