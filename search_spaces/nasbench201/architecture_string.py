"""The text by which NAS-Bench-201 knows a cell.

Its benchmarks write an architecture as ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``, node by node, ``op~i`` on the edge from
node i.
"""

from __future__ import annotations

import re

from ..genotype import Connection, Genotype
from . import CELL, OPERATIONS, SPEC

BENCHMARK_NAMES = {"conv_1x1": "nor_conv_1x1", "conv_3x3": "nor_conv_3x3"}
"""What the benchmark calls operations that NNI's hub calls otherwise."""
_HUB_NAMES = {theirs: ours for ours, theirs in BENCHMARK_NAMES.items()}


def to_architecture_string(genotype: Genotype) -> str:
    """Return the benchmark's name of a NAS-Bench-201 cell, such as ``|nor_conv_3x3~0|+|none~0|skip_connect~1|+...``.

    Raises
    ------
    ValueError
        If the genotype belongs to another space.
    """
    if genotype.space != SPEC.name:
        raise ValueError(
            f"Only {SPEC.name} cells have an architecture string, but this genotype belongs to the {genotype.space} "
            f"space; search the {SPEC.name} space to get one."
        )
    nodes = [sorted(node, key=lambda connection: connection.input) for node in genotype.cells[CELL]]
    return "+".join(
        "|" + "".join(f"{BENCHMARK_NAMES.get(operation, operation)}~{source}|" for operation, source in node)
        for node in nodes
    )


def from_architecture_string(text: str) -> Genotype:
    """Return the genotype of an architecture string; inverse of :func:`to_architecture_string`.

    Raises
    ------
    ValueError
        If the string does not parse; the message shows the form that was expected.
    """
    nodes = []
    for index, node in enumerate(text.strip().split("+"), start=1):
        connections = re.findall(r"([^|~]+)~(\d+)\|", node)
        if "|" + "".join(f"{operation}~{source}|" for operation, source in connections) != node:
            raise ValueError(_unreadable(text, f"{node!r} is not |operation~input|...|"))
        named = ((_HUB_NAMES.get(operation, operation), int(source)) for operation, source in connections)
        nodes.append(tuple(Connection(operation, source) for operation, source in named))
        for operation, source in nodes[-1]:
            if operation not in OPERATIONS:
                raise ValueError(_unreadable(text, f"{operation!r} is no operation of the space"))
            if source >= index:
                raise ValueError(_unreadable(text, f"node {index} cannot take input {source}"))
    try:
        return Genotype(SPEC.name, {CELL: tuple(nodes)}, num_inputs=SPEC.num_inputs)
    except ValueError as error:
        raise ValueError(_unreadable(text, str(error).rstrip("."))) from None


def _unreadable(text: str, reason: str) -> str:
    names = ", ".join(BENCHMARK_NAMES.get(operation, operation) for operation in OPERATIONS)
    return (
        f"{text!r} is not a {SPEC.name} architecture string ({reason}); expected |op~0|+|op~0|op~1|+|op~0|op~1|op~2| "
        f"with op one of {names}."
    )
