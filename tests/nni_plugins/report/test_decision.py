"""Decided or not: hand-computed shares, leads, rates and signals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nni_plugins.methods.relative_nas import slow_fast
from nni_plugins.report.decision import (
    DECIDED_GAP,
    SETTLED,
    decidedness,
    epochs_unchanged,
    generations_to_settle,
    lead,
    loss_signal,
    rate_to_decide,
    rounded_up,
    share_changed,
    togetherness,
)
from search_spaces import Genotype, from_architecture_string, published

CELL = "|nor_conv_3x3~0|+|nor_conv_1x1~0|none~1|+|skip_connect~0|avg_pool_3x3~1|nor_conv_1x1~2|"
OTHER = CELL.replace("none", "skip_connect")


def test_decidedness_from_nothing_to_one() -> None:
    assert decidedness(torch.full((3, 8), 1 / 8)) == pytest.approx(0, abs=1e-6)
    assert decidedness(torch.eye(4)) == 1
    # two of four candidates share an edge: ln 2 / ln 4 is left undecided
    assert decidedness(torch.tensor([[0.5, 0.5, 0, 0], [1, 0, 0, 0]])) == pytest.approx((0.5 + 1) / 2)
    assert decidedness(torch.ones(2, 1)) == 1


@pytest.mark.parametrize(("candidates", "ahead"), [(2, 0.3), (5, 0.44), (8, 2.0)])
def test_a_lead_in_alpha_is_found_again_from_its_gap(candidates: int, ahead: float) -> None:
    alpha = torch.zeros(candidates, dtype=torch.float64)
    alpha[1] = ahead
    best, second, *_ = alpha.softmax(0).sort(descending=True).values.tolist()
    assert lead(best - second, candidates) == pytest.approx(ahead)


def test_the_rate_grows_as_the_lead_that_is_missing() -> None:
    reached = lead(DECIDED_GAP, 8) / 20  # a twentieth of the lead of a decision, in alpha
    gap = math.expm1(reached) / (math.exp(reached) + 7)
    assert rate_to_decide(3e-4, gap, 8) == pytest.approx(0.006)


def test_two_digits_rounded_up() -> None:
    assert [rounded_up(value) for value in (0.0601, 0.06, 1234.0, 3.14)] == [0.061, 0.06, 1300.0, 3.2]


def test_generations_until_a_population_has_halved_its_distances() -> None:
    # 0.75 of the distance is left after 5 generations: half of it after 5 (ln 0.5 / ln 0.75)^2 = 29.03
    assert generations_to_settle(5, 0.25) == 30
    assert generations_to_settle(5, 0.0) == 10


def test_slow_fast_learning_settles_about_when_its_beginning_foretells() -> None:
    upper = [8.0, 2.0] * 16

    def decided(generations: int, seed: int) -> float:
        state, random = (
            slow_fast.start(upper, population_size=10, seed=seed, reevaluate=True),
            np.random.default_rng(seed),
        )
        for _ in range(generations):
            state, _ = slow_fast.ask(state, decode=lambda genes: [tuple(row) for row in np.ceil(genes).tolist()])
            state = slow_fast.tell(state, random.random(10).tolist())
        return togetherness(state.population, state.upper)

    foretold = np.mean([generations_to_settle(6, decided(6, seed)) for seed in range(10)])
    assert np.mean([decided(round(foretold), seed) for seed in range(10)]) == pytest.approx(SETTLED, abs=0.08)


def test_togetherness_of_a_point_and_of_random_learners() -> None:
    assert togetherness(np.ones((6, 3)), [4, 4, 4]) == 1
    # two learners at 0 and 2 in a box of side 4: distance 1 to the mean, at random sqrt(1/2 * 16 / 12) = 0.8165
    assert togetherness([[0.0], [2.0]], [4]) == 0
    assert togetherness([[0.0], [1.0]], [4]) == pytest.approx(1 - 0.5 / math.sqrt(2 / 3))
    upper = np.array([8.0, 2.0] * 16)
    points = np.random.default_rng(0).random((200, 32)) * upper
    assert togetherness(points, upper) < 0.03


def test_the_signal_is_the_root_of_the_f_ratio() -> None:
    # means 2 and 4, residuals all +-0.5: spread sqrt(2), error sqrt(1 / 1 / 2) = sqrt(0.5)
    assert loss_signal([[1.5, 2.5], [4.5, 3.5]]) == pytest.approx(2.0)
    noise = np.random.default_rng(1).normal(size=(200, 30)) + np.arange(30)  # hard batches are hard for all
    assert loss_signal(noise) == pytest.approx(1, abs=0.15)
    assert (loss_signal(noise + 3 * np.arange(200)[:, None]) or 0) > 100


def test_losses_that_tell_nothing_have_no_signal() -> None:
    assert loss_signal([]) is None
    assert loss_signal([[1.0], [2.0]]) is None, "one batch"
    assert loss_signal([[1.0, 2.0], [math.inf, 3.0]]) is None, "one finite candidate"
    assert loss_signal([[1.0, 2.0], [2.0, 3.0]]) is None, "no noise"


def test_share_of_connections_that_another_cell_has_not() -> None:
    cell, other = from_architecture_string(CELL), from_architecture_string(OTHER)
    assert share_changed(cell, cell) == 0
    assert share_changed(other, cell) == pytest.approx(1 / 6)
    one, two = published("darts_v2"), published("pc_darts_cifar")
    assert 0 < share_changed(one, two) == share_changed(two, one) < 1
    own = Genotype("mine:space", {}, {"width": 8, "depth": 2})
    assert share_changed(own, Genotype("mine:space", {}, {"width": 8, "depth": 3})) == 0.5


def test_epochs_since_the_cell_changed() -> None:
    cell, other = from_architecture_string(CELL), from_architecture_string(OTHER)
    assert epochs_unchanged([cell]) == 0
    assert epochs_unchanged([cell, other]) == 0
    assert epochs_unchanged([cell, other, cell, cell, cell]) == 2
