"""Slow-fast learning, the evolutionary core of RelativeNAS (Tan et al., arXiv 2009.06193), as pure functions.

A population of N vectors is cut into random pairs. In every pair the learner with the lower validation loss is the
fast one and stays; the slow one moves towards it:

    v_slow <- u1 * v_slow + u2 * (x_fast - x_slow)
    x_slow <- clip(x_slow + v_slow, 0, upper)

Nothing here knows NNI or trains anything: :func:`ask` says what to evaluate, the caller evaluates, :func:`tell` moves
the slow learners. What a vector means is up to ``decode`` (see :mod:`nni_plugins.methods.relative_nas.encoding`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Decode = Callable[[Array], Sequence[Hashable]]


def learn(
    x_slow: Array, x_fast: Array, v_slow: Array, u1: Array, u2: Array, upper: Array, pull: Array | float = 0.0
) -> tuple[Array, Array]:
    """Move slow learners towards fast ones: equations (5) and (6) of the paper.

    Parameters
    ----------
    x_slow, x_fast, v_slow
        Positions of both learners and velocity of the slow one, one row per pair.
    u1, u2
        Uniform random numbers in [0, 1), one per pair and dimension.
    upper
        Upper bound of every dimension; the lower one is 0. The velocity is not clipped.
    pull
        A further term of the velocity, 0 in the paper.

    Returns
    -------
    tuple
        Position and velocity of the slow learners after the step.
    """
    velocity = u1 * v_slow + u2 * (x_fast - x_slow) + pull
    return np.clip(x_slow + velocity, 0.0, upper), velocity


class SlowFastState(NamedTuple):
    """Everything a search is, as plain read-only data: equal states continue equally.

    Attributes
    ----------
    population, velocity
        Arrays of shape (N, D). A velocity belongs to the slot of the population, not to the vector in it.
    upper
        Upper bound of the D dimensions.
    generation
        Number of generations finished.
    random_state
        State of numpy's PCG64 generator.
    pairs
        Rows of the population that meet in this generation, shape (N / 2, 2).
    architectures
        What the N rows decode to in this generation.
    asked
        The architectures to be evaluated before this generation can end.
    known
        Loss of every architecture evaluated so far (stand-alone mode); infinite where the evaluation failed.
    losses
        Losses of the N rows in the last finished generation.
    stale
        Generations in a row, up to now, in which there was nothing new to evaluate (stand-alone mode).
    failures
        Evaluations that failed since a generation had one that did not.
    reevaluate, phi, restart_on_collapse
        Settings, see :func:`start`.
    """

    population: Array
    velocity: Array
    upper: Array
    generation: int
    random_state: Mapping[str, Any]
    pairs: NDArray[np.int64]
    architectures: tuple[Hashable, ...]
    asked: tuple[Hashable, ...]
    known: Mapping[Hashable, float]
    losses: Array
    stale: int
    failures: int
    reevaluate: bool
    phi: float
    restart_on_collapse: bool


STALE_GENERATIONS = 10
"""Generations in a row without anything new to evaluate after which a population counts as collapsed.

Not stated in the paper, which re-evaluates all candidates for a fixed number of generations.
"""

FRUITLESS_RESTARTS = 10
"""Restarts in a row without anything new to evaluate after which the whole space counts as known."""


def start(
    upper: ArrayLike,
    *,
    population_size: int = 20,
    seed: int = 0,
    reevaluate: bool = False,
    phi: float = 0.0,
    restart_on_collapse: bool = False,
) -> SlowFastState:
    """Draw the first population, uniform in the box from 0 to ``upper``, at rest.

    Parameters
    ----------
    upper
        Upper bound of every dimension.
    population_size
        N, even because learners meet in pairs. The paper has 20.
    seed
        Seed of all randomness.
    reevaluate
        Evaluate all N in every generation, as the paper does because its losses drift with the weight set. Without
        it (stand-alone mode) an architecture is evaluated once, so only learners that moved are.
    phi
        Pull of slow learners to the mean of the population, as in the competitive swarm optimiser; the velocity
        gains ``phi * u3 * (mean - x_slow)``. Not in the paper.
    restart_on_collapse
        Once the population has collapsed, keep the best row and draw the others afresh. Not in the paper.
        Collapsed: all rows decode to one architecture, or nothing new came up in ``STALE_GENERATIONS`` generations.

    Raises
    ------
    ValueError
        If the population is odd or smaller than 2, a bound is not positive, there is no dimension or ``phi`` is
        negative.
    """
    if isinstance(population_size, bool) or not isinstance(population_size, int | np.integer):
        raise ValueError(f"population_size must be an even whole number of at least 2, not {population_size!r}.")
    if population_size < 2 or population_size % 2:
        raise ValueError(
            f"population_size must be an even number of at least 2, because learners meet in pairs, "
            f"not {population_size}; take {max(2, population_size + 1)}."
        )
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed must be a whole number of at least 0, not {seed!r}.")
    if isinstance(phi, bool) or not isinstance(phi, int | float) or not 0 <= phi < np.inf:
        raise ValueError(f"phi must be a number of at least 0 (0 is the paper's update), not {phi!r}.")
    upper = np.array(upper, dtype=np.float64)
    if upper.ndim != 1 or upper.size == 0:
        raise ValueError(f"upper must hold one bound per dimension and at least one, not shape {upper.shape}.")
    if not (np.isfinite(upper) & (upper > 0)).all():
        raise ValueError(f"every upper bound must be positive and finite, not {upper.tolist()}.")

    generator = np.random.Generator(np.random.PCG64(seed))
    population = generator.random((population_size, upper.size)) * upper
    return SlowFastState(
        population=_frozen(population),
        velocity=_frozen(np.zeros_like(population)),
        upper=_frozen(upper),
        generation=0,
        random_state=generator.bit_generator.state,
        pairs=_frozen(np.empty((0, 2), dtype=np.int64)),
        architectures=(),
        asked=(),
        known={},
        losses=_frozen(np.full(population_size, np.inf)),
        stale=0,
        failures=0,
        reevaluate=bool(reevaluate),
        phi=float(phi),
        restart_on_collapse=bool(restart_on_collapse),
    )


def ask(state: SlowFastState, *, decode: Decode) -> tuple[SlowFastState, tuple[Hashable, ...]]:
    """Open a generation: pair the learners and say what has to be evaluated.

    Parameters
    ----------
    state
        A state from :func:`start` or :func:`tell`.
    decode
        Turns the population, shape (N, D), into N architectures, hashable and equal where evaluating both would be
        evaluating one thing twice.

    Returns
    -------
    tuple
        The new state, and the architectures to evaluate: all N of them with ``reevaluate``, in the order of the
        population; otherwise each unknown one once, and perhaps none.
    """
    generator = _generator(state)
    pairs = generator.permutation(len(state.population)).reshape(-1, 2)
    architectures = tuple(decode(state.population))
    asked = architectures
    if not state.reevaluate:
        asked = tuple(a for a in dict.fromkeys(architectures) if a not in state.known)
    state = state._replace(
        pairs=_frozen(pairs),
        architectures=architectures,
        asked=asked,
        random_state=generator.bit_generator.state,
    )
    return state, asked


def tell(state: SlowFastState, losses: Sequence[float]) -> SlowFastState:
    """Close a generation: compare within the pairs and move the slow learners.

    The lower loss is fast; ties go to the first. NaN and infinity stand for a failed evaluation, which loses; where
    both failed, neither moves.

    Parameters
    ----------
    state
        The state that :func:`ask` returned.
    losses
        One loss for each architecture that was asked for, in that order; lower is better.

    Raises
    ------
    ValueError
        If no generation is open, or the number of losses is not the number of architectures asked for.
    """
    if not state.architectures:
        raise ValueError("tell() needs the state that ask() returned; call ask() before every tell().")
    if len(losses) != len(state.asked):
        raise ValueError(f"tell() needs one loss for each of the {len(state.asked)} architectures, not {len(losses)}.")
    new = np.array(losses, dtype=np.float64)
    new[~np.isfinite(new)] = np.inf
    known = state.known
    if not state.reevaluate:
        known = {**known, **dict(zip(state.asked, new.tolist(), strict=True))}
        scores = np.array([known[a] for a in state.architectures])
    else:
        scores = new

    first, second = state.pairs.T
    first_is_fast = scores[first] <= scores[second]
    fast, slow = np.where(first_is_fast, (first, second), (second, first))
    moves = np.isfinite(scores[fast])
    fast, slow = fast[moves], slow[moves]

    generator = _generator(state)
    x, v = state.population.copy(), state.velocity.copy()
    u1, u2 = generator.random((2, *x[slow].shape))
    pull = state.phi * generator.random(u1.shape) * (x.mean(axis=0) - x[slow]) if state.phi else 0.0
    x[slow], v[slow] = learn(x[slow], x[fast], v[slow], u1, u2, state.upper, pull)

    failed = int(np.isinf(new).sum())
    stale = 0 if len(new) else state.stale + 1
    at_rest = len(set(state.architectures)) == 1 or (stale > 0 and stale % STALE_GENERATIONS == 0)
    if state.restart_on_collapse and at_rest and moves.any():
        redrawn = np.arange(len(x)) != fast[scores[fast].argmin()]
        x[redrawn] = generator.random(x[redrawn].shape) * state.upper
        v[:] = 0.0

    return state._replace(
        population=_frozen(x),
        velocity=_frozen(v),
        generation=state.generation + 1,
        random_state=generator.bit_generator.state,
        architectures=(),
        asked=(),
        known=known,
        losses=_frozen(scores),
        stale=stale,
        failures=state.failures + failed if failed == len(new) else 0,
    )


def every_trial_fails(state: SlowFastState) -> bool:
    """Return whether to give up: nothing but failures in the last half population of evaluations, or ever."""
    return state.generation > 0 and (
        not np.isfinite(state.losses).any() or state.failures >= len(state.population) // 2
    )


def exhausted(state: SlowFastState) -> bool:
    """Return whether the search is over because nothing new comes up any more, restarts included where they are on."""
    return state.stale >= STALE_GENERATIONS * (FRUITLESS_RESTARTS if state.restart_on_collapse else 1)


def diversity(state: SlowFastState) -> float:
    """Mean Euclidean distance of the population to its mean, in genes."""
    return float(np.linalg.norm(state.population - state.population.mean(axis=0), axis=1).mean())


def to_plain(state: SlowFastState) -> dict[str, Any]:
    """Return the state as lists, dicts, finite numbers and strings, for JSON; an infinite loss is None."""
    plain = {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in state._asdict().items()}
    return {
        **plain,
        "random_state": dict(state.random_state),
        "losses": [_finite_or_none(loss) for loss in state.losses.tolist()],
        "known": [[architecture, _finite_or_none(loss)] for architecture, loss in state.known.items()],
    }


def from_plain(plain: Mapping[str, Any]) -> SlowFastState:
    """Return the state of which :func:`to_plain` made ``plain``, the same to the last bit."""
    fields = {**plain, "losses": [_infinite_if_none(loss) for loss in plain["losses"]]}
    for name in ("population", "velocity", "upper", "losses"):
        fields[name] = _frozen(np.array(fields[name], dtype=np.float64))
    fields["pairs"] = _frozen(np.array(plain["pairs"], dtype=np.int64).reshape(-1, 2))
    for name in ("architectures", "asked"):
        fields[name] = _hashable(plain[name])
    fields["known"] = {_hashable(architecture): _infinite_if_none(loss) for architecture, loss in plain["known"]}
    return SlowFastState(**fields)


def _finite_or_none(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None


def _infinite_if_none(loss: float | None) -> float:
    return math.inf if loss is None else loss


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


def _generator(state: SlowFastState) -> np.random.Generator:
    bits = np.random.PCG64(0)
    bits.state = dict(state.random_state)  # type: ignore[assignment]
    return np.random.Generator(bits)


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array
