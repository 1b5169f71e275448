"""NAS-Bench-201's table, in miniature: look-up, ranks, both sources, and files that are no table."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nni_plugins.cli import main
from nni_plugins.report.nasbench201_table import TABLE_DATA_SETS, Table, score
from search_spaces import from_architecture_string, published

OP_NAMES = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
# 0-1, 0-2, 1-2, 0-3, 1-3, 2-3
CELLS = [[1, 1, 1, 1, 1, 1], [3, 3, 3, 1, 3, 2], [2, 2, 3, 1, 3, 3], [0, 1, 2, 3, 4, 0]]
BEST = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|"
ASYMMETRIC = "|none~0|+|skip_connect~0|nor_conv_1x1~1|+|nor_conv_3x3~0|avg_pool_3x3~1|none~2|"
COLUMNS: dict[str, Any] = {
    "ops": np.array(CELLS, dtype=np.uint8),
    "op_names": np.array(OP_NAMES),
    "test_cifar10": np.array([54.25, 94.5, 93.75, 80.0], dtype=np.float32),
    "test_cifar100": np.array([15.5, 73.25, 73.5, 73.25], dtype=np.float32),
    "test_imagenet16": np.array([16.25, 46.5, 47.25, 1.0], dtype=np.float32),
    "params_m": np.zeros(4, dtype=np.float32),
}


def write(path: Path, **changes: Any) -> Path:
    columns = {name: value for name, value in (COLUMNS | changes).items() if value is not None}
    np.savez(path, **columns)
    return path


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table.load(write(tmp_path / "table.npz"))


def test_accuracies_and_ranks(table: Table) -> None:
    best = score(from_architecture_string(BEST), table)
    assert best.accuracy == {"cifar10": 94.5, "cifar100": 73.25, "imagenet16": 46.5}
    assert best.rank == {"cifar10": 1, "cifar100": 2, "imagenet16": 2}
    assert best.cells == 4
    asymmetric = score(from_architecture_string(ASYMMETRIC), table)
    assert asymmetric.accuracy == {"cifar10": 80.0, "cifar100": 73.25, "imagenet16": 1.0}
    assert asymmetric.rank == {"cifar10": 3, "cifar100": 2, "imagenet16": 4}
    assert json.loads(json.dumps(asymmetric.to_dict()))["architecture"] == ASYMMETRIC


def test_names_of_the_hub_and_another_order(tmp_path: Path) -> None:
    names = ["avg_pool_3x3", "conv_3x3", "conv_1x1", "skip_connect", "none"]
    path = write(tmp_path / "table.npz", op_names=np.array(names), ops=4 - np.array(CELLS))
    assert score(from_architecture_string(ASYMMETRIC), Table.load(path)).accuracy["cifar10"] == 80.0


def test_a_cell_that_the_table_lacks(table: Table) -> None:
    genotype = from_architecture_string(BEST.replace("skip_connect", "none"))
    with pytest.raises(ValueError, match=r"does not have the cell .* it has 4 cells, a complete one has 15625"):
        score(genotype, table)


def test_a_genotype_of_another_space(table: Table) -> None:
    with pytest.raises(ValueError, match="belongs to the darts space"):
        score(published("darts_v2"), table)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_cifar100": None, "ops": None}, "lacks the columns ops, test_cifar100; a NAS-Bench-201 table has op"),
        ({"ops": np.zeros((4, 5), np.uint8)}, r"has ops of shape \(4, 5\)"),
        ({"test_cifar10": np.zeros(3)}, "accuracies of lengths {'test_cifar10': 3"),
        ({"op_names": np.array(["none", "skip", *OP_NAMES[2:]])}, "has the operation 'skip'; NAS-Bench-201 has none,"),
        ({"op_names": np.array(OP_NAMES[:3])}, "numbers from 0 to 4 for 3 op_names; expected numbers from 0 to 2"),
    ],
)
def test_files_that_are_no_table(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "table.npz", **changes)
    with pytest.raises(ValueError, match=message):
        Table.load(path)


def test_no_file_and_no_npz(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no table at"):
        Table.load(tmp_path / "none.npz")
    for content in (b"", b"text", b"PK\x03\x04 broken"):
        (tmp_path / "text.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"text.npz is not an .npz file; expected one with the columns op_names"):
            Table.load(tmp_path / "text.npz")
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"array.npy is not an .npz file"):
        Table.load(tmp_path / "array.npy")


# NNI's database


@pytest.mark.skipif(importlib.util.find_spec("peewee") is not None, reason="peewee is installed")
def test_nni_database_without_its_package() -> None:
    with pytest.raises(ValueError, match=r"database cannot be read .*peewee.*; install peewee below 4 and run"):
        Table.from_nni()


def test_nni_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peewee")
    from nni.nas.benchmark import utils
    from nni.nas.benchmark.nasbench201 import schema
    from playhouse.sqlite_ext import SqliteExtDatabase

    database = SqliteExtDatabase(str(tmp_path / "nasbench201.db"), autoconnect=True)
    monkeypatch.setitem(utils._loaded_benchmarks, "nasbench201", database)
    monkeypatch.setattr(schema.proxy, "obj", None)
    schema.proxy.initialize(database)
    database.create_tables([schema.Nb201TrialConfig, schema.Nb201TrialStats, schema.Nb201IntermediateStats])
    nni_names = [name.removeprefix("nor_") for name in OP_NAMES]
    edges = ("0_1", "0_2", "1_2", "0_3", "1_3", "2_3")
    for row, cell in enumerate(CELLS):
        for name, theirs in zip(TABLE_DATA_SETS, ("cifar10", "cifar100", "imagenet16-120"), strict=True):
            config = schema.Nb201TrialConfig.create(
                arch=dict(zip(edges, (nni_names[k] for k in cell), strict=True)),
                num_epochs=200, dataset=theirs, num_channels=16, num_cells=5,
            )  # fmt: skip
            for seed, difference in ((777, -1), (888, 1)):
                numbers = {field: 0.0 for field in schema.Nb201TrialStats._meta.sorted_field_names}
                numbers |= {"config": config, "seed": seed, "test_acc": COLUMNS[f"test_{name}"][row] + difference}
                schema.Nb201TrialStats.create(**{k: v for k, v in numbers.items() if k != "id"})
    found = score(from_architecture_string(ASYMMETRIC), Table.from_nni())
    assert found.accuracy == {"cifar10": 80.0, "cifar100": 73.25, "imagenet16": 1.0}
    assert found.rank == {"cifar10": 3, "cifar100": 2, "imagenet16": 4}


def test_the_command_prints_accuracies_and_ranks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write(tmp_path / "table.npz"))
    assert main(["score", BEST, "--table", path, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["accuracy"]["cifar10"] == 94.5 and found["rank"]["cifar100"] == 2
    genotype = from_architecture_string(ASYMMETRIC).save(tmp_path / "genotype.json")
    assert main(["score", str(genotype), "--table", path]) == 0
    assert "80.0" in capsys.readouterr().out
    assert main(["score", "darts_v2", "--table", path]) == 2
    assert "search the nasbench201 space" in capsys.readouterr().err
    assert main(["score", BEST, "--table", str(tmp_path / "none.npz")]) == 2
    assert "give the path of a NAS-Bench-201 .npz file" in capsys.readouterr().err


def test_validation_accuracies_are_read_where_there_are_any(tmp_path: Path, table: Table) -> None:
    assert score(from_architecture_string(BEST), table).validation == {}
    path = write(tmp_path / "validation.npz", valid_cifar10=np.array([1.0, 2.0, 3.0, 4.0]))
    assert score(from_architecture_string(BEST), Table.load(path)).validation == {"cifar10": 2.0}
