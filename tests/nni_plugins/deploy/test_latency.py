"""What is measured for a latency table, and on what; how long anything takes is not tested."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from nni_plugins.cli import main
from nni_plugins.deploy.additions import with_additions
from nni_plugins.deploy.latency import cells_of, measure_table, network_ms, operations_ms, random_genotypes
from nni_plugins.report.latency_table import Cell, LatencyTable, Place
from search_spaces import Genotype, evaluation_net
from search_spaces.genotype import Connection
from tests.nni_plugins.latency_tables import BCNN

SIZES = {"bcnn": {"deep_cells": 0, "enhancement_cells": 1}, "darts": {"layers": 3, "auxiliary": False}}


def net(space: str, seed: int = 0, **sizes: int) -> nn.Module:
    return evaluation_net(
        random_genotypes(space, 1, seed)[0], "cifar10", channels=2, **{**SIZES.get(space, {}), **sizes}
    )


def test_the_cells_of_a_network_are_found_with_their_shapes() -> None:
    assert cells_of(net("bcnn"), 3, 8) == BCNN
    assert cells_of(net("darts"), 3, 8) == (
        Cell("normal", 2, 8, 1), Cell("reduce", 4, 8, 2), Cell("reduce", 8, 4, 2),
    )  # fmt: skip
    assert cells_of(net("darts_any", layers=3), 3, 8)[1:] == (Cell("reduce", 4, 8, 2), Cell("reduce", 8, 4, 2))
    assert cells_of(net("nasbench201", cells=1), 3, 8) == (
        Cell("cell", 2, 8, 1), Cell("cell", 4, 4, 1), Cell("cell", 8, 2, 1),
    )  # fmt: skip


def test_looking_for_cells_leaves_no_trace() -> None:
    looked_at = net("bcnn").train()
    before = {name: value.clone() for name, value in looked_at.state_dict().items()}
    cells_of(looked_at, 3, 8)
    assert looked_at.training and all(torch.equal(before[n], v) for n, v in looked_at.state_dict().items())
    assert not any(module._forward_hooks for module in looked_at.modules())


def test_a_network_without_cells_is_refused() -> None:
    with pytest.raises(ValueError, match="this network has none"):
        cells_of(nn.Sequential(nn.Conv2d(3, 2, 3)), 3, 8)


@pytest.mark.parametrize("space", ["bcnn", "darts"])
def test_additions_change_no_bit(space: str) -> None:
    plain, images = net(space).eval(), torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        expected = plain(images)
        assert torch.equal(with_additions(plain)(images), expected)


@pytest.mark.parametrize(("operation", "stride"), [("sep_conv_3x3", 2), ("max_pool_3x3", 1), ("skip_connect", 2)])
def test_an_operation_is_measured_where_it_stands(operation: str, stride: int) -> None:
    place = Place(operation, 2, 8, stride)
    times = operations_ms([place], runs=3)
    assert times.keys() == {place} and 0 <= times[place] < 1000


def test_measuring_changes_no_network() -> None:
    measured = net("bcnn").train()
    state = {name: value.clone() for name, value in measured.state_dict().items()}
    assert network_ms([measured], torch.randn(1, 3, 8, 8), runs=2)[0] > 0
    assert measured.training and all(torch.equal(state[n], v) for n, v in measured.state_dict().items())


def with_normal_cells_of(operation: str) -> Genotype:
    (drawn,) = random_genotypes("s2", 1)
    normal = tuple(tuple(Connection(operation, each.input) for each in node) for node in drawn.cells["normal"])
    return Genotype("s2", {**drawn.cells, "normal": normal})


def test_a_table_has_every_operation_of_the_network() -> None:
    # so far apart that the noise of a busy machine does not hide which is slower
    genotypes = [with_normal_cells_of(operation) for operation in ("sep_conv_3x3", "skip_connect")]
    table = measure_table(
        "s2",
        lambda genotype: evaluation_net(genotype, "cifar10", channels=16, layers=6, auxiliary=False),
        genotypes,
        in_channels=3,
        image_size=32,
        runs=20,
    )
    assert {place.operation for place in table.times} == {"skip_connect", "sep_conv_3x3"}
    assert table.fixed_ms >= 0 and table.predict(genotypes[0]) > table.fixed_ms
    table.refuse_gaps()


def test_the_command_writes_a_table_that_a_search_takes(tiny_data: str, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    words = f"latency nasbench201 --data {tiny_data} --set net.channels=2 --set net.cells=1 --runs 20 --networks 6"
    assert main([*words.split(), "--out", str(path)]) == 0
    assert LatencyTable.load(path).cells == (Cell("cell", 2, 8, 1), Cell("cell", 4, 4, 1), Cell("cell", 8, 2, 1))
    assert main([*words.split(), "--out", str(path)]) == 2, "the file is there already"
