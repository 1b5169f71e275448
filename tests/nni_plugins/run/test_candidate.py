"""One sampled cell, trained for a short time or looked up, and the search-space file that such cells come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nni_plugins.cli import main
from nni_plugins.data import ImageData, load_data
from nni_plugins.deploy.latency import machine
from nni_plugins.methods.relative_nas.encoding import search_space_encoding
from nni_plugins.report.latency_table import Cell, LatencyTable, places
from nni_plugins.run.candidate import evaluate_candidate, look_up_candidate, sample_of
from nni_plugins.run.epoch_report import EpochRecord
from nni_plugins.run.settings import Settings
from search_spaces import Genotype
from search_spaces.operation_names import DARTS_OPERATIONS_WITHOUT_NONE

OVERRIDES = {
    "retrain.epochs": 2, "retrain.batch_size": 16, "retrain.cutout": 0, "net.channels": 4, "net.cells": 1,
    "space.channels": 4, "space.cells": 1,
}  # fmt: skip
EDGES = ("0_1", "0_2", "1_2", "0_3", "1_3", "2_3")
CELL = {f"cell/{edge}": "conv_3x3" for edge in EDGES}


def settings(data: str, **overrides: Any) -> Settings:
    return Settings.of(strategy="relative_nas", space="nasbench201", data=data, overrides=OVERRIDES | overrides)


def space_file(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["space", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


# The search space file


def test_the_darts_file_has_the_papers_32_genes_in_its_order(capsys: pytest.CaptureFixture[str]) -> None:
    choices = space_file(capsys, "darts")
    assert list(choices)[:6] == [
        "normal/input_2_0", "normal/op_2_0", "normal/input_2_1", "normal/op_2_1", "normal/input_3_0", "normal/op_3_0",
    ]  # fmt: skip
    uppers = [float(len(entry["_value"])) for entry in choices.values()]
    assert uppers == [upper for _ in range(2) for node in range(2, 6) for _ in range(2) for upper in (node, 7.0)]
    assert choices["reduce/op_5_1"] == {"_type": "choice", "_value": list(DARTS_OPERATIONS_WITHOUT_NONE)}
    assert search_space_encoding(choices).upper.tolist() == uppers


@pytest.mark.parametrize("space", ["darts", "bcnn", "nasbench201", "s1", "s3"])
def test_every_sample_of_the_file_is_a_cell_of_the_space(
    space: str, tiny_data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    encoding = search_space_encoding(space_file(capsys, space))
    data = load_data(tiny_data)
    chosen = Settings.of(strategy="relative_nas", space=space, data=tiny_data)
    population = np.random.default_rng(0).random((3, len(encoding.upper))) * encoding.upper
    for architecture in encoding.decode(population):
        sample = sample_of(encoding.sample(architecture), chosen, data)
        assert Genotype.from_sample(sample, space).to_sample() == sample


def test_the_file_follows_the_arguments_of_the_space(capsys: pytest.CaptureFixture[str]) -> None:
    choices = space_file(capsys, "darts", "--set", "space.operations=('skip_connect', 'sep_conv_3x3')")
    assert choices["normal/op_2_0"]["_value"] == ["skip_connect", "sep_conv_3x3"]
    assert main(["space", "nasbench201"]) == 0
    assert "cell/0_1" in capsys.readouterr().out


def test_a_space_that_the_file_cannot_say_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["space", "darts_any", "--json"]) == 2
    assert "is not a choice of one value" in capsys.readouterr().err


# The evaluation


def test_a_candidate_is_validated_on_the_half_it_was_not_trained_on(tiny_data: str, tmp_path: Path) -> None:
    epochs: list[EpochRecord] = []
    data: Any = load_data(tiny_data)
    # a test set in which nothing can be right: whoever looks at it would notice
    blind = ImageData(
        name="blind", x_train=data.x_train, y_train=data.y_train, x_test=255 - data.x_test, y_test=data.y_test,
        num_classes=2, flip=False,
    )  # fmt: skip
    arguments: dict[str, Any] = dict(out=tmp_path / "out", on_epoch=epochs.append)
    first = evaluate_candidate(CELL, settings(tiny_data), data, work=tmp_path / "a", **arguments)
    second = evaluate_candidate(CELL, settings(tiny_data), blind, work=tmp_path / "b", **arguments)
    assert first == second
    assert [record.epoch for record in epochs] == [0, 1] * 2
    assert first["default"] == epochs[1].to_dict()["default"] == epochs[1].to_dict()["validation_accuracy"]
    assert (first["default"] / 100 * 64) == pytest.approx(round(first["default"] / 100 * 64)), "64 validation images"
    assert first["parameters"] > 0 and first["multiply_adds"] > 0
    genotype = Genotype.load(tmp_path / "out" / "genotype.json")
    assert genotype == Genotype.from_json(first["genotype"]) and genotype.to_sample() == CELL


def test_memory_that_does_not_hold_a_batch_of_a_candidate_names_the_setting(tiny_data: str, tmp_path: Path) -> None:
    def exhaust(record: EpochRecord) -> None:
        torch.empty(2**60, dtype=torch.uint8)

    sentence = r"^Memory ran out in the evaluation with retrain\.batch_size=16; try retrain\.batch_size=8, "
    with pytest.raises(MemoryError, match=sentence):
        evaluate_candidate(
            CELL, settings(tiny_data), load_data(tiny_data), out=tmp_path / "out", work=tmp_path, on_epoch=exhaust
        )


def test_latency_takes_points_from_a_candidate(tiny_data: str, tmp_path: Path) -> None:
    cells = (Cell("cell", 4, 8, 1), Cell("cell", 8, 4, 1), Cell("cell", 16, 2, 1))
    times = {place: 1.0 for place in places("nasbench201", cells)}
    table = LatencyTable("nasbench201", cells, times, 2.0, 1.0, machine(), "1.0")
    (tmp_path / "t.json").write_text(table.to_json())
    limit = {"latency_table": str(tmp_path / "t.json"), "latency_weight": 0.5, "latency_target": 10}
    data = load_data(tiny_data)
    plain = evaluate_candidate(CELL, settings(tiny_data), data, out=tmp_path / "out", work=tmp_path / "a")
    found = evaluate_candidate(CELL, settings(tiny_data, **limit), data, out=tmp_path / "out", work=tmp_path / "b")
    assert found["predicted_ms"] == pytest.approx(2 + 3 * 6)
    assert found["error"] == pytest.approx(found["predicted_ms"] / found["measured_ms"] - 1)
    assert found["validation_accuracy"] == plain["validation_accuracy"]
    assert found["default"] == pytest.approx(plain["default"] - 100 * 0.5 * (20 / 10 - 1))


TABLE: dict[str, Any] = {
    "ops": np.array([[3] * 6, [1] * 6], dtype=np.uint8),
    "op_names": np.array(["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]),
    **{f"test_{name}": np.array([90.0, 50.0]) for name in ("cifar10", "cifar100", "imagenet16")},
}


def test_a_table_gives_its_validation_accuracy_and_test_accuracies_for_people(tiny_data: str, tmp_path: Path) -> None:
    path = tmp_path / "table.npz"
    np.savez(path, valid_cifar10=np.array([80.0, 40.0]), **TABLE)
    found = look_up_candidate(CELL, settings(tiny_data, table=str(path)), out=tmp_path / "out")
    assert (found["default"], found["table_cifar10"]) == (80.0, 90.0)
    assert (tmp_path / "out" / "genotype.json").is_file()


def test_a_table_without_validation_accuracies_is_refused(tiny_data: str, tmp_path: Path) -> None:
    path = tmp_path / "table.npz"
    np.savez(path, **TABLE)
    with pytest.raises(ValueError, match="no column valid_cifar10; a search may not see test accuracies"):
        look_up_candidate(CELL, settings(tiny_data, table=str(path)), out=tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"cell/0_1": "sep_conv_3x3"}, "sep_conv_3x3"),
        ({"cell/0_1": None}, "cell/0_1"),
        ({"epochs": 3}, "'epochs' is not a choice"),
    ],
)
def test_parameters_of_another_space_are_refused(change: dict[str, Any], reason: str, tiny_data: str) -> None:
    parameters = {name: value for name, value in (CELL | change).items() if value is not None}
    message = r"no architecture of the nasbench201 space .*space nasbench201 --json"
    with pytest.raises(ValueError, match=message) as error:
        sample_of(parameters, settings(tiny_data), load_data(tiny_data))
    assert reason in str(error.value)
