"""NAS-Bench-201 (arXiv 2001.00326): a cell with four nodes and six edges whose 15,625 architectures are all known."""

from __future__ import annotations

from ..cell_graph import CellGraph
from ..operation_names import NO_OPERATION
from ..spec import SpaceSpec

CELL = "cell"
OPERATIONS = (NO_OPERATION, "skip_connect", "conv_1x1", "conv_3x3", "avg_pool_3x3")

_SGD = {"nesterov": True, "weight_decay": 5e-4}

SPEC = SpaceSpec(
    name="nasbench201",
    layout={CELL: CellGraph(OPERATIONS, num_inputs=1, num_nodes=3, connections="every input")},
    network=f"{__name__}.network:NASBench201",
    published_sizes={"cifar": {"channels": 16, "cells": 5}},
    search=_SGD,
    evaluation={
        "cifar": {
            "epochs": 200, "batch_size": 256, "lr": 0.1, **_SGD, "cutout": 0, "drop_path": 0.0,
            "gradient_clip_val": None,
        }
    },
    quick_search_sizes={"channels": 4, "cells": 1},
    quick_evaluation_sizes={"channels": 8, "cells": 1},
)  # fmt: skip
