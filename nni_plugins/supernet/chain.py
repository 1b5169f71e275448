"""A candidate operation as a chain of stages, of which only what BatchNorm needs is kept for the backward pass.

    z_s = convolutions_s(x_{s-1})      y_s = BN_s(z_s)      x_s = relu(y_s)      result = y_S

A separable convolution has two stages of two convolutions each, a dilated one a single stage. Autograd keeps the input
of every convolution, BatchNorm and ReLU. Here it is ``x_0``, which all operations on one source share, and the z_s; the
backward pass makes x_s again from z_s and, for the gradients of weights alone, what lies between two convolutions again
from x_s. That is little work, and less memory to write saves more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from nni_plugins.supernet.autocast import autocast
from nni_plugins.supernet.batch_norm import (
    Running,
    Statistics,
    gradients,
    normalise,
    normalise_again,
    running,
    scale_and_shift,
)
from nni_plugins.supernet.convolution import Convolution, FastConv2d, convolve, grad_input, grad_weight, with_gradients


class Stage(NamedTuple):
    """Convolutions and the BatchNorm behind them."""

    convolutions: list[FastConv2d]
    norm: nn.BatchNorm2d


class Step(NamedTuple):
    """A stage at work: its weights, how each goes over its input, and what its BatchNorm does."""

    weights: list[torch.Tensor]
    convolutions: list[Convolution]
    scale: torch.Tensor | None
    shift: torch.Tensor | None
    running: Running


class _Plan(NamedTuple):
    """What a stage does with its tensors: the weights of its convolutions, then scale and shift of its BatchNorm."""

    convolutions: list[Convolution]
    running: Running


def runs_as_chain(stages: Sequence[Stage], x: torch.Tensor) -> bool:
    """Return whether :func:`run_chain` stands for the layers here: in training, on a CPU."""
    norms = all(stage.norm.training or stage.norm.running_mean is None for stage in stages)
    return norms and x.device.type == "cpu" and with_gradients()


def run_chain(stages: Sequence[Stage], x: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Return ``weight`` times what ``stages`` make of ``x``.

    Parameters
    ----------
    stages
        At least one.
    x
        (batch, channels, height, width).
    weight
        Of the mixture, (channels,); it goes into the last BatchNorm. None for 1.
    """
    return run_steps([_step(stage, weight if stage is stages[-1] else None) for stage in stages], x)


def _step(stage: Stage, weight: torch.Tensor | None) -> Step:
    weights = [conv.cast_weight(conv.weight) for conv in stage.convolutions]
    hows = [conv.how for conv in stage.convolutions]
    return Step(weights, hows, *scale_and_shift(stage.norm, weight), running(stage.norm))


def run_steps(steps: Sequence[Step], x: torch.Tensor) -> torch.Tensor:
    """Return what ``steps`` make of ``x``, (batch, channels, height, width)."""
    (x,) = autocast(x)
    plans = [_Plan(step.convolutions, step.running) for step in steps]
    tensors = [tensor for step in steps for tensor in (*step.weights, step.scale, step.shift)]
    return _ChainFunction.apply(x, plans, *tensors)


def _by_stage(plans: Sequence[_Plan], tensors: Sequence[Any]) -> list[tuple[_Plan, Sequence[Any], Any, Any]]:
    """Return every stage with its part of ``tensors``: the weights, scale, shift."""
    parts, start = [], 0
    for plan in plans:
        end = start + len(plan.convolutions)
        parts.append((plan, tensors[start:end], tensors[end], tensors[end + 1]))
        start = end + 2
    return parts


class _ChainFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, plans: list[_Plan], *tensors: torch.Tensor | None) -> torch.Tensor:
        ctx.plans = plans
        kept: list[torch.Tensor] = []
        ctx.shapes = []
        first = x
        for number, (plan, weights, scale, shift) in enumerate(_by_stage(plans, tensors)):
            shapes = []
            x = x if number == 0 else x.relu_()
            for how, weight in zip(plan.convolutions, weights, strict=True):
                shapes.append(x.shape)
                x = convolve(x, weight, how)
            z = x
            x, statistics = normalise(z, scale, shift, plan.running)
            kept += [z, *statistics]
            ctx.shapes.append(shapes)
        ctx.save_for_backward(first, *tensors, *kept)
        return x

    @staticmethod
    def backward(ctx: Any, *output_gradients: Any) -> Any:
        (gradient,) = output_gradients
        first, *saved = ctx.saved_tensors
        stages = len(ctx.plans)
        tensors, kept = saved[: -3 * stages], saved[-3 * stages :]
        if torch.is_grad_enabled():  # a second derivative: what is kept is no part of autograd's graph
            return _differentiable_gradients(ctx, gradient, first, tensors)
        parts = _by_stage(ctx.plans, tensors)
        needed = _by_stage(ctx.plans, ctx.needs_input_grad[2:])
        results: list[Any] = []
        for number in reversed(range(stages)):
            plan, weights, scale, _ = parts[number]
            _, of_weights, of_scale, of_shift = needed[number]
            z, statistics = kept[3 * number], Statistics(*kept[3 * number + 1 : 3 * number + 3])
            gradient, by_scale, by_shift = gradients(
                gradient, z, scale, statistics, plan.running.eps, (True, of_scale, of_shift)
            )
            assert gradient is not None, "it was wanted"
            x = first
            if number:
                _, _, scale_before, shift_before = parts[number - 1]
                before = Statistics(*kept[3 * number - 2 : 3 * number])
                x = normalise_again(kept[3 * number - 3], scale_before, shift_before, before).relu_()
            inputs = _inputs(x, plan, weights) if any(of_weights) else []
            by_weights: list[Any] = []
            for k in reversed(range(len(weights))):
                by_weights.insert(
                    0, grad_weight(inputs[k], gradient, weights[k], plan.convolutions[k]) if of_weights[k] else None
                )
                if k or number or ctx.needs_input_grad[0]:
                    gradient = grad_input(gradient, ctx.shapes[number][k], weights[k], plan.convolutions[k])
            if number:
                gradient = torch.ops.aten.threshold_backward(gradient, x, 0)
            results = [*by_weights, by_scale, by_shift, *results]
        return gradient if ctx.needs_input_grad[0] else None, None, *results


def _inputs(x: torch.Tensor, plan: _Plan, weights: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the input of every convolution of a stage."""
    inputs = [x]
    for how, weight in zip(plan.convolutions[:-1], weights[:-1], strict=True):
        inputs.append(convolve(inputs[-1], weight, how))
    return inputs


def _differentiable_gradients(
    ctx: Any, gradient: torch.Tensor, first: torch.Tensor, tensors: Sequence[torch.Tensor | None]
) -> tuple[Any, ...]:
    """Return the gradients as functions of the inputs, from a chain that autograd sees."""
    x = first
    for number, (plan, weights, scale, shift) in enumerate(_by_stage(ctx.plans, tensors)):
        x = x if number == 0 else x.relu()
        for how, weight in zip(plan.convolutions, weights, strict=True):
            x = F.conv2d(x, weight, None, *how)
        x = F.batch_norm(x, None, None, scale, shift, True, 0.0, plan.running.eps)
    wanted = [ctx.needs_input_grad[0], *ctx.needs_input_grad[2:]]
    inputs = [tensor for tensor, needs in zip([first, *tensors], wanted, strict=True) if needs and tensor is not None]
    found = iter(torch.autograd.grad(x, inputs, gradient, create_graph=True, allow_unused=True))
    by_first, *by_tensors = [next(found) if needs else None for needs in wanted]
    return by_first, None, *by_tensors
