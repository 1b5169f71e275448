"""NAS-Bench-201's table: what every cell of the space reaches, looked up in place of training it.

A table tells how good a search was; its test accuracies take part in none. An evolution over whole trials may take the
table's *validation* accuracies in place of training each cell (``--evaluate`` with ``table``).
"""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.genotype import Genotype
from search_spaces.nasbench201 import OPERATIONS
from search_spaces.nasbench201.architecture_string import BENCHMARK_NAMES, to_architecture_string

TABLE_DATA_SETS = ("cifar10", "cifar100", "imagenet16")
_NNI_DATASETS = {"cifar10": "cifar10", "cifar100": "cifar100", "imagenet16": "imagenet16-120"}
EPOCHS = 200
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
"""(source, target) in the order of the architecture string."""

Operations = tuple[str, ...]
"""The operations of a cell on :data:`EDGES`, by the names of this package."""


@dataclass(frozen=True)
class Score:
    """What the table says of one cell.

    Parameters
    ----------
    architecture
        The benchmark's name of the cell.
    accuracy
        Test accuracy in percent, by data set.
    validation
        Validation accuracy in percent, by data set; empty if the table has none.
    rank
        1 for the best cell of the table by test accuracy, by data set; cells of equal accuracy share the better rank.
    cells
        Number of cells in the table; 15,625 in a complete one.
    """

    architecture: str
    accuracy: Mapping[str, float]
    validation: Mapping[str, float]
    rank: Mapping[str, int]
    cells: int

    def to_dict(self) -> dict[str, Any]:
        """Return the score as JSON values."""
        return {
            "architecture": self.architecture,
            "accuracy": dict(self.accuracy),
            "validation": dict(self.validation),
            "rank": dict(self.rank),
            "cells_in_table": self.cells,
        }


@dataclass(frozen=True)
class Table:
    """Test accuracies of NAS-Bench-201 cells after 200 epochs, the mean over seeds.

    Parameters
    ----------
    rows
        Row of every cell.
    accuracy
        Test accuracy in percent, (cells,), by data set.
    validation
        The same for validation images, which a search may see; empty if the table has none.
    """

    rows: Mapping[Operations, int]
    accuracy: Mapping[str, NDArray[np.float64]]
    validation: Mapping[str, NDArray[np.float64]] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def load(cls, path: str | Path) -> Table:
        """Read an ``.npz`` file.

        Its columns are ``op_names`` (operations, by this package's or the benchmark's names), ``ops`` (cells, 6), which
        numbers them on the edges in the order of the architecture string, and ``test_cifar10``, ``test_cifar100`` and
        ``test_imagenet16`` (cells,) in percent; ``valid_cifar10`` and so on if it has them. Others are not read.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is no table; the sentence says what is missing.
        """
        path = Path(path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"There is no table at {path}; give the path of a NAS-Bench-201 .npz file.")
        try:
            with zipfile.ZipFile(path):
                file = np.load(path, allow_pickle=False)
            with file:
                columns = {name: file[name] for name in file.files if name in (*_COLUMNS, *_VALIDATION)}
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError):
            raise ValueError(f"{path} is not an .npz file; expected one with the columns {_wanted()}.") from None
        missing = [name for name in _COLUMNS if name not in columns]
        if missing:
            raise ValueError(f"{path} lacks the columns {', '.join(missing)}; a NAS-Bench-201 table has {_wanted()}.")
        ops = columns["ops"]
        lengths = {name: len(columns[name]) for name in (*_ACCURACIES, *_VALIDATION) if name in columns}
        if ops.ndim != 2 or ops.shape[1] != len(EDGES) or set(lengths.values()) != {len(ops)}:
            raise ValueError(
                f"{path} has ops of shape {ops.shape} and accuracies of lengths {lengths}; expected ops (cells, 6) and "
                "as many accuracies as cells."
            )
        names = [_OUR_NAMES.get(str(name), str(name)) for name in columns["op_names"]]
        if unknown := [name for name in names if name not in OPERATIONS]:
            raise ValueError(f"{path} has the operation {unknown[0]!r}; NAS-Bench-201 has {', '.join(OPERATIONS)}.")
        if ops.size and not 0 <= ops.min() <= ops.max() < len(names):
            raise ValueError(
                f"{path} has operation numbers from {ops.min()} to {ops.max()} for {len(names)} op_names; expected "
                f"numbers from 0 to {len(names) - 1}."
            )
        for name in lengths:
            if not ((columns[name] >= 0) & (columns[name] <= 100)).all():
                raise ValueError(
                    f"{path} has values in {name} that are no accuracies; expected percent, from 0 to 100, and no NaN."
                )
        rows = {tuple(names[k] for k in cell): row for row, cell in enumerate(ops.tolist())}
        return cls(
            MappingProxyType(rows),
            MappingProxyType({name: columns[f"test_{name}"].astype(np.float64) for name in TABLE_DATA_SETS}),
            MappingProxyType(
                {
                    name: columns[f"valid_{name}"].astype(np.float64)
                    for name in TABLE_DATA_SETS
                    if f"valid_{name}" in columns
                }
            ),
        )

    @classmethod
    def from_nni(cls) -> Table:
        """Read NNI's own benchmark database.

        Raises
        ------
        ValueError
            If it, or the package that reads it, is not installed.
        """
        try:
            importlib.import_module("peewee")  # without it, NNI's package raises a NameError
            from nni.nas.benchmark.nasbench201 import query_nb201_trial_stats

            found: dict[str, dict[Operations, float]] = {name: {} for name in TABLE_DATA_SETS}
            for name, accuracies in found.items():
                for trial in query_nb201_trial_stats(None, EPOCHS, _NNI_DATASETS[name], reduction="mean"):
                    edges = trial["config"]["arch"]
                    cell = tuple(edges[f"{source}_{target}"] for source, target in EDGES)
                    accuracies[cell] = trial["test_acc"]
        except (ImportError, FileNotFoundError) as error:
            raise ValueError(
                f"NNI's NAS-Bench-201 database cannot be read ({error}); install peewee below 4 and run "
                "nni.nas.benchmark.download_benchmark('nasbench201'), or give an .npz table."
            ) from None
        cells = sorted(set.intersection(*(set(accuracies) for accuracies in found.values())))
        return cls(
            MappingProxyType({cell: row for row, cell in enumerate(cells)}),
            MappingProxyType({name: np.array([found[name][cell] for cell in cells]) for name in TABLE_DATA_SETS}),
        )


_OUR_NAMES = {theirs: ours for ours, theirs in BENCHMARK_NAMES.items()}
_ACCURACIES = tuple(f"test_{name}" for name in TABLE_DATA_SETS)
_VALIDATION = tuple(f"valid_{name}" for name in TABLE_DATA_SETS)
_COLUMNS = ("op_names", "ops", *_ACCURACIES)


def _wanted() -> str:
    return ", ".join(_COLUMNS)


def score(genotype: Genotype, table: Table) -> Score:
    """Look a cell up.

    Raises
    ------
    ValueError
        If the genotype belongs to another space, or the table does not have it.
    """
    architecture = to_architecture_string(genotype)
    (nodes,) = genotype.cells.values()
    by_edge = {(source, target): operation for target, node in enumerate(nodes, 1) for operation, source in node}
    row = table.rows.get(tuple(by_edge[edge] for edge in EDGES))
    if row is None:
        raise ValueError(
            f"The table does not have the cell {architecture}; it has {len(table.rows)} cells, a complete one has "
            "15625."
        )
    accuracy = {name: float(values[row]) for name, values in table.accuracy.items()}
    validation = {name: float(values[row]) for name, values in table.validation.items()}
    rank = {name: 1 + int((values > values[row]).sum()) for name, values in table.accuracy.items()}
    return Score(
        architecture,
        MappingProxyType(accuracy),
        MappingProxyType(validation),
        MappingProxyType(rank),
        len(table.rows),
    )
