"""EnTranNAS and EnTranNAS-DST (arXiv 2101.11342): Engine-cells search, Transit-cells run what is derived so far."""

from __future__ import annotations

from types import MappingProxyType

from nni_plugins.methods.bilevel.quick import DECIDES
from nni_plugins.methods.spec import LARGE_BATCH, MethodSpec, OnSpace
from search_spaces.operation_names import DARTS_OPERATIONS_WITHOUT_NONE

_SEARCH = MappingProxyType({"epochs": 50, "batch_size": 256, "lr": 0.1, "lr_min": 0.001, "weight_decay": 3e-4})

_EVALUATION = MappingProxyType({"imagenet": LARGE_BATCH})

_DST_QUICK = MappingProxyType({"arch_learning_rate": 0.2})
"""Adam moves alpha and beta by about its rate in a step. An operation is cut off once its alpha is ln 2 below the
strongest's: a matter of 5,000 steps at the published rate, while a quick search on digits has 25."""

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
        quick=_DST_QUICK,
    ),
)
