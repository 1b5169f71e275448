"""A figure over seeds."""

from __future__ import annotations

import numpy as np
import pytest

from nni_plugins.report.seeds import by_run, over_seeds


def test_mean_and_deviation_by_hand() -> None:
    found = over_seeds([96.0, 97.0, 98.0])
    assert (found.seeds, found.mean, found.deviation) == (3, 97.0, 1.0)
    assert found.low is not None and found.high is not None
    assert 96.0 <= found.low < 97.0 < found.high <= 98.0
    assert found.in_words() == f"97.00 ± 1.00 [{found.low:.2f}, {found.high:.2f}]"


def test_the_interval_is_that_of_means_of_samples_with_replacement() -> None:
    values = list(np.random.default_rng(1).normal(90, 2, 30))
    means = np.random.default_rng(2).choice(values, (20_000, 30)).mean(1)
    found = over_seeds(values)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.05)
    assert found == over_seeds(values)


def test_one_seed_has_no_spread() -> None:
    found = over_seeds([97.5])
    assert found.in_words() == "97.50" and found == (1, 97.5, None, None, None)
    with pytest.raises(ValueError, match="at least one value, got none"):
        over_seeds([])


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert over_seeds([98.0, 98.0]) == (2, 98.0, 0.0, 98.0, 98.0)


def test_trials_are_grouped_by_all_but_the_seed() -> None:
    run = {"strategy": "bnas_d", "space": "bcnn", "data": "digits"}
    finals = [
        {**run, "seed": 1, "test_accuracy": 97.0},
        {**run, "seed": 2, "test_accuracy": 99.0},
        {**run, "strategy": "darts", "seed": 1, "test_accuracy": 95.0},
        {"default": 50.0, "genotype": "a cell that was only evaluated"},
    ]
    assert by_run(finals) == {("bnas_d", "bcnn", "digits"): [97.0, 99.0], ("darts", "bcnn", "digits"): [95.0]}
