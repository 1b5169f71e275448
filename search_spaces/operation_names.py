"""Names of the candidate operations; :mod:`search_spaces.operations` builds them."""

from __future__ import annotations

NO_OPERATION = "none"

DARTS_OPERATIONS = (
    NO_OPERATION,
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""The candidates of DARTS, in its order. ``none`` takes part in the relaxation and is never derived."""

DARTS_OPERATIONS_WITHOUT_NONE = tuple(name for name in DARTS_OPERATIONS if name != NO_OPERATION)
"""The seven candidates of NNI's DARTS space, EnTranNAS and RelativeNAS, in the same order."""

PARAMETER_FREE = frozenset({NO_OPERATION, "skip_connect", "max_pool_3x3", "avg_pool_3x3", "noise"})
"""Operations without convolutions; a cell full of them is a sign of collapse."""
