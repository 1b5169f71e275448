"""Latency tables: sums worked out by hand, the file, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nni_plugins.deploy.latency import random_genotypes
from nni_plugins.report.latency_table import Cell, LatencyTable, Place, fit
from search_spaces import Genotype
from tests.nni_plugins.latency_tables import BCNN, table_of

ALL_SKIP = (("skip_connect", 0), ("skip_connect", 1))


def genotype(*first: tuple[str, int]) -> Genotype:
    """A BCNN genotype of skip connections from the inputs, but for the first node of the convolution cell."""
    cells: dict[str, Any] = {"convolution": (first or ALL_SKIP, *(ALL_SKIP,) * 3), "enhancement": (ALL_SKIP,) * 4}
    return Genotype("bcnn", cells)


def test_a_prediction_is_the_sum_over_all_cells() -> None:
    # 8 skips a cell, 0.1 ms a channel, half at stride 2: cells of 4 and 8 channels reduce, one of 8 does not.
    # The table says twice that, and 4 ms for the rest.
    by_hand = 4 + 2 * 8 * 0.1 * (4 / 2 + 8 / 2 + 8)
    assert table_of().predict(genotype()) == pytest.approx(by_hand)
    # a separable convolution in both convolution cells, at stride 2 from an input
    changed = by_hand + 2 * (0.8 - 0.1) * (4 / 2 + 8 / 2)
    assert table_of().predict(genotype(("sep_conv_3x3", 0), ("skip_connect", 1))) == pytest.approx(changed)


def test_an_edge_between_nodes_has_the_reduced_size_and_stride_one() -> None:
    assert Cell("reduce", 4, 7, 2).place("skip_connect", 1, 2) == Place("skip_connect", 4, 7, 2)
    assert Cell("reduce", 4, 7, 2).place("skip_connect", 2, 2) == Place("skip_connect", 4, 4, 1)
    assert Cell("normal", 4, 7, 1).place("skip_connect", 0, 2) == Place("skip_connect", 4, 7, 1)


def test_the_typical_latency_is_the_mean_of_random_architectures() -> None:
    predicted = [table_of().predict(each) for each in random_genotypes("bcnn", 2000)]
    assert np.mean(predicted) == pytest.approx(table_of().typical_ms(), rel=0.01)


@pytest.mark.parametrize("space", ["bcnn", "darts", "darts_any", "nasbench201", "s1", "s4"])
def test_random_architectures_are_of_the_space(space: str) -> None:
    first, second = random_genotypes(space, 2)
    assert first.space == space and first != second and random_genotypes(space, 2) == [first, second]


def test_the_file_says_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(table_of().to_json())
    assert LatencyTable.load(path) == table_of()


def test_a_fit_finds_the_line_and_no_negative_numbers() -> None:
    assert fit([1, 2, 5], [2.5, 4.5, 10.5]) == pytest.approx((0.5, 2))
    assert fit([1, 2, 3], [1, 2.2, 3.6])[0] == 0
    with pytest.raises(ValueError, match="do not follow the times of their operations"):
        fit([1, 2, 3], [3, 2, 1e-3])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda content: content.pop("fixed_ms"), "it lacks 'fixed_ms'"),
        (lambda content: content.update(format=9), "its format is 9, this program reads 1"),
        (lambda content: content.update(scale=-1), "it has the number -1 where none below 0 can be"),
        (lambda content: content.update(space="moon"), "Unknown search space 'moon'"),
        (lambda content: content["times"].pop(), "it has no time of"),
        (lambda content: content["times"][0].update(ms=float("nan")), "it has the number nan"),
        (lambda content: content["times"][0].update(channels=1.5), "it has the row"),
        (lambda content: content.update(cells=content["cells"][:2]), "it has no enhancement cell"),
        (lambda content: content.update(cells=3), "is not a latency table"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], Any], sentence: str) -> None:
    content = json.loads(table_of().to_json())
    change(content)
    path = tmp_path / "table.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"is not a latency table .*; measure one with nni-plugins latency") as refused:
        LatencyTable.load(path)
    assert sentence in str(refused.value)


def test_no_file_and_no_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no latency table"):
        LatencyTable.load(tmp_path / "nowhere.json")
    (tmp_path / "text.json").write_text("fast")
    with pytest.raises(ValueError, match="is not a latency table"):
        LatencyTable.load(tmp_path / "text.json")


def test_other_networks_are_refused() -> None:
    table = table_of()
    table.refuse_other_network("bcnn", BCNN, source="t.json")
    with pytest.raises(ValueError, match="table of the bcnn space, but the space is darts; measure"):
        table.refuse_other_network("darts", BCNN, source="t.json")
    wider = [replaced._replace(channels=16) for replaced in BCNN]
    with pytest.raises(ValueError, match=r"3 cells of 4@8x8, 8@4x4, 8@2x2, but .* has 3 cells of 16@8x8.*; measure"):
        table.refuse_other_network("bcnn", wider, source="t.json")
    with pytest.raises(ValueError, match="the genotype is of darts"):
        table.predict(random_genotypes("darts", 1)[0])


def test_none_costs_nothing() -> None:
    assert table_of().cost("convolution", "none", 0) == 0
    assert replace(table_of(), scale=1.0).cost("enhancement", "max_pool_3x3", 3) == pytest.approx(0.2 * 8)
