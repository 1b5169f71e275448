"""What a vector of genes means: a search space as a box of real numbers.

RelativeNAS gives a choice between n values one gene x in [0, n]; choice k owns the interval (k, k + 1], so

    k = 0 if x == 0 else ceil(x) - 1

The paper has only such choices (32 of them for the two cells of the DARTS space, :func:`darts_encoding`). For other
spaces we add: m values out of n are n keys in [0, 1], of which the m largest win; a number is one gene in [0, 1] which
its own quantile function turns into a value. Learners move through the values in the order in which the space lists
them, so a space should list neighbours as neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from nni_plugins.methods.relative_nas.slow_fast import Array
from search_spaces.darts import KINDS
from search_spaces.operation_names import DARTS_OPERATIONS_WITHOUT_NONE
from search_spaces.sample_labels import input_label, operation_label

TAIL = 1e-3
"""Probability cut off at either end of an unbounded distribution, whose quantiles at 0 and 1 are infinite."""


def decode_choice(x: Array) -> NDArray[np.int64]:
    """Index of the choice that owns each gene: 0 if x == 0 else ceil(x) - 1."""
    return np.maximum(np.ceil(x) - 1, 0).astype(np.int64)


class Variable(Protocol):
    """One entry of a search space and its genes."""

    @property
    def upper(self) -> tuple[float, ...]:
        """Upper bound of each of its genes."""

    def decode(self, genes: Array) -> Sequence[Hashable]:
        """Decode N rows of its genes, shape (N, len(upper))."""

    def encode(self, part: Hashable) -> Sequence[float]:
        """Genes that decode to ``part``."""

    def value(self, part: Hashable) -> Any:
        """Value that a trial gets for a decoded ``part``."""

    def part(self, value: Any) -> Hashable:
        """Inverse of :meth:`value`; ValueError if the space does not hold the value."""


class Choice(NamedTuple):
    """One of several values: one gene in [0, n], decoded to the index of the value."""

    values: tuple[Any, ...]
    as_list: bool = False  # NNI's CategoricalMultiple with one chosen wants [value]

    @property
    def upper(self) -> tuple[float, ...]:
        return (float(len(self.values)),)

    def decode(self, genes: Array) -> Sequence[int]:
        return decode_choice(genes[:, 0]).tolist()

    def encode(self, part: Any) -> Sequence[float]:
        return (part + 0.5,)

    def value(self, part: Any) -> Any:
        return [self.values[part]] if self.as_list else self.values[part]

    def part(self, value: Any) -> int:
        if self.as_list:
            (value,) = value
        return self.values.index(value)


class Subset(NamedTuple):
    """Several of the values: one key in [0, 1] for each, decoded to the sorted indices of the chosen ones.

    The ``chosen`` largest keys win, the first of equal ones; where any number may be chosen (None), keys above 1/2, and
    with ``at_least_one`` the largest where no key is.
    """

    values: tuple[Any, ...]
    chosen: int | None
    at_least_one: bool = False

    @property
    def upper(self) -> tuple[float, ...]:
        return (1.0,) * len(self.values)

    def decode(self, genes: Array) -> Sequence[tuple[int, ...]]:
        if self.chosen is None:
            some = [tuple(np.flatnonzero(row > 0.5).tolist()) for row in genes]
            return [
                (int(row.argmax()),) if self.at_least_one and not part else part
                for row, part in zip(genes, some, strict=True)
            ]
        largest = np.argsort(-genes, axis=1, kind="stable")[:, : self.chosen]
        return [tuple(row) for row in np.sort(largest, axis=1).tolist()]

    def encode(self, part: Any) -> Sequence[float]:
        return [0.75 if index in part else 0.25 for index in range(len(self.values))]

    def value(self, part: Any) -> list[Any]:
        return [self.values[index] for index in part]

    def part(self, value: Any) -> tuple[int, ...]:
        part = tuple(sorted(self.values.index(item) for item in value))
        if len(set(part)) != len(part) or (self.chosen is not None and len(part) != self.chosen):
            raise ValueError(f"{value!r} are not {self.chosen or 'some'} different values of {list(self.values)}")
        return part


class Number(NamedTuple):
    """A number: one gene in [0, 1], decoded by the quantile function of its distribution."""

    quantile: Callable[[float], float]
    probability: Callable[[float], float]
    low: float = -math.inf
    high: float = math.inf

    @property
    def upper(self) -> tuple[float, ...]:
        return (1.0,)

    def decode(self, genes: Array) -> Sequence[float]:
        return [self.quantile(x) for x in genes[:, 0].tolist()]

    def encode(self, part: Any) -> Sequence[float]:
        return (min(max(float(self.probability(part)), 0.0), 1.0),)

    def value(self, part: Any) -> Any:
        return part

    def part(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            raise ValueError(f"{value!r} is not a number from {self.low} to {self.high}")
        return value


class Encoding:
    """A search space as a box of genes.

    An *architecture* here is a hashable tuple with one decoded part for each variable, a *sample* the dict from
    names to values that a trial gets.

    Parameters
    ----------
    variables
        Name and kind of each entry of the space, in the order of the genes.

    Raises
    ------
    ValueError
        If the space is empty, or there is only one point in it.
    """

    def __init__(self, variables: Mapping[str, Variable]) -> None:
        if not variables:
            raise ValueError("The search space is empty; give it at least one entry with at least two values.")
        self.variables = dict(variables)
        if all(_is_fixed(variable) for variable in variables.values()):
            raise ValueError(
                f"There is nothing to search: every entry of the space ({', '.join(variables)}) has a single value; "
                f"give at least one of them two."
            )
        self.upper: Array = np.concatenate([variable.upper for variable in self.variables.values()])
        ends = np.cumsum([len(variable.upper) for variable in self.variables.values()]).tolist()
        self._slices = [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]
        self._choices_only = all(isinstance(variable, Choice) for variable in self.variables.values())

    def decode(self, population: Array) -> list[Hashable]:
        """Decode a population, shape (N, number of genes), to N architectures."""
        if self._choices_only:
            return list(map(tuple, decode_choice(population).tolist()))
        parts = [v.decode(population[:, s]) for v, s in zip(self.variables.values(), self._slices, strict=True)]
        return list(zip(*parts, strict=True))

    def encode(self, architecture: Hashable) -> Array:
        """Genes of an architecture, in the middle of the interval that decodes to it."""
        parts = zip(self.variables.values(), architecture, strict=True)  # type: ignore[call-overload]
        return np.concatenate([variable.encode(part) for variable, part in parts]).astype(np.float64)

    def sample(self, architecture: Hashable) -> dict[str, Any]:
        """Return what a trial gets for an architecture."""
        named = zip(self.variables.items(), architecture, strict=True)  # type: ignore[call-overload]
        return {name: variable.value(part) for (name, variable), part in named}

    def architecture(self, sample: Mapping[str, Any]) -> Hashable:
        """Inverse of :meth:`sample`.

        Raises
        ------
        ValueError
            If the sample is not one of this space.
        """
        if not isinstance(sample, Mapping) or sample.keys() != self.variables.keys():
            given = sorted(sample) if isinstance(sample, Mapping) else sample
            raise ValueError(
                f"A trial of another search space: it sets {given!r}, this space has {sorted(self.variables)}; "
                f"use only trials of this space."
            )
        parts = []
        for name, variable in self.variables.items():
            try:
                parts.append(variable.part(sample[name]))
            except (ValueError, TypeError) as error:
                raise ValueError(
                    f"A trial of another search space: {sample[name]!r} is not a value of {name!r} in this space; "
                    f"use only trials of this space."
                ) from error
        return tuple(parts)


def darts_encoding(operations: Sequence[str] = DARTS_OPERATIONS_WITHOUT_NONE, nodes: int = 4) -> Encoding:
    """Return the paper's genes for the two cells of the DARTS space, 32 of them for four nodes.

    Normal cell first, node 2 first; per node: input a, operation a, input b, operation b. The names are those of
    NNI's DARTS model space, so a sample freezes it.
    """
    variables: dict[str, Variable] = {}
    for kind in KINDS:
        for node in range(2, 2 + nodes):
            for slot in range(2):
                variables[input_label(kind, node, slot)] = Choice(tuple(range(node)), as_list=True)
                variables[operation_label(kind, node, slot)] = Choice(tuple(operations))
    return Encoding(variables)


def search_space_encoding(search_space: Mapping[str, Any]) -> Encoding:
    """Genes of a search space as ``nnictl`` has it.

    Parameters
    ----------
    search_space
        For example ``{"lr": {"_type": "loguniform", "_value": [0.001, 0.1]}}``. All of NNI's types are known.

    Raises
    ------
    ValueError
        If the space is empty, has nothing to search, or an entry is not understood. Nested choices are refused: a
        slow learner moves towards the fast one gene by gene, which means nothing where the other has no such gene.
    """
    if not isinstance(search_space, Mapping):
        raise ValueError(f"A search space is a mapping from names to entries, not {search_space!r}.")
    return Encoding({name: _variable(name, entry) for name, entry in search_space.items()})


def _variable(name: str, entry: Any) -> Variable:
    if not isinstance(entry, Mapping) or not {"_type", "_value"} <= entry.keys():
        raise ValueError(f"{name!r} in the search space needs _type and _value, not {entry!r}.")
    kind, arguments = entry["_type"], entry["_value"]
    if not isinstance(arguments, Sequence) or isinstance(arguments, str):
        raise ValueError(f"{name!r} in the search space needs a list as _value, not {arguments!r}.")
    if kind == "choice":
        return _choice(name, arguments)
    numbers = 3 if kind.startswith("q") else 2
    if kind not in ("randint", *_SCALES) or len(arguments) != numbers or not all(map(_is_number, arguments)):
        raise ValueError(
            f"{name!r} in the search space must be choice, randint or one of {', '.join(_SCALES)}, and all but choice "
            f"have two finite numbers as _value and those that begin with q three, not {kind} {arguments!r}."
        )
    if kind == "randint":
        return _choice(name, range(math.ceil(arguments[0]), math.ceil(arguments[1])))
    return _number(name, kind, *map(float, arguments))


def _choice(name: str, values: Sequence[Any]) -> Choice:
    if not values:
        raise ValueError(f"{name!r} in the search space has no values to choose from; list at least one.")
    if any(isinstance(value, Mapping) for value in values):
        raise ValueError(
            f"{name!r} in the search space is a nested choice, which slow-fast learning cannot move through, because "
            f"two learners may then have different genes; list its options as one flat choice."
        )
    if any(value in values[:index] for index, value in enumerate(values)) and not isinstance(values, range):
        raise ValueError(f"{name!r} in the search space lists a value twice in {list(values)!r}; list each once.")
    return Choice(tuple(values))


_SCALES = ("uniform", "quniform", "loguniform", "qloguniform", "normal", "qnormal", "lognormal", "qlognormal")


def _number(name: str, kind: str, first: float, second: float, step: float = 0.0) -> Number:
    logarithmic, normal, quantised = "log" in kind, "normal" in kind, kind.startswith("q")
    if quantised and step <= 0:
        raise ValueError(f"{name!r} in the search space needs a positive step, not {step}.")
    if normal and second <= 0:
        raise ValueError(f"{name!r} in the search space needs a positive standard deviation, not {second}.")
    if not normal and (first >= second or (logarithmic and first <= 0)):
        raise ValueError(
            f"{name!r} in the search space needs a lower bound below the upper one"
            f"{' and above 0' if logarithmic else ''}, not {first} and {second}."
        )
    if normal:
        low, high = (0.0 if logarithmic else -math.inf), math.inf
        distribution = NormalDist(first, second)
    else:
        low, high = first, second
        a, b = (math.log(low), math.log(high)) if logarithmic else (low, high)

    def quantile(x: float) -> float:
        y = distribution.inv_cdf(min(max(x, TAIL), 1 - TAIL)) if normal else a + x * (b - a)
        y = math.exp(y) if logarithmic else y
        y = round(y / step) * step if quantised else y
        return min(max(y, low), high)

    def probability(value: float) -> float:
        if logarithmic and value <= 0:
            return 0.0
        y = math.log(value) if logarithmic else value
        return distribution.cdf(y) if normal else (y - a) / (b - a)

    return Number(quantile, probability, low, high)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_fixed(variable: Variable) -> bool:
    if isinstance(variable, Subset):
        return variable.chosen == len(variable.values)
    return isinstance(variable, Choice) and len(variable.values) == 1
