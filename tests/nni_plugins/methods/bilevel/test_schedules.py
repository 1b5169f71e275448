"""Architecture learning rates by epoch, against the values that the paper's formula gives by hand."""

from __future__ import annotations

import pytest

from nni_plugins import Confident, Constant


@pytest.mark.parametrize(
    ("epoch", "rate"),  # epochs as people count them, from 1: 3e-4 * (epoch / 50) ** 2
    [(1, 1.2e-7), (10, 1.2e-5), (25, 7.5e-5), (40, 1.92e-4), (50, 3e-4)],
)
def test_confident_learning_rate(epoch: int, rate: float) -> None:
    assert 3e-4 * Confident(power=2).factor(epoch - 1, 50) == pytest.approx(rate, rel=1e-12)


def test_the_papers_power_is_the_default() -> None:
    assert Confident() == Confident(power=2)


def test_other_powers() -> None:
    assert Confident(power=1).factor(0, 4) == 0.25
    assert Confident(power=0.5).factor(0, 4) == 0.5
    assert Confident(power=3).factor(1, 4) == 0.125


def test_constant() -> None:
    assert [Constant().factor(epoch, 3) for epoch in range(3)] == [1, 1, 1]


@pytest.mark.parametrize("power", [0, -2, float("nan")])
def test_a_power_that_is_not_positive_is_refused(power: float) -> None:
    with pytest.raises(ValueError, match=r"power must be positive, got"):
        Confident(power=power)
