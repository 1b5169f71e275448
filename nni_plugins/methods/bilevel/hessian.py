"""The dominant eigenvalue of the validation loss's Hessian with respect to alpha [RobustDARTS, arXiv 1909.09656].

The Hessian H is never formed. A product with it is one more derivative,

    H v = grad_alpha ( grad_alpha L . v )

and after m of them Lanczos's method has an m x m tridiagonal matrix whose outermost eigenvalues are those of H (all of
them, once m is the number of architecture parameters).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from nni_plugins.methods.bilevel.gradients import without_gradients
from nni_plugins.methods.bilevel.step import BilevelModule
from nni_plugins.tools.ranks import average_


def dominant_eigenvalue(
    loss: torch.Tensor, parameters: Sequence[torch.Tensor], *, steps: int = 20, seed: int = 0
) -> float:
    """Return the eigenvalue of largest absolute value of the Hessian of ``loss`` with respect to ``parameters``.

    Parameters
    ----------
    loss
        Scalar, a twice differentiable function of ``parameters``; where several processes share a batch, the Hessian is
        that of the mean of their losses.
    parameters
        What to differentiate by.
    steps
        Hessian-vector products at most.
    seed
        Of the starting vector.
    """
    size = sum(parameter.numel() for parameter in parameters)
    gradient = _flat(torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True), parameters)
    start = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def product(vector: torch.Tensor) -> torch.Tensor:
        along = gradient @ vector.to(gradient)
        rows = torch.autograd.grad(along, parameters, retain_graph=True, allow_unused=True)
        image = _flat(rows, parameters).detach()
        average_([image])
        return image.double().cpu()

    eigenvalues = torch.linalg.eigvalsh(_lanczos(product, start, min(steps, size)))
    return float(eigenvalues[eigenvalues.abs().argmax()])


def _lanczos(product: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor, steps: int) -> torch.Tensor:
    """Return the tridiagonal matrix of a symmetric operator; its basis is kept orthogonal explicitly."""
    basis = [start / start.norm()]
    diagonal: list[torch.Tensor] = []
    beside: list[torch.Tensor] = []
    for _ in range(steps):
        image = product(basis[-1])
        diagonal.append(image @ basis[-1])
        for _ in range(2):
            for vector in basis:
                image = image - (image @ vector) * vector
        if len(diagonal) == steps or image.norm() <= 1e-9 * torch.stack(diagonal).abs().max():
            break
        beside.append(image.norm())
        basis.append(image / image.norm())
    matrix = torch.diag(torch.stack(diagonal))
    for k, value in enumerate(beside):
        matrix[k, k + 1] = matrix[k + 1, k] = value
    return matrix


def _flat(gradients: Sequence[torch.Tensor | None], like: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat(
        [torch.zeros_like(p).flatten() if g is None else g.flatten() for g, p in zip(gradients, like, strict=True)]
    )


def architecture_eigenvalue(
    module: BilevelModule, images: torch.Tensor, labels: torch.Tensor, *, steps: int = 20
) -> float:
    """Return the dominant eigenvalue of the cross-entropy's Hessian with respect to a search's architecture parameters.

    The search continues as if this had not happened: running statistics and the random state are put back, gradients
    are not touched. The second derivative takes several times the memory of an architecture step; a smaller batch
    helps.

    Parameters
    ----------
    module
        The search.
    images, labels
        A batch of the architecture half.
    steps
        Hessian-vector products.
    """
    with _untouched(module), without_gradients(module.weight_parameters()):
        loss = F.cross_entropy(module.training_module.model(images), labels)
        return dominant_eigenvalue(loss, module.arch_parameters(), steps=steps)


@contextmanager
def _untouched(module: nn.Module) -> Iterator[None]:
    """Put buffers and the random state back afterwards."""
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    devices = sorted({p.device.index for p in module.parameters() if p.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
