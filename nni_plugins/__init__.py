"""Neural architecture search methods that NNI never got, as NNI strategies and tuners.

The names below are imported when they are first used, so that light modules
(``nni_plugins.deploy.check``) load neither torch nor NNI.
"""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "BilevelSearch": "nni_plugins.methods.bilevel.strategy",
    "BNASD": "nni_plugins.methods.bnas_v2",
    "BNASv2CLR": "nni_plugins.methods.bnas_v2",
    "BNASv2PC": "nni_plugins.methods.bnas_v2",
    "FirstOrderDARTS": "nni_plugins.methods.darts",
    "SecondOrderDARTS": "nni_plugins.methods.darts",
    "PCDARTS": "nni_plugins.methods.darts",
    "RFDARTS": "nni_plugins.methods.darts",
    "RFPCDARTS": "nni_plugins.methods.darts",
    "EnTranNAS": "nni_plugins.methods.entrannas",
    "EnTranNASDST": "nni_plugins.methods.entrannas",
    "RelativeNAS": "nni_plugins.methods.relative_nas.one_shot",
    "RelativeNASTuner": "nni_plugins.methods.relative_nas.tuner",
    "SlowFastEvolution": "nni_plugins.methods.relative_nas.multi_trial",
    "Softmax": "nni_plugins.supernet.relaxation",
    "EdgeNormalisation": "nni_plugins.supernet.relaxation",
    "SparseThreshold": "nni_plugins.supernet.threshold",
    "AllChannels": "nni_plugins.supernet.channels",
    "PartialChannels": "nni_plugins.supernet.channels",
    "PerEdge": "nni_plugins.supernet.features",
    "PerSource": "nni_plugins.supernet.features",
    "Constant": "nni_plugins.methods.bilevel.schedules",
    "Confident": "nni_plugins.methods.bilevel.schedules",
    "Everything": "nni_plugins.methods.bilevel.trainable",
    "BatchNormOnly": "nni_plugins.methods.bilevel.trainable",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)
