"""What is measured of a search changes nothing in it, and it is all in the history."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nni_plugins.data import load_data, search_loaders
from nni_plugins.methods.bilevel.metrics import HESSIAN
from nni_plugins.report.decision import DECIDED_GAP, share_changed
from nni_plugins.run.classifier import ImageClassifier
from nni_plugins.run.epoch_metrics import hessian_stop_epoch
from nni_plugins.run.epoch_report import EpochRecord, EpochReport, History
from nni_plugins.run.genotypes import genotype_of_epoch
from nni_plugins.run.recipes import SearchRecipe
from nni_plugins.run.search import SearchResult, search
from nni_plugins.run.settings import Settings
from nni_plugins.run.training import make_trainer, resume_arguments
from search_spaces import Genotype

OVERRIDES: dict[str, Any] = {"epochs": 2, "batch_size": 16, "space.channels": 4, "space.cells": 1}
OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


def run(data: str, folder: Path, strategy: str = "rf_darts", **overrides: Any) -> SearchResult:
    settings = Settings.of(strategy=strategy, space="nasbench201", data=data, seed=2, overrides=OVERRIDES | overrides)
    return search(settings, load_data(data), folder)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A complete table in which a cell's accuracy is its row."""
    ops = np.array(list(itertools.product(range(5), repeat=6)), dtype=np.uint8)
    names = ("cifar10", "cifar100", "imagenet16")
    accuracy: dict[str, Any] = {f"test_{name}": np.arange(len(ops)) / 200 for name in names}
    path = tmp_path_factory.mktemp("table") / "table.npz"
    np.savez(path, ops=ops, op_names=np.array(OPERATIONS), **accuracy)
    return str(path)


@pytest.fixture(scope="module")
def plain(tiny_data: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[SearchResult, Path]:
    folder = tmp_path_factory.mktemp("plain")
    return run(tiny_data, folder), folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "search" / "epoch-0002.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize("watched", ["table", "hessian", "consistency_batches"])
def test_measuring_leaves_the_search_bit_identical(
    watched: str, plain: tuple[SearchResult, Path], table: str, tiny_data: str, tmp_path: Path
) -> None:
    value: Any = {"table": table, "hessian": True, "consistency_batches": 0}[watched]
    result = run(tiny_data, tmp_path, **{watched: value})
    expected, folder = plain
    assert result.genotype == expected.genotype
    before = weights(folder)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(tmp_path).items())
    names = set(result.history[0]) ^ set(expected.history[0])
    assert (
        names
        == {
            "table": {"table_cifar10", "table_cifar100", "table_imagenet16"},
            "hessian": {"hessian"},
            "consistency_batches": {"derived_accuracy", "consistency_gap"},
        }[watched]
    )


def test_the_table_is_asked_for_the_cell_of_the_epoch(table: str, tiny_data: str, tmp_path: Path) -> None:
    for metrics in run(tiny_data, tmp_path, table=table).history:
        genotype = Genotype.from_json(metrics["genotype"])
        names = {"conv_1x1": "nor_conv_1x1", "conv_3x3": "nor_conv_3x3"}
        by_edge = {(source, node): op for node, slots in enumerate(genotype.cells["cell"], 1) for op, source in slots}
        digits = [
            OPERATIONS.index(names.get(by_edge[edge], by_edge[edge]))
            for edge in ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
        ]
        row = sum(digit * 5 ** (5 - place) for place, digit in enumerate(digits))
        assert metrics["table_cifar10"] == pytest.approx(row / 200)


def test_the_four_signs_are_in_the_history(plain: tuple[SearchResult, Path]) -> None:
    for metrics in plain[0].history:
        genotype = Genotype.from_json(metrics["genotype"])
        picks = [operation for node in genotype.cells["cell"] for operation, _ in node]
        free = [op for op in picks if op in ("none", "skip_connect", "avg_pool_3x3")]
        assert metrics["parameter_free"] == metrics["cell_parameter_free"] == len(free)
        assert metrics["skip_connect"] == metrics["cell_skips"] == picks.count("skip_connect")
        assert 0 < metrics["alpha_entropy"] <= np.log(5) + 1e-6
        assert 0 <= metrics["alpha_gap"] < 1


def test_how_far_the_search_has_decided_is_in_the_history(plain: tuple[SearchResult, Path]) -> None:
    first, last = plain[0].history
    for metrics in (first, last):
        assert metrics["decided"] == pytest.approx(1 - metrics["alpha_entropy"] / np.log(5), abs=1e-6)
        assert 0 <= metrics["changed_since_initial"] <= 1
    before, after = (Genotype.from_json(metrics["genotype"]) for metrics in (first, last))
    assert (first["changed_since_first"], first["epochs_unchanged"]) == (0, 0)
    assert last["changed_since_first"] == share_changed(after, before)
    assert last["epochs_unchanged"] == int(before == after)


def test_an_undecided_search_is_told_a_rate_that_decides(
    tiny_data: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    undecided = run(tiny_data, tmp_path / "before", strategy="darts")
    (told,) = (record.getMessage() for record in caplog.records if "has not decided" in record.getMessage())
    assert undecided.history[-1]["alpha_gap"] < DECIDED_GAP
    (rate,) = re.findall(r"--set arch_learning_rate=(\S+) \(it was 0\.0003\)", told)
    caplog.clear()
    decided = run(tiny_data, tmp_path / "after", strategy="darts", arch_learning_rate=rate)
    assert decided.history[-1]["alpha_gap"] > 0.7 * DECIDED_GAP  # a forecast over a factor of some hundred
    assert decided.history[-1]["changed_since_initial"] > 0.3


def test_an_undecided_search_whose_alpha_is_held_back_is_told_so(
    tiny_data: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    overrides: dict[str, Any] = {"strategy": "darts", "arch_learning_rate": 0.5, "epochs": 8}
    run(tiny_data, tmp_path / "held", arch_weight_decay=10.0, **overrides)
    (told,) = (record.getMessage() for record in caplog.records if "has not decided" in record.getMessage())
    assert told.endswith("but its weight decay holds it back: --set arch_weight_decay=0 (it was 10).")
    caplog.clear()
    free = run(tiny_data, tmp_path / "free", arch_weight_decay=0.0, **overrides)
    assert free.history[-1]["alpha_gap"] > DECIDED_GAP
    assert "has not decided" not in caplog.text


def test_where_the_architecture_started_is_known_after_a_resumption(tiny_data: str, tmp_path: Path) -> None:
    overrides: dict[str, Any] = {"strategy": "darts", "arch_learning_rate": 0.1}
    whole = run(tiny_data, tmp_path / "whole", **overrides)
    run(tiny_data, tmp_path / "cut", **overrides)
    for file in (tmp_path / "cut" / "search").glob("epoch-0002*"):
        file.unlink()
    resumed = run(tiny_data, tmp_path / "cut", **overrides)
    for name in ("changed_since_initial", "changed_since_first", "epochs_unchanged", "decided"):
        assert resumed.history[-1][name] == whole.history[-1][name]


def test_the_cell_of_an_earlier_epoch_can_be_taken(plain: tuple[SearchResult, Path]) -> None:
    history = plain[0].history
    assert genotype_of_epoch(history, 1).to_json() == history[0]["genotype"]
    assert genotype_of_epoch(history, 2) == plain[0].genotype
    with pytest.raises(ValueError, match="has the epochs 1 to 2, not 3"):
        genotype_of_epoch(history, 3)


def test_a_search_that_the_eigenvalue_has_stopped_does_not_go_on_when_rerun(tiny_data: str, tmp_path: Path) -> None:
    eigenvalues = [1.0] * 10 + [3.0] * 20
    recipe = SearchRecipe(epochs=20, batch_size=32, hessian_stop=True)
    data = load_data(tiny_data)

    def train() -> History:
        report = EpochReport(
            "search",
            lambda trainer, *_: EpochRecord(trainer.current_epoch, {HESSIAN: eigenvalues[trainer.current_epoch]}),
            stops=lambda history: hessian_stop_epoch(recipe, history) is not None,
        )
        trainer = make_trainer(recipe, tmp_path, report)
        module = ImageClassifier(recipe, 2)
        module.set_model(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)))
        batches, *_ = search_loaders(data, batch_size=32, seed=0, device="cpu")
        trainer.fit(module, batches, **resume_arguments(tmp_path / "search"))
        return report.history

    history = train()
    # means over five epochs: epoch 10 has (1 + 1 + 1 + 1 + 3) / 5 = 1.4 > 1.3 times the 1 of four epochs before
    assert len(history) == 11 and hessian_stop_epoch(recipe, history) == 6
    assert train() == history
