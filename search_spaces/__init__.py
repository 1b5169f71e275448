"""NNI model spaces of the methods in :mod:`nni_plugins`, and the genotype: the one form of a found architecture."""

from __future__ import annotations

import nni.nas.strategy  # noqa: F401  before nni.nas.oneshot or nni.nas.hub, or NNI's own DARTS is left unusable

from .bcnn import BCNN
from .evaluation import evaluation_net
from .genotype import Connection, Genotype
from .layout import DARTS_OPERATIONS, LAYOUTS
from .published import published, published_names

__all__ = [
    "BCNN",
    "DARTS_OPERATIONS",
    "LAYOUTS",
    "Connection",
    "Genotype",
    "evaluation_net",
    "published",
    "published_names",
]
