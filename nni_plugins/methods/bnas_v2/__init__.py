"""BNAS-D, BNAS-v2-CLR and BNAS-v2-PC (arXiv 2009.08886): differentiable search of broad CNNs."""

from __future__ import annotations

from types import MappingProxyType

from nni_plugins.methods.bilevel.quick import DECIDES, DECIDES_AFTER_WARMUP, DECIDES_WITH_CONFIDENCE
from nni_plugins.methods.spec import MethodSpec, OnSpace

_SEARCH = MappingProxyType({"epochs": 50, "batch_size": 256, "lr": 0.1, "lr_min": 0.0, "weight_decay": 3e-4})
_BROAD = {"bcnn": OnSpace()}

SPECS = (
    MethodSpec(
        name="bnas_d",
        strategy=f"{__name__}.strategy:BNASD",
        summary="differentiable search of broad CNNs",
        papers=("2001.06679", "2009.08886"),
        search=_SEARCH,
        spaces=_BROAD,
        quick=DECIDES,
    ),
    MethodSpec(
        name="bnas_v2_clr",
        strategy=f"{__name__}.strategy:BNASv2CLR",
        summary="the same, architecture learning rate grows with confidence",
        papers=("2009.08886",),
        search=_SEARCH,
        spaces=_BROAD,
        quick=DECIDES_WITH_CONFIDENCE,
    ),
    MethodSpec(
        name="bnas_v2_pc",
        strategy=f"{__name__}.strategy:BNASv2PC",
        summary="the same, a quarter of the channels mixed, edges normalised",
        papers=("2009.08886",),
        search=MappingProxyType({**_SEARCH, "batch_size": 512, "lr": 0.2}),
        spaces=_BROAD,
        quick=DECIDES_AFTER_WARMUP,
    ),
)
