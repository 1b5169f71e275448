"""A table of operation times, and what it predicts of a cell's network: one file, read without torch.

    latency = fixed + scale * sum over the network's cells c and the connections (k, i -> j) of c of  t[k, C_c, S_c, s]

``t`` are the times of single operations, by operation ``k``, channels ``C``, side of the cell's inputs ``S`` in pixels
and stride ``s``, measured inside nodes as cells have them. ``fixed`` (stem, preprocessing of the cells' inputs,
classifier) and ``scale`` are fitted to whole networks of random architectures. ``nni_plugins.deploy.latency`` measures
all of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import nnls

from nni_plugins.tools.atomic_files import strict_json
from search_spaces.genotype import Genotype
from search_spaces.operation_names import NO_OPERATION
from search_spaces.registry import space_spec

FORMAT = 1


class Place(NamedTuple):
    """Where an operation stands: its width, the side of the cell's inputs in pixels, and its stride."""

    operation: str
    channels: int
    size: int
    stride: int


class Cell(NamedTuple):
    """A cell of an evaluation network: its kind, its node width, the side of its inputs, and 2 if it halves that."""

    kind: str
    channels: int
    size: int
    stride: int

    def place(self, operation: str, source: int, num_inputs: int) -> Place:
        """Return where ``operation`` stands on an edge that leaves node ``source``."""
        if self.stride == 1:
            return Place(operation, self.channels, self.size, 1)
        if source < num_inputs:
            return Place(operation, self.channels, self.size, self.stride)
        return Place(operation, self.channels, self.size // self.stride + self.size % self.stride, 1)


@dataclass(frozen=True)
class LatencyTable:
    """Times of the operations of one space in evaluation networks of one size, and how they add up.

    Parameters
    ----------
    space
        Name of the search space.
    cells
        The cells of the evaluation network, in its order.
    times
        Milliseconds of one operation, one image.
    fixed_ms, scale
        What the rest of the network takes, and the factor on the sum of the operations' times.
    machine, onnxruntime, threads
        What it was measured on: the processor, the version, the number of threads.
    """

    space: str
    cells: tuple[Cell, ...]
    times: Mapping[Place, float]
    fixed_ms: float
    scale: float
    machine: str
    onnxruntime: str
    threads: int = 1

    @classmethod
    def load(cls, path: str | Path) -> LatencyTable:
        """Read a file that ``nni-plugins latency`` has written.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is no latency table, or lacks an operation that its network can have.
        """
        path = Path(path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"There is no latency table at {path}; nni-plugins latency measures one.")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ValueError(f"its format is {content['format']!r}, this program reads {FORMAT}")
            table = cls(
                space=content["space"],
                cells=tuple(Cell(*cell) for cell in _rows(content["cells"], Cell)),
                times=MappingProxyType(
                    {Place(*row[:-1]): _milliseconds(row[-1]) for row in _rows(content["times"], Place, "ms")}
                ),
                fixed_ms=_milliseconds(content["fixed_ms"]),
                scale=_milliseconds(content["scale"]),
                machine=str(content["machine"]),
                onnxruntime=str(content["onnxruntime"]),
                threads=int(content["threads"]),
            )
            table.refuse_gaps()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
            raise ValueError(
                f"{path} is not a latency table ({reason}); measure one with nni-plugins latency."
            ) from None
        return table

    def to_json(self) -> str:
        """Return the table as text, the format of its file: one line a cell and an operation."""
        head = {
            "format": FORMAT,
            "space": self.space,
            "machine": self.machine,
            "onnxruntime": self.onnxruntime,
            "threads": self.threads,
            "fixed_ms": round(self.fixed_ms, 6),
            "scale": round(self.scale, 6),
        }
        lines = strict_json(head)[:-2] + ",\n"
        cells = [cell._asdict() for cell in self.cells]
        times = [{**place._asdict(), "ms": round(ms, 6)} for place, ms in self.times.items()]
        for name, rows in (("cells", cells), ("times", times)):
            body = ",\n".join(f"    {strict_json(row, indent=None)}" for row in rows)
            lines += f'  "{name}": [\n{body}\n  ]' + (",\n" if name == "cells" else "\n}\n")
        return lines

    def refuse_gaps(self) -> None:
        """Refuse a table that does not know all that a network of its space can have.

        Raises
        ------
        ValueError
            With the operation, or the kind of cell, that is missing.
        """
        layout = space_spec(self.space).layout
        if missing := set(layout) - {cell.kind for cell in self.cells}:
            raise ValueError(f"it has no {min(missing)} cell")
        for place in places(self.space, self.cells):
            if place not in self.times:
                raise ValueError(f"it has no time of {' '.join(map(str, place))}")

    def cost(self, kind: str, operation: str, source: int) -> float:
        """Return what a connection adds to the network's latency, summed over all cells of its kind, in milliseconds.

        Parameters
        ----------
        kind, operation, source
            Kind of cell, operation (``none`` costs nothing), and the node that the connection leaves.
        """
        num_inputs = space_spec(self.space).num_inputs
        here = [cell.place(operation, source, num_inputs) for cell in self.cells if cell.kind == kind]
        return 0.0 if operation == NO_OPERATION else self.scale * sum(self.times[place] for place in here)

    def predict(self, genotype: Genotype) -> float:
        """Return the latency of the network of ``genotype``, in milliseconds for one image.

        Raises
        ------
        ValueError
            If the genotype belongs to another space.
        """
        if genotype.space != self.space:
            raise ValueError(
                f"The latency table is of the {self.space} space, but the genotype is of {genotype.space}; measure a "
                f"table of it with nni-plugins latency {genotype.space}."
            )
        return self.fixed_ms + sum(
            self.cost(kind, operation, source)
            for kind, nodes in genotype.cells.items()
            for node in nodes
            for operation, source in node
        )

    def typical_ms(self) -> float:
        """Return the mean prediction over architectures whose nodes draw inputs and operations evenly, milliseconds."""
        total = self.fixed_ms
        for kind, graph in space_spec(self.space).layout.items():
            for target in graph.targets:
                kept = graph.connections if isinstance(graph.connections, int) else target
                for source in range(target):
                    names = graph.operations_on(source, target)
                    chosen = [name for name in names if name != NO_OPERATION or graph.connections == "every input"]
                    mean = sum(self.cost(kind, name, source) for name in chosen) / len(chosen)
                    total += kept / target * mean
        return total

    def refuse_other_network(self, space: str, cells: Sequence[Cell], *, source: str) -> None:
        """Refuse to speak of networks other than those that were measured.

        Parameters
        ----------
        space, cells
            Of the networks in question.
        source
            Name of the table's file.

        Raises
        ------
        ValueError
            With the first difference.
        """
        advice = (
            f"measure a table of it with nni-plugins latency {space} --out FILE and the same --data and net.* settings"
        )
        if space != self.space:
            raise ValueError(
                f"{source} is a latency table of the {self.space} space, but the space is {space}; {advice}."
            )
        if tuple(cells) != self.cells:
            raise ValueError(
                f"{source} was measured on networks with {in_words(self.cells)}, but this run's evaluation network has "
                f"{in_words(cells)}; {advice}."
            )


def places(space: str, cells: Iterable[Cell]) -> list[Place]:
    """Return where operations of a space can stand in a network with ``cells``, each once and ``none`` left out."""
    layout, num_inputs = space_spec(space).layout, space_spec(space).num_inputs
    return list(
        dict.fromkeys(
            cell.place(operation, source, num_inputs)
            for cell in cells
            for source, target in layout[cell.kind].edges
            for operation in layout[cell.kind].operations_on(source, target)
            if operation != NO_OPERATION
        )
    )


def in_words(cells: Sequence[Cell]) -> str:
    """Return how many cells there are, and the channels and the sides of their inputs."""
    shapes = dict.fromkeys(f"{cell.channels}@{cell.size}x{cell.size}" for cell in cells)
    return f"{len(cells)} cells of {', '.join(shapes)}"


def fit(sums: Sequence[float], measured: Sequence[float]) -> tuple[float, float]:
    """Return ``fixed_ms`` and ``scale``, neither below 0, with the least squared relative error over networks.

    Parameters
    ----------
    sums
        For each network the sum of its operations' times.
    measured
        Its latency, milliseconds.

    Raises
    ------
    ValueError
        If the networks do not tell the two apart, or larger sums did not take longer.
    """
    x, y = np.asarray(sums, dtype=float), np.asarray(measured, dtype=float)
    fixed, scale = nnls(np.stack([1 / y, x / y], axis=1), np.ones(len(y)))[0]
    if len(y) < 2 or scale == 0:
        raise ValueError(
            f"The latencies of {len(y)} networks do not follow the times of their operations; measure more networks "
            "(--networks), or when the machine is less busy."
        )
    return float(fixed), float(scale)


def _rows(rows: list[dict[str, Any]], kind: type[tuple[Any, ...]], *others: str) -> Iterator[list[Any]]:
    for row in rows:
        values = [row[name] for name in (*kind._fields, *others)]  # type: ignore[attr-defined]
        whole = values[1 : len(kind._fields)]  # type: ignore[attr-defined]
        if not isinstance(values[0], str) or not all(type(value) is int and value > 0 for value in whole):
            raise ValueError(f"it has the row {row}")
        yield values


def _milliseconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise ValueError(f"it has the number {value!r} where none below 0 can be")
    return float(value)
