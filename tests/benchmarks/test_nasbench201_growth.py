"""Growing searches on digits with a table of made-up accuracies, end to end."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nasbench201_contenders import RankingDARTS, RankingEnTranNAS, RankingRelativeNAS, SinglePath
from nasbench201_growth import CONTENDERS, Growth, Size, parse, write_results
from one_shot_ranking import drawn_cells, tau
from pieces import TimeIsUp
from searching import prepare

from nni_plugins.report.nasbench201_table import EDGES, TABLE_DATA_SETS, Table
from nni_plugins.run.classifier import ImageClassifier
from nni_plugins.run.recipes import SearchRecipe
from nni_plugins.supernet.consistency import evaluating
from search_spaces import NASBench201

TINY = [
    *("--images", "96", "--size", "8", "--channels", "2", "--cells", "1", "--epochs", "2", "--batch", "16"),
    *("--long", "3", "--seeds", "1", "--ranked", "6", "--generations", "1", "--population", "4"),
]  # fmt: skip


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete table in which an accuracy is ten times the number of convolutions."""
    ops = np.array(list(itertools.product(range(5), repeat=6)), dtype=np.uint8)
    accuracies: Any = {f"test_{name}": 10.0 * np.isin(ops, (2, 3)).sum(axis=1) for name in TABLE_DATA_SETS}
    names = np.array(["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"])
    path = tmp_path_factory.mktemp("table") / "table.npz"
    np.savez(path, ops=ops, op_names=names, **accuracies)
    return path


def grow(table: Path, output: Path, *more: str) -> Growth:
    prepare(*CONTENDERS.values())
    return Growth(parse(["digits", str(table), *TINY, "--output", str(output), *more]))


def test_growth_on_digits(table: Path, tmp_path: Path) -> None:
    growth = grow(table, tmp_path)
    growth.run()
    assert growth.done.failed == []
    pieces = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "pieces").iterdir()}
    assert len(pieces) == len(CONTENDERS) + 2
    assert list((tmp_path / "work").iterdir()) == []

    page = write_results(growth).read_text()
    results = {(each["contender"], each["epochs"]): each for each in json.loads(page_of(tmp_path).read_text())}
    for contender in CONTENDERS:
        result = results[contender, 1 if contender == "relative_nas" else 2]
        assert len(result["cells"]) == 2  # RelativeNAS's second one is its final pick
        for cell, accuracy in zip(result["cells"], result["cifar10"], strict=True):
            assert accuracy == 10 * cell.count("nor_conv")
        for epoch in result["history"]:
            assert ("one_shot_tau" in epoch) == (contender != "nni_darts")
            assert ("generation_tau" in epoch) == (contender == "relative_nas")
            assert ("hessian" in epoch) == (contender in ("rf_darts", "darts", "bnas_v2_clr", "entrannas"))
            assert all(-1 <= epoch[name] <= 1 for name in ("one_shot_tau", "generation_tau") if name in epoch)
    assert len(results["darts", 3]["cells"]) == len(results["rf_darts", 3]["cells"]) == 3
    for name in ("nasbench201_growth", "nasbench201_growth_ranking", "nasbench201_growth_collapse"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert f"{len(pieces)} of {len(pieces)} searches are done" in page
    last = results["rf_darts", 2]["cifar10"][-1]
    assert f"| C=2 N=1 8x8 | RF-DARTS | {last:.2f} |" in page
    assert f"| C=2 N=1 8x8 | {last - results['darts', 2]['cifar10'][-1]:.2f} |" in page

    again = grow(table, tmp_path)
    again.run()
    assert write_results(again).read_text() == page
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "pieces").iterdir()} == pieces


def page_of(output: Path) -> Path:
    return output / "nasbench201_growth.json"


def test_the_order_is_by_seed_and_then_by_size(table: Path, tmp_path: Path) -> None:
    growth = grow(
        table, tmp_path, *("--channels", "2", "4", "--cells", "1", "3", "--seeds", "2", "--contenders", "darts"),
    )  # fmt: skip
    sizes = [Size(2, 1, 8), Size(4, 1, 8), Size(2, 3, 8), Size(4, 3, 8)]
    order = [(search.contender, search.size, search.seed, search.epochs) for search in growth.searches()]
    assert order == [
        search
        for seed in (0, 1)
        for search in (
            ("darts", sizes[0], seed, 2), ("darts", sizes[0], seed, 3), ("rf_darts", sizes[0], seed, 3),
            *(("darts", size, seed, 2) for size in sizes[1:]),
        )
    ]  # fmt: skip


def test_alpha_has_the_same_path_whatever_the_data(table: Path, tmp_path: Path) -> None:
    growth = grow(table, tmp_path, "--path", "6")
    rates = {
        search: growth.settings(search).choices["arch_learning_rate"]
        for search in growth.searches()
        if search.contender not in ("single_path", "relative_nas")
    }
    assert set(rates.values()) == {1.0}  # 2 epochs of 48 // 16 steps; the long searches at the same rate


def test_hours_end_a_run(table: Path, tmp_path: Path) -> None:
    growth = grow(table, tmp_path, "--hours", "0", "--long", "0")
    with pytest.raises(TimeIsUp):
        growth.run()
    assert "\n0 of 7 searches are done; the same command resumes.\n" in write_results(growth).read_text()


def test_a_long_search_is_longer(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        grow(table, tmp_path, "--long", "2")
    assert "--long must be above --epochs 2, or 0 for no long search, not 2" in capsys.readouterr().err


def test_drawn_cells_have_the_accuracies_of_the_table(table: Path) -> None:
    cells = drawn_cells(Table.load(table), 20)
    assert len({tuple(sample.values()) for sample in cells.samples}) == 20
    for sample, accuracy in zip(cells.samples, cells.accuracies, strict=True):
        assert list(sample) == ["cell/0_1", "cell/0_2", "cell/1_2", "cell/0_3", "cell/1_3", "cell/2_3"]
        assert accuracy == 10 * sum(operation in ("conv_1x1", "conv_3x3") for operation in sample.values())


@pytest.mark.parametrize("kind", [RankingDARTS, RankingEnTranNAS, RankingRelativeNAS, SinglePath])
def test_a_supernet_runs_one_cell_alone(table: Path, kind: Any) -> None:
    torch.manual_seed(0)
    strategy = kind(ranked_by=str(table))
    supernet = strategy.mutate_model(NASBench201(channels=2, cells=2))
    module = strategy.configure_oneshot_module(ImageClassifier(SearchRecipe(), 10))
    module.set_model(supernet)
    images = torch.randn(4, 3, 8, 8)

    def logits(operation: str, on_the_way_out: str) -> torch.Tensor:
        edges = {f"cell/{s}_{t}": on_the_way_out if t == 3 else operation for s, t in EDGES}
        with torch.no_grad(), evaluating(module.model), strategy.running(module, edges):
            return module.model(images)

    cut = logits("conv_3x3", "none")  # nothing reaches the output, all images look the same
    assert torch.equal(cut, cut[:1].expand_as(cut))
    seen = logits("conv_3x3", "skip_connect")
    assert not torch.allclose(seen[0], seen[1])
    assert not torch.allclose(seen, logits("conv_1x1", "skip_connect"))
    assert torch.equal(logits("conv_3x3", "skip_connect"), seen)


def test_tau_of_three_cells() -> None:
    assert tau([1.0, 2.0, 3.0], [10.0, 30.0, 20.0]) == pytest.approx(1 / 3)  # two pairs agree, one does not
    assert tau([1.0, 1.0, 1.0], [10.0, 30.0, 20.0]) == 0.0
    assert tau([1.0], [10.0]) == 0.0
