"""EnTranNAS and EnTranNAS-DST (arXiv 2101.11342): Engine-cells search, Transit-cells run what is derived so far."""

from __future__ import annotations

from types import MappingProxyType

from nni_plugins.methods.bilevel.quick import DECIDES
from nni_plugins.methods.spec import LARGE_BATCH, MethodSpec, OnSpace
from search_spaces.operation_names import DARTS_OPERATIONS_WITHOUT_NONE

_SEARCH = MappingProxyType({"epochs": 50, "batch_size": 256, "lr": 0.1, "lr_min": 0.001, "weight_decay": 3e-4})

_EVALUATION = MappingProxyType({"imagenet": LARGE_BATCH})

SPECS = (
    MethodSpec(
        name="entrannas",
        strategy=f"{__name__}.strategy:EnTranNAS",
        summary="Engine- and Transit-cells",
        papers=("2101.11342",),
        search=_SEARCH,
        spaces={
            "darts": OnSpace(
                arguments=MappingProxyType({"operations": DARTS_OPERATIONS_WITHOUT_NONE}), evaluation=_EVALUATION
            ),
            "nasbench201": OnSpace(),
        },
        quick=DECIDES,
    ),
    MethodSpec(
        name="entrannas_dst",
        strategy=f"{__name__}.strategy:EnTranNASDST",
        summary="the same with a learnable topology",
        papers=("2101.11342",),
        search=_SEARCH,
        spaces={"darts_any": OnSpace(evaluation=_EVALUATION)},
        quick=DECIDES,
    ),
)
