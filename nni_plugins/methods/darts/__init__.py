"""DARTS (arXiv 1806.09055), PC-DARTS (1907.05737), RF-DARTS and RF-PCDARTS (2208.08835)."""

from __future__ import annotations

from types import MappingProxyType

from nni_plugins.methods.bilevel.quick import DECIDES, DECIDES_AFTER_WARMUP
from nni_plugins.methods.spec import LARGE_BATCH, MethodSpec, OnSpace

_DARTS_SEARCH = MappingProxyType({"epochs": 50, "batch_size": 64, "lr": 0.025, "lr_min": 0.001, "weight_decay": 3e-4})
_PC_DARTS_SEARCH = MappingProxyType({"epochs": 50, "batch_size": 256, "lr": 0.1, "lr_min": 0.0, "weight_decay": 3e-4})
_PC_DARTS_EVALUATION = OnSpace(
    evaluation=MappingProxyType({"cifar": MappingProxyType({"drop_path": 0.3}), "imagenet": LARGE_BATCH})
)
_ROBUST_DARTS = {space: OnSpace() for space in ("s1", "s2", "s3", "s4")}

_PC_DARTS_QUICK = MappingProxyType({**DECIDES_AFTER_WARMUP, "epochs": 8})
"""After five epochs, two of them without alpha, the supernet is at 53 % on digits; after eight at 80 %."""
_RANDOM_FEATURES_QUICK = MappingProxyType(
    {"epochs": 8, "arch_learning_rate": 0.05, "trains": "BatchNormOnly(train_classifier=True)"}
)
"""Behind a frozen classifier 176 steps of BatchNorm come to 48 % on digits (BCNN), behind one that trains to 87 % after
six of the eight epochs; on NAS-Bench-201 to 25 % and 68 %. There a rate of 0.15 leaves 57 %, of 0.05 72 %, and decides
as well."""

SPECS = (
    MethodSpec(
        name="darts",
        strategy=f"{__name__}.strategy:FirstOrderDARTS",
        summary="the faithful baseline, first order",
        papers=("1806.09055",),
        search=_DARTS_SEARCH,
        spaces={"darts": OnSpace(), "nasbench201": OnSpace(), **_ROBUST_DARTS},
        quick=DECIDES,
    ),
    MethodSpec(
        name="darts_second_order",
        strategy=f"{__name__}.strategy:SecondOrderDARTS",
        summary="the faithful baseline, second order",
        papers=("1806.09055",),
        search=_DARTS_SEARCH,
        spaces={"darts": OnSpace(), "nasbench201": OnSpace(), **_ROBUST_DARTS},
        quick=DECIDES,
    ),
    MethodSpec(
        name="pc_darts",
        strategy=f"{__name__}.strategy:PCDARTS",
        summary="partial channels, edge normalisation",
        papers=("1907.05737",),
        search=_PC_DARTS_SEARCH,
        spaces={"darts": _PC_DARTS_EVALUATION},
        quick=_PC_DARTS_QUICK,
    ),
    MethodSpec(
        name="rf_darts",
        strategy=f"{__name__}.strategy:RFDARTS",
        summary="only BatchNorm trains, over random features",
        papers=("2208.08835",),
        search=_DARTS_SEARCH,
        spaces={"darts": OnSpace(), "nasbench201": OnSpace(), **_ROBUST_DARTS},
        quick=_RANDOM_FEATURES_QUICK,
    ),
    MethodSpec(
        name="rf_pcdarts",
        strategy=f"{__name__}.strategy:RFPCDARTS",
        summary="the same over partial channels",
        papers=("2208.08835",),
        search=_PC_DARTS_SEARCH,
        spaces={"darts": _PC_DARTS_EVALUATION},
        quick=_RANDOM_FEATURES_QUICK,
    ),
)
