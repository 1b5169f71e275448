"""Neural architecture search methods that NNI never got, as NNI strategies and tuners.

The names below are imported when they are first used, so that light modules (``nni_plugins.deploy.check``) load neither
torch nor NNI.
"""

from __future__ import annotations

import warnings
from importlib import metadata
from typing import TYPE_CHECKING, Any

# NNI says this of classes of newer PyTorch versions whenever it is imported, that is in every trial's stderr.
warnings.filterwarnings("ignore", message=".*is found to be not a nn.Module", category=RuntimeWarning)

if TYPE_CHECKING:
    from nni_plugins.methods.bilevel.schedules import Confident, Constant
    from nni_plugins.methods.bilevel.strategy import BilevelSearch
    from nni_plugins.methods.bilevel.trainable import BatchNormOnly, Everything
    from nni_plugins.methods.bnas_v2.strategy import BNASD, BNASv2CLR, BNASv2PC
    from nni_plugins.methods.darts.strategy import PCDARTS, RFDARTS, RFPCDARTS, FirstOrderDARTS, SecondOrderDARTS
    from nni_plugins.methods.entrannas.strategy import EnTranNAS, EnTranNASDST
    from nni_plugins.methods.relative_nas.multi_trial import SlowFastEvolution
    from nni_plugins.methods.relative_nas.one_shot import RelativeNAS
    from nni_plugins.methods.relative_nas.tuner import RelativeNASTuner
    from nni_plugins.supernet.channels import AllChannels, PartialChannels
    from nni_plugins.supernet.features import PerEdge, PerSource
    from nni_plugins.supernet.relaxation import EdgeNormalisation, Softmax
    from nni_plugins.supernet.threshold import SparseThreshold

__all__ = [
    "BNASD",
    "PCDARTS",
    "RFDARTS",
    "RFPCDARTS",
    "AllChannels",
    "BNASv2CLR",
    "BNASv2PC",
    "BatchNormOnly",
    "BilevelSearch",
    "Confident",
    "Constant",
    "EdgeNormalisation",
    "EnTranNAS",
    "EnTranNASDST",
    "Everything",
    "FirstOrderDARTS",
    "PartialChannels",
    "PerEdge",
    "PerSource",
    "RelativeNAS",
    "RelativeNASTuner",
    "SecondOrderDARTS",
    "SlowFastEvolution",
    "Softmax",
    "SparseThreshold",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version("nni-plugins")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from nni_plugins.methods.registry import public_names

    return public_names()[name]
