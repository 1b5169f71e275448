"""Found cells against random ones on digits, end to end, and what NNI's strategies draw."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from found_versus_random import NNI_DARTS_CODE, Comparison, parse, write_results
from nni_contenders import POPULATION, evolve, random_cells
from pieces import TimeIsUp
from searching import small_images

from nni_plugins.tools.own_code import allow
from search_spaces import BCNN
from search_spaces.operation_names import DARTS_OPERATIONS_WITHOUT_NONE

ROOT = Path(__file__).parents[2]
STRATEGIES = ["bnas_d", "nni_darts", "nni_evolution"]
TINY = [
    *("digits", "--strategies", *STRATEGIES, "--images", "96", "--size", "8", "--random", "2", "--seeds", "1"),
    *("--epochs", "1", "--batch", "16", "--train-epochs", "1", "--train-batch", "48"),
]  # fmt: skip


def compare(output: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/found_versus_random.py", *TINY, "--output", str(output)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)


def small_space() -> BCNN:
    return BCNN(channels=2, operations=DARTS_OPERATIONS_WITHOUT_NONE)


def test_a_comparison_on_digits(tmp_path: Path) -> None:
    first = compare(tmp_path)
    assert first.returncode == 0, first.stderr
    pieces = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "pieces").iterdir()}
    assert sorted(name.split("_")[0] for name in pieces) == ["evolution", *["search"] * 2, *["training"] * 10]
    assert list((tmp_path / "work").iterdir()) == []

    result = json.loads((tmp_path / "found_versus_random_bcnn.json").read_text())
    random = sorted(cell["accuracy"] for cell in result["random"])
    for strategy in ("bnas_d", "NNI's DARTS", "NNI's evolution"):
        (found,) = result["found"][strategy]["cells"]
        below, equal = (sum(value < found["accuracy"] for value in random), random.count(found["accuracy"]))
        assert found["percentile"] == 100 * (below + equal / 2) / 2
        assert found["seconds"] > 0
        assert '"none"' not in found["genotype"]
    assert 0 < result["found"]["bnas_d"]["cells"][0]["decided"] < 1
    assert 0 < result["found"]["NNI's DARTS"]["cells"][0]["decided"] < 1
    (evolved,) = result["found"]["NNI's evolution"]["cells"]
    assert evolved["seconds"] >= result["found"]["bnas_d"]["cells"][0]["seconds"]  # a budget ends with a candidate

    again = compare(tmp_path)
    assert again.returncode == 0, again.stderr
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "pieces").iterdir()} == pieces
    assert again.stdout == (tmp_path / "found_versus_random_bcnn.md").read_text() + "\n"


def test_a_comparison_ends_with_its_hours_and_says_what_there_is(tmp_path: Path) -> None:
    arguments = parse([*TINY, "--strategies", "bnas_d", "--hours", "0", "--output", str(tmp_path)])
    comparison = Comparison(arguments, small_images(arguments))
    with pytest.raises(TimeIsUp):
        comparison.run()
    assert "| random cells | 0 x 0 |" in write_results(comparison).read_text()


def test_the_first_seed_of_everything_comes_first_and_random_cells_in_turn(tmp_path: Path) -> None:
    arguments = parse(["digits", "--strategies", "bnas_d", "relative_nas", "--random", "3", "--output", str(tmp_path)])
    comparison = Comparison(arguments, small_images(arguments))
    order = [(piece.kind, piece.name) for piece in comparison.pieces()]  # no search is done: no cell to train
    others = ["bnas_v2_clr_v1", "bnas_v2_clr_v2", "bnas_v2_pc_v1", "bnas_v2_pc_v2", "bnas_v2_pc_image"]
    trained = [f"{name}_0" for name in (*others, *(f"random_{n}" for n in range(3)))]
    assert order == [
        ("search", "bnas_d_0"), *(("training", name) for name in trained[:4]),
        ("search", "relative_nas_0"), *(("training", name) for name in trained[4:]),
        ("search", "bnas_d_0"), ("search", "bnas_d_1"), ("search", "relative_nas_0"), ("search", "relative_nas_1"),
    ]  # fmt: skip


def test_nni_s_darts_has_its_own_number_of_epochs_and_travels_as_far(tmp_path: Path) -> None:
    allow(NNI_DARTS_CODE, "strategy")
    arguments = parse(["digits", "--nni-epochs", "2", "--epochs", "6", "--output", str(tmp_path)])
    comparison = Comparison(arguments, small_images(arguments))
    ours, nnis = (comparison.search_of(name, 0) for name in ("bnas_d", "nni_darts"))
    assert ours is not None and nnis is not None
    assert (ours.settings.search.epochs, nnis.settings.search.epochs) == (6, 2)
    rates = [piece.settings.choices["arch_learning_rate"] for piece in (ours, nnis)]
    assert rates[1] == pytest.approx(3 * rates[0], abs=2e-4)


def test_a_published_cell_does_not_take_the_place_of_those_found_by_its_strategy(tmp_path: Path) -> None:
    arguments = parse(["digits", "--space", "darts", "--strategies", "relative_nas", "--output", str(tmp_path)])
    comparison = Comparison(arguments, small_images(arguments))
    cells = {"relative_nas": comparison.random[0], "relative_nas (published)": comparison.published["relative_nas"]}
    search = comparison.search_of("relative_nas", 0)
    assert search is not None
    trainings = [
        comparison.training_of(name, cell, 0)
        for name, cell in zip((search.name, "relative_nas"), cells.values(), strict=True)
    ]
    (tmp_path / "pieces").mkdir()
    for piece, outcome in [
        (search, {"genotype": cells["relative_nas"].to_json(), "seconds": 1.0}),
        *((training, {"accuracy": 90.0, "parameters": 100}) for training in trainings),
    ]:
        (tmp_path / "pieces" / f"{piece.file_name(comparison.data_sha256)}.json").write_text(json.dumps(outcome))
    groups, _ = comparison.collect()
    assert {name: [cell.genotype for cell in found] for name, found in groups.items()} == {
        name: [cell.to_json()] for name, cell in cells.items()
    }


def test_random_cells_can_be_found_by_a_search_and_grow_in_number() -> None:
    cells = random_cells(small_space(), "bcnn", 6, seed=0)
    assert len(set(cells)) == 6
    assert random_cells(small_space(), "bcnn", 3, seed=0) == cells[:3]
    assert random_cells(small_space(), "bcnn", 3, seed=1) != cells[:3]
    assert not any('"none"' in cell.to_json() for cell in cells)


def test_an_evolution_ends_with_its_budget_and_asks_the_same_again() -> None:
    def run() -> list[str]:
        asked: list[str] = []

        def skips(sample: dict[str, object]) -> float:
            asked.append(repr(sample))
            return float(list(sample.values()).count("skip_connect"))

        evolve(small_space(), skips, lambda: len(asked) >= POPULATION + 5, seed=0)
        return asked

    first = run()
    assert len(set(first)) == POPULATION + 5
    assert run() == first


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--strategies", "entrannas"], "--strategies must be among bnas_d, bnas_v2_clr"),
        (["--random", "0"], "--random must be at least 1, not 0"),
        (["--set", "lr"], "is not an assignment"),
    ],
)
def test_bad_arguments(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["digits", *arguments])
    assert sentence in capsys.readouterr().err
