"""NNI model spaces of the methods in :mod:`nni_plugins`, and the genotype: the one form of a found architecture.

What needs torch and NNI is imported when it is first used, so that a genotype is read and drawn without them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .cell_graph import CellGraph
from .genotype import Connection, Genotype
from .nasbench201.architecture_string import from_architecture_string, to_architecture_string
from .operation_names import DARTS_OPERATIONS
from .published import published, published_names
from .registry import space_names, space_spec
from .spec import SpaceSpec

if TYPE_CHECKING:
    from .bcnn.network import BCNN
    from .darts.network import AnyDARTSSpace, DARTSSpace, RobustDARTS
    from .evaluation import evaluation_net
    from .free_cell import FreeCell
    from .nasbench201.network import NASBench201

_WHERE = {
    "BCNN": ".bcnn.network",
    "AnyDARTSSpace": ".darts.network",
    "DARTSSpace": ".darts.network",
    "RobustDARTS": ".darts.network",
    "evaluation_net": ".evaluation",
    "FreeCell": ".free_cell",
    "NASBench201": ".nasbench201.network",
}

__all__ = [
    "BCNN",
    "DARTS_OPERATIONS",
    "AnyDARTSSpace",
    "CellGraph",
    "Connection",
    "DARTSSpace",
    "FreeCell",
    "Genotype",
    "NASBench201",
    "RobustDARTS",
    "SpaceSpec",
    "evaluation_net",
    "from_architecture_string",
    "published",
    "published_names",
    "space_names",
    "space_spec",
    "to_architecture_string",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name], __name__), name)
