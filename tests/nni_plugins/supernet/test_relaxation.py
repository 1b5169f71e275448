"""Weights and derivation of the relaxations, on tables small enough to work out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from nni_plugins import EdgeNormalisation, Softmax
from nni_plugins.supernet.relaxation import Derived, strongest_connections
from search_spaces import CellGraph

OPERATIONS = ("none", "pool", "skip", "conv")
NONE, POOL, SKIP, CONV = range(4)


def cell_graph(num_inputs: int = 2, num_nodes: int = 1, connections: Any = 2, operations=OPERATIONS) -> CellGraph:
    return CellGraph(operations, num_inputs, num_nodes, connections)


def logits(*probabilities: list[float]) -> torch.Tensor:
    """Alpha whose softmax is the given table."""
    return torch.tensor(probabilities, dtype=torch.float64).log()


# Numbering


def test_edges_are_numbered_target_by_target() -> None:
    graph = cell_graph(num_inputs=2, num_nodes=3)
    assert graph.edges == [(0, 2), (1, 2), (0, 3), (1, 3), (2, 3), (0, 4), (1, 4), (2, 4), (3, 4)]
    assert [graph.edges[graph.rows(target)] for target in graph.targets] == [
        [(0, 2), (1, 2)],
        [(0, 3), (1, 3), (2, 3)],
        [(0, 4), (1, 4), (2, 4), (3, 4)],
    ]


def test_a_cell_of_four_nodes_has_14_edges() -> None:
    graph = cell_graph(num_inputs=2, num_nodes=4)
    assert Softmax().init(graph)["alpha"].shape == (14, 4)
    parameters = EdgeNormalisation().init(graph)
    assert parameters["alpha"].shape == (14, 4)
    assert parameters["beta"].shape == (14,)


def test_the_initial_parameters_are_small_and_random() -> None:
    torch.manual_seed(0)
    graph = cell_graph(num_inputs=2, num_nodes=40)
    for values in EdgeNormalisation().init(graph).values():
        assert 0.9e-3 < values.std() < 1.1e-3
        assert abs(values.mean()) < 2e-4


# Weights


def test_softmax_over_the_operations_of_every_edge() -> None:
    alpha = torch.tensor([[0.0, math.log(2), math.log(3), math.log(4)], [0.0, 0.0, 0.0, 0.0]])
    weights, edges = Softmax().weights({"alpha": alpha}, cell_graph())
    torch.testing.assert_close(weights, torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]]))
    assert edges is None


def test_edge_normalisation_is_a_softmax_over_the_edges_into_each_node() -> None:
    graph = cell_graph(num_inputs=1, num_nodes=2, connections=1, operations=("a", "b"))
    assert graph.edges == [(0, 1), (0, 2), (1, 2)]
    parameters = {
        "alpha": logits([0.5, 0.5], [0.1, 0.9], [0.4, 0.6]),
        "beta": torch.tensor([7.0, math.log(3), 0.0], dtype=torch.float64),
    }
    weights, edges = EdgeNormalisation().weights(parameters, graph)
    # node 1 has one edge, of weight 1 whatever its beta; node 2 shares 3 to 1
    torch.testing.assert_close(edges, torch.tensor([1, 0.75, 0.25], dtype=torch.float64))
    expected = torch.tensor([[0.5, 0.5], [0.075, 0.675], [0.1, 0.15]], dtype=torch.float64)
    torch.testing.assert_close(weights, expected)


# Derivation


def derive(*table: list[float], **graph) -> list[Derived]:
    described = cell_graph(**graph)
    return Softmax().derive({"alpha": logits(*table)}, described)[described.num_inputs]


def test_the_strongest_edges_are_kept_each_with_its_strongest_operation() -> None:
    kept = derive(
        [0.1, 0.4, 0.3, 0.2],
        [0.1, 0.2, 0.25, 0.45],
        [0.1, 0.1, 0.5, 0.3],
        num_inputs=3,
    )
    assert kept == [Derived(SKIP, 2), Derived(CONV, 1)]


def test_none_is_never_derived_and_does_not_rank() -> None:
    # none holds the largest weight on every edge; edge 0 has the strongest other operation, then edge 2
    kept = derive(
        [0.50, 0.05, 0.40, 0.05],
        [0.70, 0.10, 0.10, 0.10],
        [0.60, 0.05, 0.00001, 0.34999],
        num_inputs=3,
    )
    assert kept == [Derived(SKIP, 0), Derived(CONV, 2)]


def test_none_takes_its_share_of_the_softmax() -> None:
    # by logits edge 1 would win (2 > 1); its none leaves it less weight than edge 0's operation has
    graph = cell_graph(connections=1)
    alpha = torch.tensor([[-5.0, 1.0, -5.0, -5.0], [9.0, 2.0, -5.0, -5.0]])
    assert Softmax().derive({"alpha": alpha}, graph)[2] == [Derived(POOL, 0)]


@pytest.mark.parametrize("position", [0, 1, 2, 3])
def test_none_is_known_by_name_not_by_position(position: int) -> None:
    names = ["a", "b", "c"]
    names.insert(position, "none")
    row = [0.1, 0.2, 0.1]
    row.insert(position, 0.6)
    kept = derive(row, num_inputs=1, connections=1, operations=tuple(names))
    assert [names[d.operation] for d in kept] == ["b"]


def test_without_none_every_operation_counts() -> None:
    assert derive([0.6, 0.4], num_inputs=1, connections=1, operations=("a", "b")) == [Derived(0, 0)]


def test_of_equal_operations_the_first_wins() -> None:
    assert derive([0.1, 0.3, 0.3, 0.3], [0.1, 0.2, 0.35, 0.35]) == [Derived(SKIP, 1), Derived(POOL, 0)]


def test_of_equal_edges_the_first_win() -> None:
    even = [0.25, 0.25, 0.25, 0.25]
    assert derive(even, even, even, even, num_inputs=4) == [Derived(POOL, 0), Derived(POOL, 1)]


def test_a_node_with_too_few_predecessors_takes_their_next_operations() -> None:
    kept = derive([0.1, 0.2, 0.3, 0.4], num_inputs=1, connections=3)
    assert kept == [Derived(CONV, 0), Derived(SKIP, 0), Derived(POOL, 0)]
    kept = derive([0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1], connections=3)
    assert kept == [Derived(CONV, 0), Derived(POOL, 1), Derived(SKIP, 0)]  # both edges before a second operation


def test_edge_normalisation_changes_the_ranking() -> None:
    graph = cell_graph(num_inputs=3, num_nodes=1)
    alpha = logits([0.1, 0.6, 0.2, 0.1], [0.1, 0.1, 0.5, 0.3], [0.1, 0.1, 0.3, 0.5])
    assert Softmax().derive({"alpha": alpha}, graph)[3] == [Derived(POOL, 0), Derived(SKIP, 1)]
    beta = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64).log()
    # products: 0.06, 0.10 and 0.35
    kept = EdgeNormalisation().derive({"alpha": alpha, "beta": beta}, graph)[3]
    assert kept == [Derived(CONV, 2), Derived(SKIP, 1)]


def test_every_node_is_derived_from_its_own_edges() -> None:
    graph = cell_graph(num_inputs=1, num_nodes=2, connections=1)
    alpha = logits([0.1, 0.1, 0.1, 0.7], [0.1, 0.4, 0.3, 0.2], [0.1, 0.2, 0.5, 0.2])
    assert Softmax().derive({"alpha": alpha}, graph) == {1: [Derived(CONV, 0)], 2: [Derived(SKIP, 1)]}


def test_one_operation_from_every_input_none_included() -> None:
    graph = cell_graph(num_inputs=1, num_nodes=2, connections="every input")
    weights = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.1, 0.3, 0.3, 0.3], [0.1, 0.2, 0.3, 0.4]])
    assert strongest_connections(weights, graph) == {
        1: [Derived(NONE, 0)],
        2: [Derived(POOL, 0), Derived(CONV, 1)],
    }


def test_derivation_ignores_gradients_and_keeps_the_parameters() -> None:
    alpha = logits([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4]).requires_grad_()
    before = alpha.detach().clone()
    Softmax().derive({"alpha": alpha}, cell_graph())
    assert torch.equal(alpha, before)
    assert alpha.grad is None


# Temperature


def test_a_decaying_temperature() -> None:
    relaxation = Softmax(tau=5, tau_decay=0.5)
    assert [relaxation.temperature(epoch) for epoch in range(3)] == [5, 2.5, 1.25]
    assert 0 < relaxation.temperature(10_000) <= 1e-6
    assert Softmax().temperature(49) == 1


@pytest.mark.parametrize("relaxation", [Softmax, EdgeNormalisation])
@pytest.mark.parametrize("settings", [{"tau": 0}, {"tau": -1}, {"tau_decay": 0}, {"tau_decay": 1.1}])
def test_a_wrong_temperature_is_refused(relaxation: type, settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"tau.* must be .*, got"):
        relaxation(**settings)
