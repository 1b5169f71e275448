"""Signs of collapse: hand-computed values, the warning, and RobustDARTS's stop."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from nni_plugins.report.collapse import (
    mean_entropy,
    mean_gap,
    signs,
    skip_warning,
    skips_to_warn_at,
    stop_epoch,
    to_metrics,
)
from search_spaces import Genotype, from_architecture_string, published, space_spec


def darts(*operations: str) -> Genotype:
    """A DARTS genotype whose normal cell starts with these operations; the rest are convolutions."""
    names = [*operations, *["sep_conv_3x3"] * (8 - len(operations))]
    normal: Any = [((names[2 * k], 0), (names[2 * k + 1], 1)) for k in range(4)]
    reduce: Any = [(("max_pool_3x3", 0), ("avg_pool_3x3", 1))] * 4
    return Genotype("darts", {"normal": normal, "reduce": reduce})


def test_signs() -> None:
    table = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    sharp = torch.tensor([[0.7, 0.1, 0.2], [0.0, 1.0, 0.0]])
    genotype = darts("skip_connect", "avg_pool_3x3", "skip_connect")
    found = signs(genotype, {"normal": table, "reduce": sharp})
    normal, reduce = found["normal"], found["reduce"]
    assert (normal.parameter_free, normal.skips, normal.connections) == (3, 2, 8)
    assert (reduce.parameter_free, reduce.skips, reduce.connections) == (8, 0, 8)
    assert normal.entropy == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert normal.gap == 0
    assert reduce.gap == pytest.approx((0.5 + 1.0) / 2)
    metrics = to_metrics(found)
    assert metrics["normal_skips"] == 2
    assert metrics["reduce_parameter_free"] == 8
    assert metrics["reduce_gap"] == reduce.gap
    assert len(metrics) == 8


def test_none_and_noise_are_parameter_free() -> None:
    genotype = from_architecture_string("|none~0|+|none~0|skip_connect~1|+|nor_conv_1x1~0|avg_pool_3x3~1|none~2|")
    found = signs(genotype, {"cell": torch.full((6, 5), 0.2)})["cell"]
    assert (found.parameter_free, found.skips, found.connections) == (5, 1, 6)
    noisy: Any = [(("noise", 0), ("sep_conv_3x3", 1))] * 4
    s4 = Genotype("s4", {"normal": noisy, "reduce": noisy})
    assert signs(s4, dict.fromkeys(("normal", "reduce"), torch.full((14, 2), 0.5)))["normal"].parameter_free == 4


def test_one_candidate_has_no_gap() -> None:
    assert mean_gap(torch.ones(3, 1)) == 0
    assert mean_entropy(torch.ones(3, 1)) == 0


@pytest.mark.parametrize(("skips", "warns"), [(0, False), (1, False), (2, True), (8, True)])
def test_warning_at_two_skips_in_the_normal_cell(skips: int, warns: bool) -> None:
    sentence = skip_warning(darts(*["skip_connect"] * skips))
    assert (sentence is not None) == warns
    if sentence:
        assert sentence.startswith(f"{skips} of 8 connections of the normal cell are skip connections")


def test_warning_looks_at_each_spaces_first_cell() -> None:
    assert skip_warning(published("bnas_v2_pc_v1")) is None  # three skips, all in its enhancement cell
    assert skip_warning(published("darts_v2")) is not None
    all_skip = "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|"
    assert (skip_warning(from_architecture_string(all_skip)) or "").startswith("6 of 6 connections of the cell are")
    assert skip_warning(Genotype("my_module:space", {})) is None


def free(skips: int, convolutions: int) -> Genotype:
    """A genotype of any number of connections, whose normal cell has so many of each, all into its first node."""
    crowd: Any = [(("sep_conv_3x3", 0),)] * 3
    reduce: Any = [(("sep_conv_3x3", 0),)] * 4
    first: Any = [("skip_connect", 0)] * min(skips, 1) + [("skip_connect", 1)] * (skips - 1)
    names = ["sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5", "max_pool_3x3", "avg_pool_3x3"]
    others = [(name, source) for name in names for source in (0, 1)][: convolutions - 3]
    normal: Any = [(*first, *others), *crowd]
    return Genotype("darts_any", {"normal": normal, "reduce": reduce})


@pytest.mark.parametrize(("connections", "skips"), [(1, 2), (4, 2), (6, 2), (8, 2), (9, 3), (12, 3), (13, 4), (98, 25)])
def test_a_quarter_of_the_connections_is_too_many_skips(connections: int, skips: int) -> None:
    assert skips_to_warn_at(connections) == skips


@pytest.mark.parametrize(("convolutions", "warns"), [(4, True), (6, True), (7, False), (13, False)])
def test_warning_for_a_free_topology_goes_by_the_share_of_skips(convolutions: int, warns: bool) -> None:
    sentence = skip_warning(free(2, convolutions))
    assert (sentence is not None) == warns
    if sentence:
        assert sentence.startswith(f"2 of {2 + convolutions} connections of the normal cell are skip connections")


def test_every_connection_of_a_free_topology_is_no_collapse() -> None:
    graph = space_spec("darts_any").layout["normal"]
    everything: Any = [
        [(operation, source) for source in range(target) for operation in graph.operations] for target in graph.targets
    ]
    assert skip_warning(Genotype("darts_any", {"normal": everything, "reduce": everything})) is None


def evaluations(values: list[float], first: int = 0, step: int = 1) -> dict[int, float]:
    return {first + step * k: value for k, value in enumerate(values)}


def test_stop_needs_growth_of_the_moving_average() -> None:
    # means of five: 1 at epoch 6, then (3 + 2 * 2.0) / 5 = 1.4 four evaluations later
    growing = [1.0] * 9 + [2.0, 2.0]
    assert stop_epoch(evaluations(growing)) == 6
    assert stop_epoch(evaluations([1.0] * 9 + [1.75, 1.75])) is None  # 1.3 exactly is not more than 1.3
    assert stop_epoch(evaluations([1.0] * 30)) is None
    assert stop_epoch(evaluations([2.0**-k for k in range(30)])) is None


def test_stop_is_not_early_nor_without_enough_evaluations() -> None:
    doubling = [2.0**k for k in range(11)]
    assert stop_epoch(evaluations(doubling[:10])) is None
    assert stop_epoch(evaluations(doubling)) == 6
    assert stop_epoch(evaluations(doubling[:8], first=20)) is None
    assert stop_epoch(evaluations(doubling[:9], first=20, step=5)) == 40
    assert stop_epoch({}) is None
