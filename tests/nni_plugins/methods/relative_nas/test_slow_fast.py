from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from nni_plugins.methods.relative_nas import slow_fast
from nni_plugins.methods.relative_nas.encoding import decode_choice

UPPER = [5.0] * 6


def decode(population: np.ndarray) -> list[tuple[int, ...]]:
    return list(map(tuple, decode_choice(population).tolist()))


def loss(architecture: Any) -> float:
    return float(sum((value - 2) ** 2 for value in architecture)) + architecture[0] / 10


def first_gene(architecture: Any) -> float:
    return float(architecture[0])


def step(state: slow_fast.SlowFastState, losses: list[float] | None = None) -> slow_fast.SlowFastState:
    state, asked = slow_fast.ask(state, decode=decode)
    return slow_fast.tell(state, [loss(a) for a in asked] if losses is None else losses)


def test_with_whole_steps_from_rest_the_slow_learner_lands_on_the_fast_one() -> None:
    slow, fast = np.array([[1.0, 4.0]]), np.array([[3.0, 0.5]])
    x, v = slow_fast.learn(slow, fast, np.zeros((1, 2)), np.ones((1, 2)), np.ones((1, 2)), np.array([5.0, 5.0]))
    np.testing.assert_array_equal(x, fast)
    np.testing.assert_array_equal(v, [[2.0, -3.5]])


def test_the_update_by_hand_clips_the_position_but_not_the_velocity() -> None:
    x, v = slow_fast.learn(
        x_slow=np.array([[4.0, 1.0, 2.0]]),
        x_fast=np.array([[5.0, 0.0, 3.0]]),
        v_slow=np.array([[2.0, -4.0, 1.0]]),
        u1=np.array([[0.5, 0.5, 0.2]]),
        u2=np.array([[0.5, 0.25, 0.5]]),
        upper=np.array([5.0, 5.0, 5.0]),
        pull=np.array([[0.0, 0.0, 0.3]]),
    )
    np.testing.assert_allclose(v, [[1.5, -2.25, 1.0]])
    np.testing.assert_allclose(x, [[5.0, 0.0, 3.0]])


@pytest.mark.parametrize("phi", [0.0, 0.3])
def test_a_generation_matches_a_plain_loop_over_the_pairs(phi: float) -> None:
    state = slow_fast.start(UPPER, population_size=8, seed=4, phi=phi)
    state = step(state)
    opened, asked = slow_fast.ask(state, decode=decode)
    after = slow_fast.tell(opened, [loss(a) for a in asked])

    generator = np.random.Generator(np.random.PCG64(0))
    generator.bit_generator.state = opened.random_state
    scores = [loss(a) for a in decode(opened.population)]
    u1, u2 = generator.random((2, 4, 6))
    u3 = generator.random((4, 6)) if phi else np.zeros((4, 6))
    mean = opened.population.mean(axis=0)
    x, v = opened.population.copy(), opened.velocity.copy()
    for row, (a, b) in enumerate(opened.pairs):
        fast, slow = (a, b) if scores[a] <= scores[b] else (b, a)
        for d in range(6):
            v[slow, d] = (
                u1[row, d] * opened.velocity[slow, d]
                + u2[row, d] * (opened.population[fast, d] - opened.population[slow, d])
                + phi * u3[row, d] * (mean[d] - opened.population[slow, d])
            )
            x[slow, d] = min(max(opened.population[slow, d] + v[slow, d], 0.0), 5.0)
    np.testing.assert_array_equal(after.population, x)
    np.testing.assert_array_equal(after.velocity, v)


def test_a_winner_is_not_touched_and_every_loser_moves() -> None:
    state = step(slow_fast.start(UPPER, seed=1))
    opened, asked = slow_fast.ask(state, decode=decode)
    after = slow_fast.tell(opened, [loss(a) for a in asked])
    for a, b in opened.pairs:
        fast, slow = (a, b) if after.losses[a] <= after.losses[b] else (b, a)
        assert after.population[fast].tobytes() == opened.population[fast].tobytes()
        assert after.velocity[fast].tobytes() == opened.velocity[fast].tobytes()
        assert after.population[slow].tobytes() != opened.population[slow].tobytes()


def test_every_learner_meets_exactly_one_other() -> None:
    state, _ = slow_fast.ask(slow_fast.start(UPPER, seed=2), decode=decode)
    assert sorted(state.pairs.ravel().tolist()) == list(range(20))
    again, _ = slow_fast.ask(step(slow_fast.start(UPPER, seed=2)), decode=decode)
    assert again.pairs.tolist() != state.pairs.tolist()


@pytest.mark.parametrize(
    ("losses", "mover"),
    [
        ((1.0, 2.0), 1),
        ((2.0, 1.0), 0),
        ((1.0, 1.0), 1),
        ((np.nan, 1.0), 0),
        ((1.0, np.inf), 1),
        ((-np.inf, 1.0), 0),
        ((np.nan, np.inf), None),
    ],
)
def test_who_moves(losses: tuple[float, float], mover: int | None) -> None:
    """The higher loss moves, in a tie the second; what is not finite has failed; of two failures neither moves."""
    state, _ = slow_fast.ask(slow_fast.start(UPPER, population_size=2, reevaluate=True), decode=decode)
    by_row = np.empty(2)
    by_row[state.pairs[0]] = losses
    after = slow_fast.tell(state, by_row.tolist())
    moved = (after.population != state.population).any(axis=1)[state.pairs[0]]
    assert moved.tolist() == [mover == 0, mover == 1]


def test_the_first_population_is_uniform_in_the_box_and_at_rest() -> None:
    state = slow_fast.start([7.0, 2.0], population_size=4000, seed=5)
    assert not state.velocity.any()
    assert (state.population >= 0).all()
    for column, upper in zip(state.population.T, (7.0, 2.0), strict=True):
        np.testing.assert_allclose(np.quantile(column, [0, 0.25, 0.5, 0.75, 1]) / upper, np.arange(5) / 4, atol=0.03)


def test_stand_alone_mode_asks_for_each_architecture_once() -> None:
    state = slow_fast.start(UPPER, seed=3)
    seen: set[object] = set()
    for generation in range(30):
        before = state
        state, asked = slow_fast.ask(state, decode=decode)
        assert len(asked) == len(set(asked))
        assert seen.isdisjoint(asked)
        assert len(asked) <= (20 if generation == 0 else 10)
        assert set(asked) <= set(decode(before.population))
        seen.update(asked)
        state = slow_fast.tell(state, [loss(a) for a in asked])
    assert dict(state.known) == {a: loss(a) for a in seen}


def test_official_mode_asks_for_all_candidates_every_generation() -> None:
    state = slow_fast.start(UPPER, seed=3, reevaluate=True)
    for _ in range(3):
        state, asked = slow_fast.ask(state, decode=decode)
        assert list(asked) == decode(state.population)
        state = slow_fast.tell(state, [loss(a) for a in asked])
        assert state.known == {}


def test_both_modes_take_the_same_path_where_losses_do_not_drift() -> None:
    cached, official = slow_fast.start(UPPER, seed=6), slow_fast.start(UPPER, seed=6, reevaluate=True)
    for _ in range(10):
        cached, official = step(cached), step(official)
    np.testing.assert_array_equal(cached.population, official.population)


def test_the_search_finds_the_optimum_of_a_separable_function() -> None:
    state = slow_fast.start(UPPER, seed=0)
    for _ in range(50):
        state = step(state)
    assert state.losses.min() <= 1.1


def test_golden_numbers() -> None:
    state = slow_fast.start(UPPER, population_size=4, seed=7)
    for _ in range(3):
        state = step(state)
    assert len(state.known) == 7
    np.testing.assert_allclose(state.population[:, 0], [0.0, 0.96399611276, 1.27434793827, 1.13346243450], rtol=1e-9)


def test_ask_and_tell_leave_their_argument_as_it_was() -> None:
    state = step(slow_fast.start(UPPER, seed=1))
    opened, asked = slow_fast.ask(state, decode=decode)
    losses = [loss(a) for a in asked]
    first, second = slow_fast.tell(opened, losses), slow_fast.tell(opened, losses)
    assert first.population.tobytes() == second.population.tobytes()
    assert first.random_state == second.random_state
    assert slow_fast.ask(state, decode=decode)[0].pairs.tolist() == opened.pairs.tolist()
    with pytest.raises(ValueError, match="read-only"):
        state.population[0] = 0.0


@pytest.mark.parametrize("opened", [False, True])
def test_a_state_survives_json_to_the_last_bit(opened: bool) -> None:
    state = step(step(slow_fast.start(UPPER, seed=9, phi=0.1)))
    failed = next(iter(state.known))
    state = state._replace(known={**state.known, failed: math.inf})
    if opened:
        state, _ = slow_fast.ask(state, decode=decode)
    again = slow_fast.from_plain(json.loads(json.dumps(slow_fast.to_plain(state), allow_nan=False)))
    assert again.known[failed] == math.inf
    for name, value in state._asdict().items():
        np.testing.assert_equal(getattr(again, name), value)
    if not opened:
        assert step(again).population.tobytes() == step(state).population.tobytes()


def test_a_collapsed_population_is_redrawn_around_its_best_only_if_asked_to() -> None:
    def constant(population: np.ndarray) -> list[int]:
        return [0] * len(population)

    def one_generation(restart: bool) -> tuple[slow_fast.SlowFastState, slow_fast.SlowFastState]:
        state = slow_fast.start(UPPER, population_size=6, seed=1, restart_on_collapse=restart)
        opened, asked = slow_fast.ask(state, decode=constant)
        return opened, slow_fast.tell(opened, [1.0] * len(asked))

    opened, after = one_generation(restart=False)
    assert (after.population == opened.population).all(axis=1).sum() == 3
    opened, after = one_generation(restart=True)
    kept = (after.population == opened.population).all(axis=1)
    (best,) = np.flatnonzero(kept)
    assert best in opened.pairs[:, 0]
    assert not after.velocity.any()


def test_a_search_is_exhausted_when_nothing_new_has_come_up_for_long() -> None:
    for restart, patience in ((False, 10), (True, 100)):
        state = slow_fast.start([2.0], population_size=4, seed=1, restart_on_collapse=restart)
        generations_without_news = 0
        while not slow_fast.exhausted(state):
            state, asked = slow_fast.ask(state, decode=decode)
            generations_without_news = 0 if asked else generations_without_news + 1
            state = slow_fast.tell(state, [first_gene(a) for a in asked])
        assert generations_without_news == patience
        assert set(state.known) == {(0,), (1,)}


def test_every_trial_fails_is_seen_at_once_and_later_on() -> None:
    start = slow_fast.start(UPPER, population_size=8, seed=0)
    assert not slow_fast.every_trial_fails(start)
    opened, asked = slow_fast.ask(start, decode=decode)
    assert slow_fast.every_trial_fails(slow_fast.tell(opened, [np.nan] * len(asked)))
    one_succeeds = slow_fast.tell(opened, [1.0] + [np.inf] * (len(asked) - 1))
    assert not slow_fast.every_trial_fails(one_succeeds)

    state, failures = step(start), 0
    while failures < 4:
        assert not slow_fast.every_trial_fails(state)
        opened, asked = slow_fast.ask(state, decode=decode)
        failures += len(asked)
        state = slow_fast.tell(opened, [np.inf] * len(asked))
    assert slow_fast.every_trial_fails(state)


def test_diversity_by_hand() -> None:
    state = slow_fast.start([2.0], population_size=2)
    state = state._replace(population=np.array([[0.0], [2.0]]))
    assert slow_fast.diversity(state) == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"population_size": 5}, "even number of at least 2.* not 5; take 6"),
        ({"population_size": 0}, "even number of at least 2.* not 0; take 2"),
        ({"population_size": -2}, "even number of at least 2"),
        ({"population_size": 4.0}, "even whole number"),
        ({"population_size": True}, "even whole number"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"seed": "a"}, "seed must be a whole number"),
        ({"phi": -0.1}, "phi must be a number of at least 0"),
        ({"phi": float("nan")}, "phi must be a number of at least 0"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        slow_fast.start(UPPER, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("upper", [[], 3.0, [[1.0]], [1.0, 0.0], [1.0, np.inf], [1.0, np.nan]])
def test_wrong_bounds(upper: object) -> None:
    with pytest.raises(ValueError, match="bound"):
        slow_fast.start(upper)  # type: ignore[arg-type]


def test_tell_needs_an_open_generation_and_one_loss_each() -> None:
    state = slow_fast.start(UPPER)
    with pytest.raises(ValueError, match="call ask"):
        slow_fast.tell(state, [])
    opened, asked = slow_fast.ask(state, decode=decode)
    with pytest.raises(ValueError, match=f"each of the {len(asked)} architectures, not 1"):
        slow_fast.tell(opened, [0.0])
