"""The broad CNN of BNAS and BNAS-v2 (arXiv 2001.06679, 2009.08886)."""

from __future__ import annotations

from ..cell_graph import CellGraph
from ..operation_names import DARTS_OPERATIONS
from ..spec import SpaceSpec

CONVOLUTION, ENHANCEMENT = "convolution", "enhancement"
_CELL = CellGraph(DARTS_OPERATIONS)
_PUBLISHED_DEPTH = {"blocks": 2, "deep_cells": 2, "enhancement_cells": 2}

SPEC = SpaceSpec(
    name="bcnn",
    layout={CONVOLUTION: _CELL, ENHANCEMENT: _CELL},
    network=f"{__name__}.network:BCNN",
    published_sizes={"cifar": {"channels": 48, **_PUBLISHED_DEPTH}, "imagenet": {"channels": 44, **_PUBLISHED_DEPTH}},
    evaluation={
        "imagenet": {
            "epochs": 250, "batch_size": 256, "lr": 0.1, "weight_decay": 3e-5, "label_smoothing": 0.1, "cutout": 0,
            "drop_path": 0.0,
        }
    },
    quick_search_sizes={"channels": 4},
    quick_evaluation_sizes={"channels": 8, "deep_cells": 1, "enhancement_cells": 1},
)  # fmt: skip
