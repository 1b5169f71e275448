"""Neural architecture search methods that NNI never got, as NNI strategies and tuners.

The names below are imported when they are first used, so that light modules (``nni_plugins.check``) load neither torch
nor NNI.
"""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "BilevelSearch": "nni_plugins.strategies.bilevel",
    "BNASD": "nni_plugins.strategies.bnas_v2",
    "BNASv2CLR": "nni_plugins.strategies.bnas_v2",
    "BNASv2PC": "nni_plugins.strategies.bnas_v2",
    "FirstOrderDARTS": "nni_plugins.strategies.darts_family",
    "SecondOrderDARTS": "nni_plugins.strategies.darts_family",
    "PCDARTS": "nni_plugins.strategies.darts_family",
    "RFDARTS": "nni_plugins.strategies.darts_family",
    "RFPCDARTS": "nni_plugins.strategies.darts_family",
    "EnTranNAS": "nni_plugins.strategies.entrannas",
    "EnTranNASDST": "nni_plugins.strategies.entrannas",
    "RelativeNAS": "nni_plugins.strategies.relative_nas",
    "RelativeNASTuner": "nni_plugins.tuners.relative_nas",
    "SlowFastEvolution": "nni_plugins.strategies.relative_nas_multi_trial",
    "Softmax": "nni_plugins.supernet.relaxation",
    "EdgeNormalisation": "nni_plugins.supernet.relaxation",
    "SparseThreshold": "nni_plugins.supernet.threshold",
    "AllChannels": "nni_plugins.supernet.channels",
    "PartialChannels": "nni_plugins.supernet.channels",
    "PerEdge": "nni_plugins.supernet.features",
    "PerSource": "nni_plugins.supernet.features",
    "Constant": "nni_plugins.strategies.schedules",
    "Confident": "nni_plugins.strategies.schedules",
    "Everything": "nni_plugins.strategies.trainable",
    "BatchNormOnly": "nni_plugins.strategies.trainable",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)
