"""Signs that a differentiable search collapses: its cells fill up with operations that need no training.

For a cell kind with operation weights p (edges, operations)

    parameter-free picks = number of derived connections among skip, pooling, none and noise
    entropy              = mean over edges of  - sum_k p[e, k] ln p[e, k]
    gap                  = mean over edges of  best p[e, .] - second best p[e, .]

DARTS+ (arXiv 1909.06035) stops at two or more skip connections in the normal cell, whose connections are eight; here
that is a warning, and where a cell keeps another number of connections it comes at the same share, a quarter
(:func:`skips_to_warn_at`). RobustDARTS (arXiv 1909.09656) stops when the largest Hessian eigenvalue of the validation
loss grows (:func:`stop_epoch`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch

from search_spaces.genotype import Genotype, is_own_space
from search_spaces.operation_names import PARAMETER_FREE
from search_spaces.registry import space_spec

SKIP = "skip_connect"


class Signs(NamedTuple):
    """Signs of collapse of one kind of cell."""

    parameter_free: int
    """Derived connections without convolutions."""
    skips: int
    """Derived skip connections."""
    connections: int
    """Derived connections."""
    entropy: float
    """Mean entropy of an edge's operation weights, in nats."""
    gap: float
    """Mean difference between the weights of an edge's best and second best operation."""


def picked_operations(genotype: Genotype) -> dict[str, list[str]]:
    """Return the operations of the derived connections, by kind of cell."""
    return {kind: [operation for node in nodes for operation, _ in node] for kind, nodes in genotype.cells.items()}


def signs(genotype: Genotype, probabilities: Mapping[str, torch.Tensor]) -> dict[str, Signs]:
    """Return the signs of collapse by kind of cell.

    Parameters
    ----------
    genotype
        The derived architecture.
    probabilities
        Operation weights by kind of cell, (edges, operations); every row sums to 1.
    """
    return {
        kind: Signs(
            parameter_free=sum(operation in PARAMETER_FREE for operation in picks),
            skips=picks.count(SKIP),
            connections=len(picks),
            entropy=mean_entropy(probabilities[kind]),
            gap=mean_gap(probabilities[kind]),
        )
        for kind, picks in picked_operations(genotype).items()
    }


def to_metrics(found: Mapping[str, Signs]) -> dict[str, float]:
    """Return the signs as flat numbers for a metrics dict: ``normal_skips``, ``reduce_entropy`` and so on."""
    return {
        f"{kind}_{name}": value
        for kind, values in found.items()
        for name, value in values._asdict().items()
        if name != "connections"
    }


def mean_entropy(probabilities: torch.Tensor) -> float:
    """Return the mean over the rows of ``- sum_k p_k ln p_k``."""
    return float(torch.special.entr(probabilities).sum(-1).mean())


def mean_gap(probabilities: torch.Tensor) -> float:
    """Return the mean over the rows of the best minus the second best; 0 with one candidate."""
    if probabilities.shape[-1] < 2:
        return 0.0
    best, second = probabilities.topk(2, dim=-1).values.unbind(-1)
    return float((best - second).mean())


def skips_to_warn_at(connections: int) -> int:
    """Return how many skip connections are a sign of collapse among so many connections of a normal cell.

    Two in DARTS's cell of eight [DARTS+]. Not stated for cells of any number of connections; we take the same share, a
    quarter, and at least two.
    """
    return max(2, math.ceil(connections / 4))


def skip_warning(genotype: Genotype) -> str | None:
    """Return one sentence if the normal cell has as many skips as :func:`skips_to_warn_at` says, else None.

    The normal cell is the space's first kind: ``normal``, BCNN's ``convolution``, NAS-Bench-201's ``cell``.
    """
    kinds = genotype.cells if is_own_space(genotype.space) else space_spec(genotype.space).layout
    kind = next(iter(kinds), None)
    if kind is None:
        return None
    picks = picked_operations(genotype)[kind]
    if picks.count(SKIP) < skips_to_warn_at(len(picks)):
        return None
    cell = kind if kind.endswith("cell") else f"{kind} cell"
    return (
        f"{picks.count(SKIP)} of {len(picks)} connections of the {cell} are skip connections, a sign of collapse; "
        "consider the cell of an earlier epoch, or trains=BatchNormOnly() as in RF-DARTS."
    )


def stop_epoch(
    eigenvalues: Mapping[int, float], *, window: int = 5, lag: int = 4, growth: float = 1.3, first_epoch: int = 10
) -> int | None:
    """Return the epoch whose cell to take if the search should stop now, else None [RobustDARTS, section 4.3].

    With m the moving average of the eigenvalues over ``window`` evaluations, a search stops at evaluation t when
    ``m[t] > growth * m[t - lag]``, and returns to evaluation ``t - lag``.

    Parameters
    ----------
    eigenvalues
        Dominant Hessian eigenvalue by epoch, in the order of the evaluations.
    window, lag
        Numbers of evaluations.
    growth
        Factor that is too much.
    first_epoch
        No stop before this epoch.
    """
    epochs, values = list(eigenvalues), list(eigenvalues.values())
    if len(values) < window + lag or epochs[-1] < first_epoch:
        return None
    now = sum(values[-window:]) / window
    before = sum(values[-window - lag : -lag]) / window
    return epochs[-1 - lag] if now > growth * before else None
