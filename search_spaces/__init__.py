"""NNI model spaces of the methods in :mod:`nni_plugins`, and the genotype: the one form of a found architecture."""

from __future__ import annotations

import nni.nas.strategy  # noqa: F401  before nni.nas.oneshot or nni.nas.hub, or NNI's own DARTS is left unusable

from .any_connections import AnyDARTSSpace
from .bcnn import BCNN
from .darts import DARTSSpace, RobustDARTS
from .evaluation import evaluation_net
from .free_cell import FreeCell
from .genotype import Connection, Genotype
from .layout import DARTS_OPERATIONS, LAYOUTS
from .nasbench201 import NASBench201, from_architecture_string, to_architecture_string
from .published import published, published_names

__all__ = [
    "BCNN",
    "DARTS_OPERATIONS",
    "LAYOUTS",
    "AnyDARTSSpace",
    "Connection",
    "DARTSSpace",
    "FreeCell",
    "Genotype",
    "NASBench201",
    "RobustDARTS",
    "evaluation_net",
    "from_architecture_string",
    "published",
    "published_names",
    "to_architecture_string",
]
