"""RelativeNAS (arXiv 2009.06193): slow-fast learning over a continuous encoding of architectures.

``slow_fast`` is the evolution as pure functions and ``encoding`` what its vectors mean; ``one_shot`` searches with a
weight set, ``multi_trial`` with a model per candidate in ``NasExperiment``, ``tuner`` with a trial per candidate under
``nnictl``.
"""

from __future__ import annotations

from types import MappingProxyType

from nni_plugins.methods.spec import LARGE_BATCH, MethodSpec, OnSpace
from search_spaces.operation_names import DARTS_OPERATIONS_WITHOUT_NONE

_QUICK = MappingProxyType(
    {
        "population_size": 6, "epochs": 24, "batch_size": 32, "lr": 0.05, "cutout": 0, "augment_validation": False,
    }
)  # fmt: skip
"""Six learners settle in some 20 generations, the paper's 20 in its 50: 150 trainings here, where six generations of 20
were 140 and had settled nothing. After 15 generations one search of three on NAS-Bench-201 had not settled."""

SPECS = (
    MethodSpec(
        name="relative_nas",
        strategy=f"{__name__}.one_shot:RelativeNAS",
        summary="slow-fast evolution of candidates that share a weight set",
        papers=("2009.06193",),
        search=MappingProxyType(
            {
                "epochs": 50,
                "batch_size": 256,
                "lr": 0.1,
                "lr_min": 0.001,
                "weight_decay": 3e-4,
                "cutout": 16,
                "augment_validation": True,
            }
        ),
        spaces={
            "darts": OnSpace(
                arguments=MappingProxyType({"operations": DARTS_OPERATIONS_WITHOUT_NONE}),
                evaluation=MappingProxyType(
                    {"cifar": MappingProxyType({"batch_size": 128, "drop_path": 0.3}), "imagenet": LARGE_BATCH}
                ),
                sizes=MappingProxyType({"imagenet": MappingProxyType({"channels": 46})}),
            )
        },
        quick=_QUICK,
    ),
)
