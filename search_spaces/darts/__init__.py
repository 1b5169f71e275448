"""The space of DARTS (arXiv 1806.09055), and those that differ from it in what an edge or a node may hold.

``darts_any`` leaves open how many connections a node keeps, as EnTranNAS-DST (arXiv 2101.11342) searches it; ``s1`` to
``s4`` are the spaces of RobustDARTS (arXiv 1909.09656, section 3) with few candidates an edge, on which DARTS
collapses: S1 has two, others on every edge; S2 {skip_connect, sep_conv_3x3}; S3 adds ``none``; S4 {noise,
sep_conv_3x3}.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from ..cell_graph import CellGraph, Layout
from ..operation_names import DARTS_OPERATIONS, DARTS_OPERATIONS_WITHOUT_NONE
from ..spec import SpaceSpec

NORMAL, REDUCE = KINDS = ("normal", "reduce")


def _spec(name: str, layout: Layout, network: str, arguments: Mapping[str, Any] | None = None) -> SpaceSpec:
    """Return the specification of a space that is searched and evaluated as DARTS is."""
    return SpaceSpec(
        name=name,
        layout=layout,
        network=f"{__name__}.{network}",
        network_arguments=arguments or {},
        published_sizes={
            stem: {"channels": channels, "layers": layers, "auxiliary": True}
            for stem, channels, layers in (("cifar", 36, 20), ("imagenet", 48, 14))
        },
        evaluation={
            "cifar": {"batch_size": 96, "drop_path": 0.2, "auxiliary_weight": 0.4},
            "imagenet": {
                "epochs": 250, "batch_size": 128, "lr": 0.1, "schedule": "exponential", "lr_decay": 0.97,
                "weight_decay": 3e-5, "label_smoothing": 0.1, "cutout": 0, "drop_path": 0.0, "auxiliary_weight": 0.4,
            },
        },
        quick_search_sizes={"channels": 4, "layers": 3},
        quick_evaluation_sizes={"channels": 8, "layers": 5, "auxiliary": False},
    )  # fmt: skip


def _robust_darts_layouts() -> dict[str, Layout]:
    """Return S1 to S4, with the candidates of ``s1_s4.json``."""
    lists: dict[str, Any] = json.loads(files(__package__).joinpath("s1_s4.json").read_text())
    s1 = {}
    for kind in KINDS:
        candidates = tuple(map(tuple, lists["s1"][kind]))
        found = {name for names in candidates for name in names}
        s1[kind] = CellGraph(tuple(name for name in DARTS_OPERATIONS if name in found), edge_operations=candidates)
    return {"s1": s1} | {name: _both(CellGraph(tuple(lists[name]))) for name in ("s2", "s3", "s4")}


def _both(graph: CellGraph) -> Layout:
    return dict.fromkeys(KINDS, graph)


DARTS = _spec("darts", _both(CellGraph(DARTS_OPERATIONS)), "network:DARTSSpace")
DARTS_ANY = _spec(
    "darts_any",
    _both(CellGraph(DARTS_OPERATIONS_WITHOUT_NONE, connections="any")),
    "network:AnyDARTSSpace",
)
ROBUST_DARTS: Mapping[str, SpaceSpec] = {
    name: _spec(name, layout, "network:RobustDARTS", {"space": name})
    for name, layout in _robust_darts_layouts().items()
}
"""S1 to S4 by name."""

SPECS = (DARTS, DARTS_ANY, *ROBUST_DARTS.values())
