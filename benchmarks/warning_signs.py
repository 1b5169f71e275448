"""Which sign of collapse warns first, and how many epochs ahead of the drop of the derived cell's accuracy.

A search drops at the first epoch from which on its cell stays at least :data:`DROP` points below the best one before.
A sign warns at the first epoch in which its rule holds:

    skips            as many skip connections as :func:`nni_plugins.report.collapse.skips_to_warn_at` says [DARTS+]
    parameter-free   more connections without convolutions than a cell drawn at random has on average
    gap of alpha     the search has decided (:data:`nni_plugins.report.decision.DECIDED_GAP`), the rest only sharpens
    consistency      what the supernet is ahead of its derived sub-graph grows as the Hessian may not
    Hessian          its eigenvalue grows [RobustDARTS, :func:`nni_plugins.report.collapse.stop_epoch`]

The first and the last rule are published, the others are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nni_plugins.methods.bilevel.metrics import CONSISTENCY_GAP, HESSIAN
from nni_plugins.methods.metric import ALPHA_GAP, PARAMETER_FREE, SKIP_CONNECT
from nni_plugins.report.collapse import skips_to_warn_at, stop_epoch
from nni_plugins.report.decision import DECIDED_GAP
from nni_plugins.report.nasbench201_table import EDGES
from search_spaces.nasbench201 import OPERATIONS
from search_spaces.operation_names import PARAMETER_FREE as WITHOUT_PARAMETERS

DROP = 2.0
"""Points of test accuracy in the table."""
AT_RANDOM = len(EDGES) * len(WITHOUT_PARAMETERS & set(OPERATIONS)) / len(OPERATIONS)
"""Mean number of connections without convolutions of a cell drawn at random."""

History = Sequence[Mapping[str, Any]]
"""The metrics of the epochs so far."""


def _grows(history: History, metric: str, floor: float = 0.0) -> bool:
    known = {epoch["epoch"]: max(floor, epoch[metric]) for epoch in history if metric in epoch}
    return stop_epoch(known) is not None


class Sign(NamedTuple):
    """What is watched, by the name of its metric, and whether it warns at the last epoch of a history."""

    metric: str
    warns: Callable[[History], bool]


SIGNS: Mapping[str, Sign] = {
    "skips": Sign(SKIP_CONNECT.name, lambda history: history[-1][SKIP_CONNECT.name] >= skips_to_warn_at(len(EDGES))),
    "parameter-free": Sign(PARAMETER_FREE.name, lambda history: history[-1][PARAMETER_FREE.name] > AT_RANDOM),
    "gap of alpha": Sign(ALPHA_GAP.name, lambda history: history[-1].get(ALPHA_GAP.name, 0.0) >= DECIDED_GAP),
    # below a point it is noise of the few images that it is measured on
    "consistency": Sign(CONSISTENCY_GAP.name, lambda history: _grows(history, CONSISTENCY_GAP.name, floor=1.0)),
    "Hessian": Sign(HESSIAN.name, lambda history: _grows(history, HESSIAN.name)),
}


def drop_epoch(accuracies: Sequence[float]) -> int | None:
    """Return the epoch (from 0) at which a search drops; None if it ends with a cell about as good as its best."""
    values = np.asarray(accuracies)
    for epoch in range(1, len(values)):
        if (values[epoch:] <= values[:epoch].max() - DROP).all():
            return epoch
    return None


def first_warnings(history: History) -> dict[str, int]:
    """Return the epoch (from 0) of every sign's first warning; a sign that does not warn is left out."""
    first: dict[str, int] = {}
    for epoch in range(len(history)):
        for name, sign in SIGNS.items():
            if name not in first and sign.warns(history[: epoch + 1]):
                first[name] = epoch
    return first


class Record(NamedTuple):
    """How a sign did over several searches."""

    dropped: int
    """Searches that drop."""
    ahead: tuple[int, ...]
    """Epochs by which the sign was ahead of the drop, of those of them that it warned of no later than at the drop."""
    sound: int
    """Searches that do not drop."""
    false_alarms: int
    """Those of them that the sign warned of."""


def records(searches: Sequence[tuple[History, Sequence[float]]]) -> dict[str, Record]:
    """Return for every sign how it did over ``searches``, each a history and its cells' accuracies in the table."""
    warnings = [first_warnings(history) for history, _ in searches]
    drops = [drop_epoch(accuracies) for _, accuracies in searches]
    found = {}
    for name in SIGNS:
        ahead = [
            drop - first[name]
            for first, drop in zip(warnings, drops, strict=True)
            if drop is not None and name in first and first[name] <= drop
        ]
        false_alarms = sum(drop is None and name in first for first, drop in zip(warnings, drops, strict=True))
        found[name] = Record(sum(drop is not None for drop in drops), tuple(ahead), drops.count(None), false_alarms)
    return found
