"""Cells in NNI's sample: each form written and read, against values written out by hand."""

from __future__ import annotations

import re
from typing import Any

import pytest

from search_spaces import CellGraph
from search_spaces.sample_labels import Slot, parse_connection, read_cells, slot_of, write_cell

FIXED = CellGraph(("conv", "skip"), num_inputs=1, num_nodes=2, connections=1)
EVERY = CellGraph(("conv", "skip"), num_inputs=1, num_nodes=2, connections="every input")
ANY = CellGraph(("conv", "skip"), num_inputs=1, num_nodes=2, connections="any")
PER_EDGE = CellGraph(
    ("conv", "pool", "skip"), num_inputs=1, num_nodes=2, connections=1,
    edge_operations=(("conv", "skip"), ("pool", "skip"), ("skip", "conv")),
)  # fmt: skip

FORMS: list[tuple[CellGraph | None, dict[int, list[tuple[str, int]]], dict[str, Any]]] = [
    (FIXED, {1: [("conv", 0)], 2: [("skip", 1)]},
     {"cell/op_1_0": "conv", "cell/input_1_0": [0], "cell/op_2_0": "skip", "cell/input_2_0": [1]}),
    (None, {1: [("conv", 0), ("skip", 0)]},
     {"cell/op_1_0": "conv", "cell/input_1_0": [0], "cell/op_1_1": "skip", "cell/input_1_1": [0]}),
    (EVERY, {1: [("conv", 0)], 2: [("skip", 0), ("conv", 1)]},
     {"cell/0_1": "conv", "cell/0_2": "skip", "cell/1_2": "conv"}),
    (ANY, {1: [("conv", 0), ("skip", 0)], 2: [("skip", 1)]},
     {"cell/node_1": ["conv:0", "skip:0"], "cell/node_2": ["skip:1"]}),
    (PER_EDGE, {1: [("skip", 0)], 2: [("conv", 1)]},
     {"cell/op_1_0": "1", "cell/input_1_0": [0], "cell/op_2_0": "1", "cell/input_2_0": [1]}),
]  # fmt: skip


@pytest.mark.parametrize(("graph", "nodes", "sample"), FORMS)
def test_every_form(graph: CellGraph | None, nodes: dict[int, Any], sample: dict[str, Any]) -> None:
    assert write_cell(nodes, "cell", graph) == sample
    layout = {} if graph is None else {"cell": graph}
    assert read_cells(sample | {"depth": 3}, layout) == ({"cell": nodes}, {"depth": 3})


def test_labels_of_another_form_are_choices() -> None:
    sample = {"cell/0_1": "conv", "cell/node_1": ["conv:0"]}
    assert read_cells(sample, {"cell": FIXED}) == ({}, sample)
    assert read_cells(sample, {}) == ({}, sample)


def test_nodes_and_slots_come_in_order_whatever_the_samples() -> None:
    sample = {"cell/op_10_0": "a", "cell/input_10_0": 9, "cell/input_2_1": [1], "cell/op_2_1": "b", "cell/op_2_0": "c",
              "cell/input_2_0": [0]}  # fmt: skip
    cells, _ = read_cells(sample, {})
    assert list(cells["cell"].items()) == [(2, [("c", 0), ("b", 1)]), (10, [("a", 9)])]


def test_slots() -> None:
    assert slot_of("stage/cell/input_12_3") == Slot("stage/cell", 12, 3, "input")
    assert slot_of("cell/node_2") is None
    assert slot_of("op_2_0") is None


@pytest.mark.parametrize("text", ["conv", "conv:", "conv:x", "conv:-1", 3])
def test_what_is_no_connection(text: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{text!r} is not a connection; expected operation:input")):
        parse_connection(text)


@pytest.mark.parametrize(
    ("graph", "sample", "message"),
    [
        (FIXED, {"cell/op_1_0": "conv", "cell/input_1_0": [0, 0]}, "gives cell/input_1_0 the value [0, 0]; expected"),
        (FIXED, {"cell/op_1_0": "conv", "cell/input_1_0": None}, "gives cell/input_1_0 the value None; expected"),
        (FIXED, {"cell/op_1_0": "conv"}, "Node 1 of the cell cell needs both an operation and an input per slot."),
        (ANY, {"cell/node_1": "conv:0"}, "gives cell/node_1 the value 'conv:0'; expected a list of operation:input."),
        (ANY, {"cell/node_1": ["conv"]}, "'conv' is not a connection"),
    ],
)
def test_wrong_values_are_refused(graph: CellGraph, sample: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read_cells(sample, {"cell": graph})
