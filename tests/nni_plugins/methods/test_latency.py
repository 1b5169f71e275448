"""The latency penalty: expectations and gradients worked out by hand, and searches that follow it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from nni.nas.oneshot.pytorch.profiler import RangeProfilerFilter

from nni_plugins.data import load_data
from nni_plugins.deploy.latency import machine, random_genotypes
from nni_plugins.methods.latency import EdgeCosts, LatencyPenalty, LatencyProfiler, edge_costs, expected_connections
from nni_plugins.methods.spec import SearchMethod
from nni_plugins.run.search import search
from nni_plugins.run.settings import Settings
from nni_plugins.supernet.architecture import CellArchitecture, ChoiceArchitecture
from nni_plugins.supernet.relaxation import EdgeNormalisation, Relaxation, Softmax
from nni_plugins.supernet.threshold import SparseThreshold
from search_spaces.cell_graph import CellGraph
from search_spaces.registry import space_spec
from tests.nni_plugins.latency_tables import SMALL, table_of
from tests.nni_plugins.methods.conformance import timeless

OPERATIONS = ("none", "skip_connect", "sep_conv_3x3")
GRAPH = CellGraph(OPERATIONS, num_inputs=2, num_nodes=1, connections=1)
COSTS = EdgeCosts(
    torch.tensor([[0.0, 1.0, 4.0], [0.0, 2.0, 6.0]]), torch.tensor([[False, True, True], [False, True, True]])
)


def architecture(relaxation: Relaxation, graph: CellGraph = GRAPH, **values: list[Any]) -> CellArchitecture:
    found = CellArchitecture("cell", graph, relaxation)
    for name, value in values.items():
        found.tables[name].data = torch.tensor(value)
    return found


def test_a_connection_is_expected_by_its_weight_among_those_that_can_be_derived() -> None:
    # none has half of the weight of the first edge, and is never derived
    log = torch.tensor([[2.0, 1.0, 1.0], [1.0, 3.0, 1.0]]).log().tolist()
    expected = expected_connections(architecture(Softmax(), alpha=log), COSTS)
    torch.testing.assert_close(expected, torch.tensor([[0, 0.25, 0.25], [0, 0.375, 0.125]]))
    by_edge = architecture(EdgeNormalisation(), alpha=log, beta=torch.tensor([3.0, 1.0]).log().tolist())
    torch.testing.assert_close(
        expected_connections(by_edge, COSTS), torch.tensor([[0, 0.375, 0.375], [0, 0.1875, 0.0625]])
    )


@pytest.mark.parametrize(("relaxation", "connections"), [(Softmax(), "every input"), (SparseThreshold(), "any")])
def test_weights_are_expectations_where_the_number_of_connections_is_not_given(
    relaxation: Relaxation, connections: Any
) -> None:
    graph = CellGraph(OPERATIONS, 2, 1, connections)
    cell = architecture(relaxation, graph)
    torch.testing.assert_close(expected_connections(cell, COSTS), cell.weights()[0])


def test_the_gradient_is_the_one_of_the_formula() -> None:
    cell = architecture(Softmax(), alpha=[[0.0, 0.2, -0.3], [0.5, 0.1, 0.4]])
    (expected_connections(cell, COSTS) * COSTS.costs).sum().backward()
    # by hand: half of p (t - sum p t) for skip and convolution of either edge; none has no part in it
    p = torch.tensor([[0.2, -0.3], [0.1, 0.4]]).softmax(-1)
    t = COSTS.costs[:, 1:]
    by_hand = 0.5 * p * (t - (p * t).sum(-1, keepdim=True))
    gradient = cell.tables["alpha"].grad
    assert gradient is not None
    torch.testing.assert_close(gradient, torch.cat([torch.zeros(2, 1), by_hand], 1))


def test_the_penalty_is_relative_to_the_target_and_only_above_it() -> None:
    limited, everything = LatencyPenalty(table_of(), 0.5, target=10.0), LatencyPenalty(table_of(), 0.5)
    assert limited.of(15.0) == pytest.approx(0.25) and limited.of(9.0) == 0
    typical = table_of().typical_ms()
    assert everything.of(2 * typical) == pytest.approx(0.5) and everything.of(typical / 2) == pytest.approx(-0.25)
    loss, details = limited(torch.tensor(1.0), random_genotypes("bcnn", 1)[0].to_sample())
    assert float(loss) == pytest.approx(1 + limited.of(details["penalty"]))


def test_nni_takes_the_profiler() -> None:
    genotype = random_genotypes("bcnn", 1)[0]
    predicted = table_of().predict(genotype)
    assert RangeProfilerFilter(LatencyProfiler(table_of()), max=predicted + 0.1)(genotype.to_sample())
    assert not RangeProfilerFilter(LatencyProfiler(table_of()), max=predicted - 0.1)(genotype.to_sample())


def test_even_weights_expect_the_typical_latency() -> None:
    cells = []
    for kind, graph in space_spec("bcnn").layout.items():
        cells.append(CellArchitecture(kind, graph, Softmax()))
        cells[-1].tables["alpha"].data.zero_()
        cells[-1].requires_grad_(False)
    table = table_of()
    assert float(LatencyPenalty(table, 1.0).expected(cells)) == pytest.approx(table.typical_ms())
    assert edge_costs(table, "convolution", graph).costs.shape == (14, 8)


def test_a_choice_outside_of_cells_is_refused() -> None:
    with pytest.raises(ValueError, match="head is a choice outside"):
        LatencyPenalty(table_of(), 1.0).expected([ChoiceArchitecture("head", Softmax(), ["a", "b"])])


def test_a_method_that_knows_no_latency_refuses_it() -> None:
    with pytest.raises(ValueError, match="SearchMethod does not let latency count"):
        SearchMethod().limit_latency(LatencyPenalty(table_of(), 1.0))


# Whole searches

ONE_STEP = {
    "epochs": 2, "batch_size": 16, "lr": 0.01, "space.channels": 4, "space.deep_cells": 0,
    "space.enhancement_cells": 1, "consistency_batches": 0, **SMALL,
}  # fmt: skip
STRATEGIES: dict[str, dict[str, Any]] = {
    "bnas_v2_clr": {"arch_learning_rate": 0.1},
    "bnas_v2_pc": {"arch_learning_rate": 0.1, "warmup_epochs": 0, "space.channels": 8},
    "darts_second_order": {"arch_learning_rate": 0.1},
    "rf_darts": {"arch_learning_rate": 0.1},
    "entrannas": {"arch_learning_rate": 0.1},
    "relative_nas": {"cutout": 0, "population_size": 4, "drop_path": 0.0, "population_seed": 1},
}


def settings_of(data: str, table: Path, strategy: str, weight: float) -> Settings:
    table.write_text(table_of(machine=machine()).to_json())
    overrides: dict[str, Any] = {**ONE_STEP, **STRATEGIES[strategy]}
    if strategy == "relative_nas":
        del overrides["consistency_batches"]
    return Settings.of(
        strategy=strategy,
        data=data,
        overrides={**overrides, "latency_table": str(table), "latency_weight": weight},
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_heavy_weight_finds_a_cell_faster_than_most(strategy: str, tiny_data: str, tmp_path: Path) -> None:
    settings = settings_of(tiny_data, tmp_path / "t.json", strategy, weight=1000.0)
    found = search(settings, load_data(tiny_data), tmp_path / "search")
    latency = table_of().predict(found.genotype)
    assert latency < 0.9 * table_of().typical_ms()
    assert found.history[-1]["predicted_latency"] == pytest.approx(latency)
    assert ("expected_latency" in found.history[-1]) == (strategy != "relative_nas")


class Killed(Exception):
    pass


@pytest.mark.parametrize("strategy", ["bnas_v2_pc", "relative_nas"])
def test_a_killed_search_resumes_to_the_same_result(strategy: str, tiny_data: str, tmp_path: Path) -> None:
    data, settings = load_data(tiny_data), settings_of(tiny_data, tmp_path / "t.json", strategy, 1.0)
    whole = search(settings, data, tmp_path / "whole")

    def kill(record: Any) -> None:
        if record.epoch == 1:
            raise Killed

    with pytest.raises(Killed):
        search(settings, data, tmp_path / "killed", kill)
    again = search(settings, data, tmp_path / "killed")
    assert again.genotype == whole.genotype
    assert timeless(again.history) == timeless(whole.history)


def test_the_table_of_another_machine_is_taken_and_told(
    tiny_data: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from nni_plugins.run.latency import load_table

    settings, data = settings_of(tiny_data, tmp_path / "t.json", "bnas_v2_clr", 1.0), load_data(tiny_data)
    with caplog.at_level(logging.WARNING):
        assert load_table(settings, data) is not None and not caplog.records
        (tmp_path / "t.json").write_text(table_of().to_json())
        assert load_table(settings, data) == table_of()
    assert "was measured on a processor" in caplog.text
