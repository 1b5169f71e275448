"""Gradients of the architecture parameters alpha: first order, and second order by finite differences [DARTS].

    first order    grad_alpha L_val(w, alpha)
    second order   grad_alpha L_val(w', alpha)  -  (grad_alpha L_train(w+, alpha) - grad_alpha L_train(w-, alpha)) / 2r

with ``w' = w - lr * descent(grad_w L_train(w, alpha))``, the step that the weights' optimiser would take, and

    d = lr * grad_w' L_val(w', alpha),    w+- = w +- r * d,    r = 0.01 / ||d||                          [eq. 7-8]

Every weight has the learning rate of its parameter group. Where several processes share each batch, every gradient
``grad`` above is its mean over them, so that all of them compute the same step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from nni_plugins.tools.ranks import average_

FINITE_DIFFERENCE = 0.01

Loss = Callable[[], torch.Tensor]
Parameters = Sequence[nn.Parameter]
Gradients = Sequence[torch.Tensor | None]


def first_order(validation: Loss, alpha: Parameters, w: Parameters) -> tuple[torch.Tensor, Gradients]:
    """Return the validation loss and its gradient by alpha.

    Parameters
    ----------
    validation
        The loss on a batch of the architecture half, as a function of the parameters as they are.
    alpha, w
        Architecture parameters and weights.

    Raises
    ------
    ValueError
        If the loss does not depend on alpha.
    """
    with without_gradients(w):
        loss = validation()
        if not loss.requires_grad:
            raise ValueError(
                "The validation loss does not depend on the architecture parameters, so that there is nothing to "
                "search by; check that the evaluator's training_step runs the model with gradients and that every "
                "choice of the space is used."
            )
        return loss, _gradients(loss, alpha)


def second_order(
    training: Loss,
    validation: Loss,
    alpha: Parameters,
    w: Parameters,
    optimizer: torch.optim.Optimizer,
) -> tuple[torch.Tensor, Gradients]:
    """Return the validation loss at ``w'`` and the second-order gradient by alpha; ``w`` is as before afterwards.

    Parameters
    ----------
    training, validation
        Losses on a batch of either half, as functions of the parameters as they are.
    alpha, w
        Architecture parameters and weights.
    optimizer
        SGD on the weights: learning rates, weight decay and momentum of the step to ``w'``.
    """
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    lr = [rates[id(p)] for p in w]
    start = [p.detach().clone() for p in w]

    with without_gradients(alpha):
        by_w = _gradients(training(), w)
    descent = torch._foreach_mul(sgd_direction(optimizer, w, by_w), lr)
    _assign(w, torch._foreach_sub(start, descent))  # w'
    loss = validation()
    gradients = _gradients(loss, [*alpha, *w])
    by_alpha, by_w = _zeros_for_none(gradients[: len(alpha)], alpha), gradients[len(alpha) :]

    d = torch._foreach_mul(_zeros_for_none(by_w, w), lr)
    r = FINITE_DIFFERENCE / torch.stack(torch._foreach_norm(d)).norm().clamp_min(1e-12)
    offset = torch._foreach_mul(d, r)
    sides = []
    for shifted in (torch._foreach_add, torch._foreach_sub):  # w+, w-
        _assign(w, shifted(start, offset))
        with without_gradients(w):
            sides.append(_zeros_for_none(_gradients(training(), alpha), alpha))
    _assign(w, start)
    plus, minus = sides
    implicit = torch._foreach_div(torch._foreach_sub(plus, minus), 2 * r)
    return loss, torch._foreach_sub(by_alpha, implicit)


def sgd_direction(
    optimizer: torch.optim.Optimizer, parameters: Parameters, gradients: Gradients
) -> tuple[torch.Tensor, ...]:
    """Return SGD's next direction, ``momentum * buffer + gradient + weight_decay * w`` [DARTS, released code]."""
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    groups = [group_of[id(parameter)] for parameter in parameters]
    weights = [parameter.detach() for parameter in parameters]
    decay = torch._foreach_mul(weights, [group.get("weight_decay", 0.0) for group in groups])
    directions = torch._foreach_add(decay, _zeros_for_none(gradients, parameters))
    moving = [
        (direction, buffer, group.get("momentum", 0.0))
        for direction, parameter, group in zip(directions, parameters, groups, strict=True)
        if (buffer := optimizer.state.get(parameter, {}).get("momentum_buffer")) is not None
    ]
    if moving:
        moved, buffers, momenta = (list(column) for column in zip(*moving, strict=True))
        torch._foreach_add_(moved, torch._foreach_mul(buffers, momenta))
    return directions


@contextmanager
def without_gradients(parameters: Parameters) -> Iterator[None]:
    """Compute no gradient for ``parameters`` inside the block: what is not needed is neither stored nor computed."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _gradients(loss: torch.Tensor, parameters: Parameters) -> Gradients:
    """Return the gradient of the mean of all ranks' losses; None for a parameter that the loss does not depend on."""
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    average_(gradient for gradient in gradients if gradient is not None)
    return gradients


@torch.no_grad()
def _assign(parameters: Parameters, values: Sequence[torch.Tensor]) -> None:
    torch._foreach_copy_(list(parameters), list(values))


def _zeros_for_none(gradients: Gradients, like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, like, strict=True)]
