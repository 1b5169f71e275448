"""Gradients of alpha against the equations, written parameter by parameter, and SGD's direction against SGD."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from nni_plugins.methods.bilevel.gradients import FINITE_DIFFERENCE, second_order, sgd_direction

RATES = (0.3, 0.1)


def parameters() -> tuple[nn.Parameter, list[nn.Parameter]]:
    """alpha, and weights of which the last has no part in any loss."""
    generator = torch.Generator().manual_seed(0)
    alpha, *w = (
        nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64))
        for shape in ((2,), (2, 3), (3,), (2,))
    )
    return alpha, w


def optimizer_of(w: list[nn.Parameter]) -> torch.optim.SGD:
    groups = [{"params": w[:2], "lr": RATES[0]}, {"params": w[2:], "lr": RATES[1], "weight_decay": 0.2}]
    return torch.optim.SGD(groups, momentum=0.9, weight_decay=0.05)


def loss(alpha: torch.Tensor, w: Sequence[torch.Tensor], target: float) -> torch.Tensor:
    return ((torch.tanh(alpha @ w[0]) * w[1]).sum() - target).square() + (alpha.sigmoid() * w[1][:2]).sum()


@pytest.mark.parametrize("steps", [0, 2])
def test_direction_of_sgd(steps: int) -> None:
    alpha, w = parameters()
    optimizer = optimizer_of(w)
    for _ in range(steps):  # momentum
        optimizer.zero_grad()
        loss(alpha, w, 1.0).backward()
        optimizer.step()
    gradients = torch.autograd.grad(loss(alpha, w, 2.0), w, allow_unused=True)
    before = [parameter.detach().clone() for parameter in w]
    direction = sgd_direction(optimizer, w, gradients)
    for parameter, gradient in zip(w, gradients, strict=True):
        parameter.grad = torch.zeros_like(parameter) if gradient is None else gradient
    optimizer.step()
    for start, parameter, rate, step in zip(before, w, (RATES[0], *RATES), direction, strict=True):
        torch.testing.assert_close(start - rate * step, parameter.detach())


def test_second_order_is_the_equation() -> None:
    alpha, w = parameters()
    optimizer = optimizer_of(w)
    start = copy.deepcopy(w)
    value, (gradient,) = second_order(
        lambda: loss(alpha, w, 1.0), lambda: loss(alpha, w, 2.0), [alpha], w, optimizer
    )  # fmt: skip
    assert all(torch.equal(now, before) for now, before in zip(w, start, strict=True))
    assert all(parameter.requires_grad for parameter in (alpha, *w))

    lr = (RATES[0], *RATES)
    decay = (0.05, 0.05, 0.2)
    on_w = torch.autograd.grad(loss(alpha, w, 1.0), w[:2])
    descent = [g + d * p for g, d, p in zip(on_w, decay, w, strict=False)] + [decay[2] * w[2]]
    moved = [(p - rate * step).detach().requires_grad_() for p, rate, step in zip(w, lr, descent, strict=True)]
    expected_value = loss(alpha, moved, 2.0)
    by_alpha, *by_w = torch.autograd.grad(expected_value, [alpha, *moved[:2]])
    d = [rate * g for rate, g in zip(lr, by_w, strict=False)] + [torch.zeros_like(w[2])]
    r = FINITE_DIFFERENCE / torch.sqrt(sum((part.square().sum() for part in d), torch.tensor(0.0)))
    plus, minus = (
        torch.autograd.grad(loss(alpha, [p + sign * r * part for p, part in zip(w, d, strict=True)], 1.0), alpha)[0]
        for sign in (1, -1)
    )
    torch.testing.assert_close(value, expected_value)
    torch.testing.assert_close(gradient, by_alpha - (plus - minus) / (2 * r), rtol=1e-9, atol=0)
