"""Latency tables with made-up times, for tests that measure nothing."""

from __future__ import annotations

from collections.abc import Sequence

from nni_plugins.report.latency_table import Cell, LatencyTable, places

BCNN = (Cell("convolution", 4, 8, 2), Cell("convolution", 8, 4, 2), Cell("enhancement", 8, 2, 1))
"""Cells of BCNN with ``channels=2``, ``deep_cells=0`` and one enhancement cell, on 8x8 images."""
SMALL = {"net.channels": 2, "net.deep_cells": 0, "net.enhancement_cells": 1}
"""The settings that make such a network."""

MILLISECONDS = {
    "max_pool_3x3": 0.2,
    "avg_pool_3x3": 0.3,
    "skip_connect": 0.1,
    "sep_conv_3x3": 0.8,
    "sep_conv_5x5": 1.0,
    "dil_conv_3x3": 0.5,
    "dil_conv_5x5": 0.6,
}
"""Of one channel at stride 1; made up."""


def table_of(
    cells: Sequence[Cell] = BCNN, space: str = "bcnn", machine: str = "a processor", fixed: float = 4.0
) -> LatencyTable:
    times = {p: MILLISECONDS[p.operation] * p.channels / p.stride for p in places(space, cells)}
    return LatencyTable(space, tuple(cells), times, fixed, 2.0, machine, "1.0")
