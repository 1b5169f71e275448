"""One figure over several seeds: mean, standard deviation, and an interval for the mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

CONFIDENCE = 0.95


class OverSeeds(NamedTuple):
    """A figure over seeds; the last three are None where there is one seed."""

    seeds: int
    mean: float
    deviation: float | None
    """Standard deviation of a single seed, with n - 1."""
    low: float | None
    high: float | None
    """Ends of the bootstrap interval of the mean at :data:`CONFIDENCE`."""

    def in_words(self, digits: int = 2) -> str:
        """Return the figure as people write it, such as ``97.21 ± 0.30 [96.95, 97.50]``."""
        if self.deviation is None:
            return f"{self.mean:.{digits}f}"
        return f"{self.mean:.{digits}f} ± {self.deviation:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def over_seeds(values: Sequence[float]) -> OverSeeds:
    """Return mean, standard deviation and bootstrap interval; the same values give the same interval.

    The interval is the percentile bootstrap of :func:`scipy.stats.bootstrap`; with the handful of seeds that people
    train it is rather too narrow, as all intervals from few values are.

    Raises
    ------
    ValueError
        If there is no value.
    """
    if not values:
        raise ValueError("A figure over seeds needs at least one value, got none.")
    mean = float(np.mean(values))
    if len(values) == 1:
        return OverSeeds(1, mean, None, None, None)
    from scipy.stats import bootstrap

    found = bootstrap((np.asarray(values),), np.mean, confidence_level=CONFIDENCE, method="percentile", rng=0)
    interval = found.confidence_interval
    return OverSeeds(len(values), mean, float(np.std(values, ddof=1)), float(interval.low), float(interval.high))


def by_run(finals: Iterable[Mapping[str, Any]]) -> dict[tuple[str, ...], list[float]]:
    """Return the test accuracies of trials that differ in their seed alone, by (strategy, space, data).

    Parameters
    ----------
    finals
        Final results of trials; those that tested nothing are left out.
    """
    found: dict[tuple[str, ...], list[float]] = {}
    for final in finals:
        if "test_accuracy" in final:
            key = tuple(str(final.get(name, "")) for name in ("strategy", "space", "data"))
            found.setdefault(key, []).append(float(final["test_accuracy"]))
    return found
