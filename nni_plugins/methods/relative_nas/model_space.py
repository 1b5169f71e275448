"""Genes of an NNI model space, and the search-space file of an ``nnictl`` experiment over it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from nni.mutable import Categorical, CategoricalMultiple, LabeledMutable, Numerical
from nni.mutable.annotation import MutableAnnotation

from nni_plugins.methods.relative_nas.encoding import TAIL, Choice, Encoding, Number, Subset, Variable
from search_spaces.free_cell import SomeOf
from search_spaces.sample_labels import slot_of


def model_space_encoding(simplified: Mapping[str, LabeledMutable]) -> Encoding:
    """Genes of what a model space's ``simplify()`` returns.

    The choices of a cell come in the order of the paper: per node and slot first the input, then the operation.
    Constraints have no genes; a sample that breaks one is found out when the model is frozen.

    Raises
    ------
    ValueError
        If the space is empty, has nothing to search, or holds a mutable of an unknown kind.
    """
    symbols = {name: m for name, m in simplified.items() if not isinstance(m, MutableAnnotation)}
    return Encoding({name: _variable(name, symbols[name]) for name in sorted(symbols, key=_paper_order(symbols))})


def to_search_space(simplified: Mapping[str, LabeledMutable]) -> dict[str, dict[str, Any]]:
    """Return the search space of an ``nnictl`` experiment, in the order of :func:`model_space_encoding`.

    Parameters
    ----------
    simplified
        What a model space's ``simplify()`` returns.

    Raises
    ------
    ValueError
        If the space is empty, or a choice is not between single values.
    """
    space: dict[str, dict[str, Any]] = {}
    for name, variable in model_space_encoding(simplified).variables.items():
        if not isinstance(variable, Choice):
            raise ValueError(
                f"{name!r} is not a choice of one value, which is all that this file can say; search the space with "
                "SlowFastEvolution, which takes it as it is."
            )
        space[name] = {"_type": "choice", "_value": list(variable.values)}
    return space


def _paper_order(names: Mapping[str, object]):  # type: ignore[no-untyped-def]
    """Sort key: cells by first appearance, then node, slot, input before operation; all else where it stands."""
    first: dict[str, int] = {}

    def key(name: str) -> tuple[int, int, int, str]:
        slot = slot_of(name)
        return (first[slot.kind], slot.target, slot.slot, slot.part) if slot else (first[name], 0, 0, "")

    for position, name in enumerate(names):
        slot = slot_of(name)
        first.setdefault(slot.kind if slot else name, position)
    return key


def _variable(name: str, mutable: LabeledMutable) -> Variable:
    if isinstance(mutable, Categorical):
        return Choice(tuple(mutable.values))
    if isinstance(mutable, CategoricalMultiple):
        if mutable.n_chosen == 1:
            return Choice(tuple(mutable.values), as_list=True)
        return Subset(tuple(mutable.values), mutable.n_chosen, at_least_one=isinstance(mutable, SomeOf))
    if isinstance(mutable, Numerical):
        return _number(mutable)
    raise ValueError(
        f"{name!r} in the model space is a {type(mutable).__name__}, which has no genes; "
        f"use Categorical, CategoricalMultiple or Numerical."
    )


def _number(mutable: Numerical) -> Number:
    distribution = mutable.distribution
    low_tail, high_tail = (0.0 if math.isfinite(distribution.ppf(end)) else TAIL for end in (0.0, 1.0))

    def quantile(x: float) -> float:
        return float(mutable.qclip(float(distribution.ppf(min(max(x, low_tail), 1 - high_tail)))))

    return Number(quantile, lambda value: float(distribution.cdf(value)), mutable.low, mutable.high)
