"""The cells of a search space in NNI's sample dict: the one place that reads and writes these labels and values.

What a cell of kind ``normal`` looks like depends on what its nodes keep:

- a fixed number of connections, as NNI's ``Cell``: ``normal/op_2_0`` and ``normal/input_2_0`` (a list of one) for slot
  0 of node 2, and so on;
- one from every input, as NNI's ``NasBench201Cell``: ``cell/0_1`` for the edge from node 0 to node 1;
- any number, as :class:`search_spaces.FreeCell`: ``normal/node_2`` with a list of ``operation:input``.

Where every edge has its own candidates, an operation is its number on its edge (``"0"``, ``"1"``), since NNI chooses
operation and input independently.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from .cell_graph import CellGraph, Layout

Nodes = Mapping[int, Sequence[tuple[str, int]]]
"""The intermediate nodes of a cell by index, each with its connections (operation, input)."""

_SLOT = re.compile(r"(?P<kind>.+)/(?P<part>op|input)_(?P<target>\d+)_(?P<slot>\d+)")
_EDGE = re.compile(r"(?P<kind>.+)/(?P<source>\d+)_(?P<target>\d+)")
_NODE = re.compile(r"(?P<kind>.+)/node_(?P<target>\d+)")


class Slot(NamedTuple):
    """What a label of NNI's ``Cell`` names: the operation or the input of one slot of a node."""

    kind: str
    target: int
    slot: int
    part: str


def slot_of(label: str) -> Slot | None:
    """Return what ``label`` names if it is one of NNI's ``Cell``, else None."""
    match = _SLOT.fullmatch(label)
    return match and Slot(match["kind"], int(match["target"]), int(match["slot"]), match["part"])


def operation_label(kind: str, target: int, slot: int) -> str:
    """Return NNI's label of the operation in a slot of node ``target``."""
    return f"{kind}/op_{target}_{slot}"


def input_label(kind: str, target: int, slot: int) -> str:
    """Return NNI's label of the input of a slot of node ``target``."""
    return f"{kind}/input_{target}_{slot}"


def node_label(target: int) -> str:
    """Return the label of a node that keeps any number of connections, inside the scope of its cell."""
    return f"node_{target}"


def format_connection(operation: str, source: int) -> str:
    """Return how the value of a node that keeps any number of connections lists one."""
    return f"{operation}:{source}"


def parse_connection(text: str) -> tuple[str, int]:
    """Return (operation, input); inverse of :func:`format_connection`.

    Raises
    ------
    ValueError
        If ``text`` is not ``operation:input``.
    """
    operation, colon, source = str(text).rpartition(":")
    if not colon or not source.isdecimal():
        raise ValueError(f"{text!r} is not a connection; expected operation:input, such as skip_connect:0.")
    return operation, int(source)


def write_cell(nodes: Nodes, kind: str, graph: CellGraph | None = None) -> dict[str, Any]:
    """Return the part of NNI's sample that says what a cell of ``kind`` holds.

    Parameters
    ----------
    nodes
        Its intermediate nodes.
    kind
        NNI's label of the cell.
    graph
        Its graph; None for a cell of a user's own space, which is NNI's ``Cell``.
    """
    sample: dict[str, Any] = {}
    for target, node in nodes.items():
        if graph is not None and graph.connections == "any":
            sample[f"{kind}/{node_label(target)}"] = [format_connection(*connection) for connection in node]
        elif graph is not None and graph.connections == "every input":
            sample |= {f"{kind}/{source}_{target}": operation for operation, source in node}
        else:
            for slot, (operation, source) in enumerate(node):
                sample[operation_label(kind, target, slot)] = _to_candidate(graph, source, target, operation)
                sample[input_label(kind, target, slot)] = [source]
    return sample


def read_cells(
    sample: Mapping[str, Any], layout: Layout
) -> tuple[dict[str, dict[int, list[tuple[str, int]]]], dict[str, Any]]:
    """Return the cells that a sample of NNI describes, by kind and node, and what it chooses besides.

    The inverse of :func:`write_cell`. What a label and its value say is taken as it is; whether the space has such a
    cell is the caller's to check.

    Parameters
    ----------
    sample
        NNI's sample.
    layout
        The graphs of the cells; a kind that is not there is read as NNI's ``Cell``.

    Raises
    ------
    ValueError
        If a value is not what its label promises, or a slot has only one of operation and input.
    """
    found: dict[str, dict[int, dict[int, dict[str, Any]]]] = {}
    choices: dict[str, Any] = {}
    for label, value in sample.items():
        if slot := slot_of(label):
            found_slots = found.setdefault(slot.kind, {}).setdefault(slot.target, {})
            found_slots.setdefault(slot.slot, {})[slot.part] = _input(label, value) if slot.part == "input" else value
        elif (match := _EDGE.fullmatch(label)) and _keeps(layout, match["kind"], "every input"):
            source = int(match["source"])
            found.setdefault(match["kind"], {}).setdefault(int(match["target"]), {})[source] = {
                "op": value,
                "input": source,
            }
        elif (match := _NODE.fullmatch(label)) and _keeps(layout, match["kind"], "any"):
            connections = map(parse_connection, _list(label, value))
            found.setdefault(match["kind"], {})[int(match["target"])] = {
                number: {"op": operation, "input": source} for number, (operation, source) in enumerate(connections)
            }
        else:
            choices[label] = value
    return {kind: _nodes(kind, nodes, layout.get(kind)) for kind, nodes in found.items()}, choices


def _nodes(
    kind: str, found: Mapping[int, Mapping[int, Mapping[str, Any]]], graph: CellGraph | None
) -> dict[int, list[tuple[str, int]]]:
    for target, slots in found.items():
        if any(slot.keys() != {"op", "input"} for slot in slots.values()):
            raise ValueError(f"Node {target} of the {kind} cell needs both an operation and an input per slot.")
    return {
        target: [
            (_from_candidate(graph, slot["input"], target, slot["op"]), slot["input"])
            for _, slot in sorted(found[target].items())
        ]
        for target in sorted(found)
    }


def _keeps(layout: Layout, kind: str, connections: str) -> bool:
    return kind in layout and layout[kind].connections == connections


def _input(label: str, value: Any) -> int:
    """Return the chosen input, which NNI gives as a list of one."""
    only = value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value
    try:
        return int(only)
    except (TypeError, ValueError):
        raise ValueError(f"The sample gives {label} the value {value!r}; expected the number of one input.") from None


def _list(label: str, value: Any) -> Iterable[str]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"The sample gives {label} the value {value!r}; expected a list of operation:input.")
    return value


def _to_candidate(graph: CellGraph | None, source: int, target: int, operation: str) -> str:
    if graph is None or not graph.edge_operations:
        return operation
    return str(graph.operations_on(source, target).index(operation))


def _from_candidate(graph: CellGraph | None, source: int, target: int, candidate: str) -> str:
    """Return the operation that NNI calls ``candidate``; one that the edge does not have stays as it is."""
    if graph is None or not graph.edge_operations or (source, target) not in graph.edges:
        return candidate
    numbered = {str(number): name for number, name in enumerate(graph.operations_on(source, target))}
    return numbered.get(candidate, candidate)
