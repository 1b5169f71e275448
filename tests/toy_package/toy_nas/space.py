"""A search space with one kind of cell, which has one input and two nodes."""

from __future__ import annotations

from search_spaces.cell_graph import CellGraph
from search_spaces.spec import SpaceSpec

SPEC = SpaceSpec(
    name="toy_space",
    layout={"toy": CellGraph(("skip_connect", "sep_conv_3x3"), num_inputs=1, num_nodes=2, connections=1)},
    network="toy_nas.network:ToySpace",
    published_sizes={"cifar": {"channels": 8}},
    evaluation={"cifar": {"drop_path": 0.0, "cutout": 0}},
)
