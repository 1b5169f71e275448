"""Cells to draw: published ones, and some of other shapes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from search_spaces import published, published_names


def cell(text: str) -> Any:
    """Nodes from ``operation,input operation,input / ...``."""
    nodes = [[connection.split(",") for connection in node.split()] for node in text.split("/")]
    return tuple(tuple((name, int(source)) for name, source in node) for node in nodes)


def genotype_like(space: str, num_inputs: int = 2, **cells: str) -> Any:
    return SimpleNamespace(space=space, num_inputs=num_inputs, cells={kind: cell(text) for kind, text in cells.items()})


GENOTYPES: dict[str, Any] = {
    **{name: published(name) for name in published_names()},
    "darts_v2": genotype_like(
        "darts",
        normal="sep_conv_3x3,0 sep_conv_3x3,1 / sep_conv_3x3,0 sep_conv_3x3,1 / sep_conv_3x3,1 skip_connect,0 / "
        "skip_connect,0 dil_conv_3x3,2",
        reduce="max_pool_3x3,0 max_pool_3x3,1 / skip_connect,2 max_pool_3x3,1 / max_pool_3x3,0 skip_connect,2 / "
        "skip_connect,2 max_pool_3x3,1",
    ),
    "nasbench201": genotype_like(
        "nasbench201", 1, cell="conv_3x3,0 / none,0 conv_3x3,1 / skip_connect,0 conv_1x1,1 avg_pool_3x3,2"
    ),
    "dense": genotype_like(
        "darts",
        normal="sep_conv_3x3,0 skip_connect,0 sep_conv_3x3,1 max_pool_3x3,1 / sep_conv_3x3,0 dil_conv_5x5,2 / "
        "sep_conv_5x5,1 skip_connect,2 dil_conv_3x3,3 / skip_connect,0 sep_conv_3x3,4",
        reduce="max_pool_3x3,0 / skip_connect,2 avg_pool_3x3,2 sep_conv_3x3,2 skip_connect,0 / dil_conv_3x3,3 / "
        "sep_conv_3x3,4 skip_connect,3",
    ),
    "one_node": genotype_like("mine:space", 3, cell="sep_conv_3x3,2"),
    "seven_nodes": genotype_like("mine:space", 1, cell=" / ".join(f"conv_3x3,{at} conv_1x1,0" for at in range(7))),
}
