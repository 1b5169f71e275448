"""How far a search has moved from undecided, and what would have let it decide.

For one edge with K candidates of weights p, best first,

    decided = 1 - H(p) / ln K               0 where all weigh the same, 1 where one weighs all; a mean over the edges
    gap     = p[1] - p[2]                   as in :mod:`nni_plugins.report.collapse`
    lead    = ln((1 + gap (K - 1)) / (1 - gap))

``lead`` is how far the best candidate's alpha is above the others where these are equal. Adam moves alpha by its
learning rate in a step, whatever the gradient's size, so that the lead which a search reaches is proportional to its
rate; a longer search at the same rate gains less, since its gradients mostly contradict each other. A population has
decided as far as its learners have come together. None of this is stated in the papers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from nni_plugins.report.collapse import mean_entropy
from search_spaces.genotype import Genotype

DECIDED_GAP = 0.1
"""Gap from which a search counts as decided: the best of eight candidates then weighs about 0.21, the others 0.11."""

SETTLED = 0.5
"""Decidedness from which a population counts as settled: its learners are half as far apart as at random."""


def decidedness(probabilities: torch.Tensor) -> float:
    """Return the mean over the rows of ``1 - H / ln K``; 1 with one candidate, where there is nothing to decide.

    Parameters
    ----------
    probabilities
        Weights of the candidates, (edges, candidates); every row sums to 1.
    """
    candidates = probabilities.shape[-1]
    return 1.0 if candidates < 2 else max(0.0, 1.0 - mean_entropy(probabilities) / math.log(candidates))


def lead(gap: float, candidates: float) -> float:
    """Return how far alpha's best is above the others, all alike, where its weight leads by ``gap``."""
    return math.log((1 + gap * (candidates - 1)) / (1 - gap))


def rate_to_decide(rate: float, gap: float, candidates: float) -> float:
    """Return the architecture learning rate at which a search of the same length would have reached the gap.

    Parameters
    ----------
    rate
        The one that it had.
    gap
        The mean gap that it reached, above 0 and below :data:`DECIDED_GAP`.
    candidates
        Mean number of candidates of an edge, above 1.

    Returns
    -------
    float
        Rounded up to two digits.
    """
    return rounded_up(rate * lead(DECIDED_GAP, candidates) / lead(gap, candidates))


def generations_to_settle(generations: int, decided: float) -> int:
    """Return after how many generations a population settles that has come to ``decided`` in ``generations``.

    The logarithm of its learners' distances falls with the root of the generations: measured on slow-fast learning with
    4 to 20 learners of 32 genes and losses drawn at random. A population that has not come closer at all tells nothing;
    the answer is then twice as many.
    """
    if decided <= 0:
        return 2 * generations
    return math.ceil(generations * (math.log(1 - SETTLED) / math.log(1 - decided)) ** 2)


def togetherness(population: ArrayLike, upper: ArrayLike) -> float:
    """Return how far a population has come together: 0 for learners as far apart as at random, 1 for one point.

    ``1 - diversity / sqrt((1 - 1/N) sum_d upper_d^2 / 12)``: the mean distance of the N learners to their mean, over
    the root mean square of that distance for learners drawn uniformly from the box; never below 0.

    Parameters
    ----------
    population, upper
        Positions, (N, D), and the upper bounds of the D genes.
    """
    points = np.asarray(population, dtype=float)
    at_random = math.sqrt((1 - 1 / len(points)) * float((np.asarray(upper, dtype=float) ** 2).sum()) / 12)
    return max(0.0, 1.0 - float(np.linalg.norm(points - points.mean(axis=0), axis=1).mean()) / at_random)


def loss_signal(losses: ArrayLike) -> float | None:
    """Return the spread of the candidates' losses over what chance alone gives it; 1 is chance.

    The root of the F ratio of a two-way analysis of variance: with the batches' losses ``L[c, b]``, the standard
    deviation of the candidates' means over the standard error of such a mean, from the residuals
    ``L[c, b] - mean_b - mean_c + mean``. It knows the noise of the images, not that of the training, and is thus an
    upper bound.

    Parameters
    ----------
    losses
        Loss of every candidate on every validation batch, (candidates, batches).

    Returns
    -------
    float or None
        None with fewer than two finite candidates or two batches, or where all residuals are 0.
    """
    table: NDArray[np.float64] = np.asarray(losses, dtype=float)
    table = table[np.isfinite(table).all(axis=-1)]
    if table.ndim != 2 or min(table.shape) < 2:
        return None
    candidates, batches = table.shape
    means = table.mean(axis=1, keepdims=True)
    residuals = table - means - table.mean(axis=0) + table.mean()
    error = math.sqrt(float((residuals**2).sum()) / ((candidates - 1) * (batches - 1)) / batches)
    return float(means.std(ddof=1)) / error if error > 0 else None


def share_changed(genotype: Genotype, before: Genotype) -> float:
    """Return the share of the connections (and own choices) of a cell that another one has not, from 0 to 1.

    Of two cells with unlike numbers of connections the larger one counts.
    """
    here, there = Counter(_parts(genotype)), Counter(_parts(before))
    largest = max(here.total(), there.total())
    return 1 - (here & there).total() / largest if largest else 0.0


def epochs_unchanged(genotypes: Sequence[Genotype]) -> int:
    """Return for how many epochs before the last one its cell has been the same; 0 where it is new."""
    last = genotypes[-1]
    same = 0
    for genotype in reversed(genotypes[:-1]):
        if share_changed(last, genotype):
            break
        same += 1
    return same


def rounded_up(value: float) -> float:
    """Return ``value`` rounded up to two significant digits."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit - 1e-9) * unit:.2g}")


def _parts(genotype: Genotype) -> Iterator[Hashable]:
    for kind, nodes in genotype.cells.items():
        for number, node in enumerate(nodes):
            yield from ((kind, number, operation, source) for operation, source in node)
    yield from ((label, repr(value)) for label, value in genotype.choices.items())
