"""The found architecture: which operations connect which nodes of each kind of cell.

One immutable class and one file format serve every search space of this package and a user's own::

    {
      "format": 1,
      "space": "bcnn",
      "inputs": 2,
      "cells": {"convolution": {"2": [["sep_conv_3x3", 1], ["sep_conv_3x3", 0]], "3": ...}, "enhancement": ...}
    }

A cell's inputs are nodes ``0 .. inputs - 1``; every further node sums its connections ``[operation, from node]``.
"""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from .cell_graph import Layout
from .registry import space_spec
from .sample_labels import read_cells, write_cell
from .spec import SpaceSpec

FORMAT = 1


def is_own_space(space: str) -> bool:
    """Return whether ``space`` refers to a user's own space, ``module:function``, rather than a registered one."""
    return ":" in space


class Connection(NamedTuple):
    """One operation of a cell, applied to node ``input`` and added to the node that holds the connection."""

    operation: str
    input: int


Node = tuple[Connection, ...]


@dataclass(frozen=True)
class Genotype:
    """An architecture of one search space, validated when it is made.

    Parameters
    ----------
    space
        Name of the search space: one of :func:`search_spaces.space_names`, or ``module:function`` for a user's own.
    cells
        For each kind of cell its intermediate nodes in order, each a tuple of ``(operation, input)``.
    choices
        What a user's own space chooses outside of cells: label to value, as in NNI's sample.
    num_inputs
        Number of inputs of every cell.

    Raises
    ------
    ValueError
        If an operation, an input index or the shape does not belong to the space.
    """

    space: str
    cells: Mapping[str, tuple[Node, ...]]
    choices: Mapping[str, Any] = field(default_factory=dict)
    num_inputs: int = 2

    def __post_init__(self) -> None:
        cells = {
            kind: tuple(tuple(Connection(*connection) for connection in node) for node in nodes)
            for kind, nodes in self.cells.items()
        }
        object.__setattr__(self, "cells", MappingProxyType(cells))
        object.__setattr__(self, "choices", MappingProxyType(copy.deepcopy(dict(self.choices))))
        for kind, index, node in self._nodes():
            for operation, source in node:
                if isinstance(source, bool) or not isinstance(source, int) or not 0 <= source < index:
                    raise ValueError(
                        f"Node {index} of the {kind} cell takes {operation} from input {source!r}; "
                        f"expected a node index from 0 to {index - 1}."
                    )
        if not is_own_space(self.space):
            self._check(space_spec(self.space))

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __reduce__(self) -> tuple[Any, ...]:
        return Genotype, (self.space, dict(self.cells), dict(self.choices), self.num_inputs)

    def _nodes(self) -> Iterator[tuple[str, int, Node]]:
        """Return every intermediate node as (kind of cell, node index, connections)."""
        for kind, nodes in self.cells.items():
            for index, node in enumerate(nodes, start=self.num_inputs):
                yield kind, index, node

    def _check(self, spec: SpaceSpec) -> None:
        if set(self.cells) != set(spec.layout):
            raise ValueError(
                f"A genotype of the {self.space} space has the cells {', '.join(spec.layout)}; "
                f"this one has {', '.join(self.cells) or 'none'}."
            )
        if self.num_inputs != spec.num_inputs:
            raise ValueError(
                f"A cell of the {self.space} space has {spec.num_inputs} inputs; this one has {self.num_inputs}."
            )
        for kind, nodes in self.cells.items():
            if len(nodes) != spec.layout[kind].num_nodes:
                raise ValueError(
                    f"The {kind} cell of the {self.space} space has {spec.layout[kind].num_nodes} intermediate nodes; "
                    f"this one has {len(nodes)}."
                )
        for kind, index, node in self._nodes():
            graph = spec.layout[kind]
            where = f"Node {index} of the {kind} cell of the {self.space} space"
            graph.check_connections(where, index, [source for _, source in node])
            twice = next((connection for n, connection in enumerate(node) if connection in node[:n]), None)
            if graph.connections == "any" and twice is not None:
                raise ValueError(
                    f"{where} names {twice.operation} from input {twice.input} twice; name every connection once."
                )
            for operation, source in node:
                valid = graph.operations_on(source, index)
                if operation not in valid:
                    raise ValueError(
                        f"Unknown operation {operation!r} in the {kind} cell of the {self.space} space "
                        f"(edge {source} to {index}); expected one of {', '.join(valid)}."
                    )

    def to_sample(self) -> dict[str, Any]:
        """Return NNI's sample dict of this architecture, as ``ModelSpace.freeze`` and ``model_context`` take it."""
        layout = _layout(self.space)
        sample = copy.deepcopy(dict(self.choices))
        for kind, nodes in self.cells.items():
            sample |= write_cell(dict(enumerate(nodes, self.num_inputs)), kind, layout.get(kind))
        return sample

    @classmethod
    def from_sample(cls, sample: Mapping[str, Any], space: str) -> Genotype:
        """Read the architecture from NNI's sample dict (the result of a strategy, a tuner or ``random()``).

        Raises
        ------
        ValueError
            If the sample does not describe an architecture of ``space``.
        """
        found, choices = read_cells(sample, _layout(space))
        for kind, nodes in found.items():
            missing = set(range(min(nodes), max(nodes))) - set(nodes)
            if missing:
                raise ValueError(f"The {kind} cell of the sample lacks node {min(missing)}.")
        num_inputs = {kind: min(nodes) for kind, nodes in found.items()}
        if len(set(num_inputs.values())) > 1:
            raise ValueError(
                "The cells of a genotype have the same number of inputs; in the sample "
                f"{', '.join(f'{kind} has {number}' for kind, number in num_inputs.items())}."
            )
        cells = {
            kind: tuple(tuple(Connection(*connection) for connection in node) for node in nodes.values())
            for kind, nodes in found.items()
        }
        return cls(space, cells, choices, num_inputs=min(num_inputs.values(), default=2))

    def to_json(self) -> str:
        """Return the genotype as a text that a person can read, one line per node; also the file format."""
        lines = ["{", f'  "format": {FORMAT},', f'  "space": {json.dumps(self.space)},']
        lines.append(f'  "inputs": {self.num_inputs},')
        if self.choices:
            lines.append(f'  "choices": {json.dumps(dict(self.choices), sort_keys=True)},')
        kinds = []
        for kind in sorted(self.cells):
            nodes = ",\n".join(
                f'      "{index}": {json.dumps(node)}' for kind_, index, node in self._nodes() if kind_ == kind
            )
            kinds.append(f"    {json.dumps(kind)}: {{\n{nodes}\n    }}")
        lines += ['  "cells": {', ",\n".join(kinds), "  }", "}"] if kinds else ['  "cells": {}', "}"]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str = "the genotype") -> Genotype:
        """Read :meth:`to_json`'s text; ``source`` names it in error messages.

        Raises
        ------
        ValueError
            If the text is not JSON, has a newer format version or does not describe a valid architecture.
        """
        try:
            content = json.loads(text)
            version = content["format"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(
                f"{source} is not a genotype file: expected JSON with the keys format, space, inputs and cells."
            ) from None
        if version != FORMAT:
            raise ValueError(
                f"{source} has format version {version!r}, this program reads version {FORMAT}; "
                "update nni-plugins to read it."
            )
        try:
            inputs = content["inputs"]
            cells = {
                kind: tuple(
                    tuple(Connection(*connection) for connection in nodes[str(index)])
                    for index in range(inputs, inputs + len(nodes))
                )
                for kind, nodes in content["cells"].items()
            }
            return cls(content["space"], cells, content.get("choices", {}), num_inputs=inputs)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{source} is not a valid genotype: expected every cell to list its nodes, numbered from the number "
                f"of inputs, as [operation, input] pairs ({error!r})."
            ) from None
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None

    def save(self, path: str | Path) -> Path:
        """Write the genotype to ``path`` atomically, replacing an older file only when all is written."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            file.write(self.to_json())
        try:
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
        return path

    @classmethod
    def load(cls, path: str | Path) -> Genotype:
        """Read a genotype file.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is not a valid genotype; the message names the file.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"There is no genotype file at {path}; give the path of a genotype.json.")
        return cls.from_json(path.read_text(encoding="utf-8", errors="replace"), source=str(path))


def _layout(space: str) -> Layout:
    return {} if is_own_space(space) else space_spec(space).layout
