"""The connections of one kind of cell in NNI's sample dict, by what the cell's nodes keep.

A fixed number: ``normal/op_2_0`` and ``normal/input_2_0`` for every slot, as NNI's ``Cell`` has them; one from every
input: ``cell/0_1`` for every edge, as ``NasBench201Cell`` has them; any number: ``normal/node_2`` with a list of
``operation:input``, as :class:`search_spaces.FreeCell` has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nni_plugins.supernet.relaxation import Derived, Topology


def write(connections: Mapping[int, list[Derived]], label: str, topology: Topology) -> dict[str, object]:
    """The part of NNI's sample that says ``connections``."""
    sample: dict[str, object] = {}
    for target, node in connections.items():
        if topology.connections == "any":
            sample[f"{label}/node_{target}"] = [f"{topology.operations[k]}:{source}" for k, source in node]
        elif topology.connections == "every input":
            sample |= {f"{label}/{source}_{target}": topology.operations[k] for k, source in node}
        else:
            for slot, (k, source) in enumerate(node):
                sample[f"{label}/op_{target}_{slot}"] = topology.operations[k]
                sample[f"{label}/input_{target}_{slot}"] = [source]
    return sample


def read(sample: Mapping[str, Any], label: str, topology: Topology) -> dict[int, list[Derived]]:
    """Inverse of :func:`write`.

    Raises
    ------
    ValueError
        If the sample lacks a label of the cell, or names an operation or input that the cell does not have.
    """
    connections = {}
    try:
        for target in topology.targets:
            if topology.connections == "any":
                pairs = [connection.rsplit(":", 1) for connection in sample[f"{label}/node_{target}"]]
            elif topology.connections == "every input":
                pairs = [(sample[f"{label}/{source}_{target}"], source) for source in range(target)]
            else:
                slots = range(topology.connections)
                pairs = [
                    (sample[f"{label}/op_{target}_{slot}"], _only(sample[f"{label}/input_{target}_{slot}"]))
                    for slot in slots
                ]
            node = [Derived(topology.operations.index(operation), int(source)) for operation, source in pairs]
            if not node or any(not 0 <= source < target for _, source in node):
                raise ValueError(f"node {target} has the connections {pairs}")
            connections[target] = node
    except (KeyError, ValueError, AttributeError) as error:
        raise ValueError(
            f"The sample does not describe the {label} cell ({error}); expected operations among "
            f"{', '.join(topology.operations)} for nodes {topology.targets.start} to {topology.targets.stop - 1}."
        ) from None
    return connections


def _only(value: Any) -> Any:
    """NNI gives the chosen input as a list of one."""
    if isinstance(value, (list, tuple)):
        (value,) = value
    return value
