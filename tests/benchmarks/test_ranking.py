"""Where found cells stand among random ones, against values worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from ranking import (
    Trained,
    correlations,
    depth,
    equally_large,
    figures,
    percentile,
    picture,
    rank_test,
    seed_noise,
    table,
)

from search_spaces import Connection, Genotype


def chain(*inputs: int) -> Genotype:
    nodes = tuple((Connection("skip_connect", source), Connection("skip_connect", 0)) for source in inputs)
    return Genotype("my:SPACE", {"cell": nodes}, num_inputs=2)


def cell(*accuracies: float, parameters: int = 100, **search: float) -> Trained:
    return Trained(chain(1, 1, 1).to_json(), parameters, accuracies, search)


RANDOM = [cell(50.0), cell(60.0), cell(70.0), cell(80.0)]


@pytest.mark.parametrize(
    ("accuracy", "expected"), [(90.0, 100.0), (75.0, 75.0), (70.0, 62.5), (50.0, 12.5), (40.0, 0.0)]
)
def test_a_percentile_counts_ties_half(accuracy: float, expected: float) -> None:
    assert percentile(cell(accuracy), RANDOM) == expected


def test_a_percentile_is_of_means_over_the_seeds_of_a_training() -> None:
    assert percentile(cell(60.0, 70.0), [cell(40.0, 80.0), cell(50.0, 90.0)]) == 50.0  # 65 among 60 and 70


def test_a_percentile_among_nothing_is_unknown() -> None:
    assert percentile(cell(90.0), []) is None


def test_cells_are_equally_large_within_15_percent_of_the_found_one() -> None:
    others = [cell(50.0, parameters=number) for number in (84, 85, 100, 115, 116)]
    assert [other.parameters for other in equally_large(cell(90.0, parameters=100), others)] == [85, 100, 115]


def test_the_rank_test_is_one_sided_and_exact() -> None:
    # of the C(5, 2) = 10 ways to place two cells among five, one has both in front and one has both behind
    better, worse = [cell(90.0), cell(85.0)], [cell(10.0), cell(20.0)]
    assert rank_test(better, RANDOM[:3]) == pytest.approx(1 / 10)
    assert rank_test(worse, RANDOM[:3]) == pytest.approx(1.0)
    assert rank_test([], RANDOM) is None
    assert rank_test(better, []) is None


def test_the_depth_of_a_cell_is_the_mean_of_its_nodes_longest_paths() -> None:
    assert depth(chain(1, 1, 1)) == 1
    assert depth(chain(1, 2, 3)) == 2  # 1, 2 and 3 operations
    assert depth(chain(1, 2, 2)) == pytest.approx(5 / 3)


def test_correlations_with_parameters_and_depth() -> None:
    cells = [
        Trained(genotype.to_json(), parameters, (accuracy,))
        for genotype, parameters, accuracy in [(chain(1, 2), 1, 10.0), (chain(1, 1), 3, 20.0), (chain(1, 1), 2, 30.0)]
    ]
    with_parameters, with_depth = correlations(cells) or (0.0, 0.0)
    assert with_parameters == pytest.approx(0.5)
    assert with_depth == pytest.approx(-(3**0.5) / 2)  # deviations -1, 0, 1 and 2/3, -1/3, -1/3
    assert correlations(cells[:2]) is None


def test_noise_between_seeds_and_between_cells() -> None:
    # variances 2 and 0 of the seeds; means 51 and 60; the last cell has one training and says nothing of seeds
    within, between = seed_noise([cell(50.0, 52.0), cell(60.0, 60.0), cell(99.0)]) or (0.0, 0.0)
    assert within == pytest.approx(1.0)
    assert between == pytest.approx(4.5 * 2**0.5)
    assert seed_noise(RANDOM) is None


def test_the_table_has_a_row_for_every_group() -> None:
    found = figures({"ours": [cell(75.0, seconds=10.0), cell(85.0, seconds=20.0)], "paper": [cell(55.0)]}, RANDOM)
    _, _, ours, paper, random = table(found, RANDOM)
    assert ours.startswith("| ours | 2 x 1 | 80.00 ± 7.07 | 88 ± 18 | 88 ± 18 | 100 ± 0 | 1.0 ± 0.0 | 15 ± 7 |")
    assert paper.startswith("| paper | 1 x 1 | 55.00 | 25 | 25 | 100 | 1.0 |  |")
    assert random.startswith("| random cells | 4 x 1 | 65.00 ± 12.91 | 50 |  | 100 ± 0 | 1.0 ± 0.0 |")
    columns = {line.count("|") for line in (ours, paper, random)}
    assert len(columns) == 1


def test_a_picture_of_what_there_is(tmp_path: Path) -> None:
    for groups, random in (({}, []), ({"ours": [cell(75.0)]}, []), ({"ours": [cell(75.0), cell(80.0)]}, RANDOM)):
        picture(groups, random, "title", tmp_path / "picture.png")
        assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
