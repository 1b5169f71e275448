"""The sparse relaxation on tables small enough to work out by hand, and at its extremes."""

from __future__ import annotations

import math

import pytest
import torch

from nni_plugins import SparseThreshold
from nni_plugins.supernet.relaxation import Derived
from search_spaces import CellGraph

OPERATIONS = ("pool", "skip", "conv")


def cell_graph(num_nodes: int = 1) -> CellGraph:
    return CellGraph(OPERATIONS, 2, num_nodes, "any")


def logit(p: float) -> float:
    return math.log(p / (1 - p))


# p of the two edges into node 2; the node's maximum is 0.8, the ratios are the rows divided by it
PARAMETERS = {
    "alpha": torch.tensor([[0.8, 0.12, 0.08], [0.4, 0.32, 0.28]], dtype=torch.float64).log(),
    "beta": torch.tensor([logit(0.3)], dtype=torch.float64),
}


def test_weights_of_live_edges_add_up_to_one() -> None:
    # ratios 1, .15, .1 | .5, .4, .35; minus .3: .7, 0, 0 | .2, .1, .05
    weights, edges = SparseThreshold().weights(PARAMETERS, cell_graph())
    expected = torch.tensor([[1, 0, 0], [0.2 / 0.35, 0.1 / 0.35, 0.05 / 0.35]], dtype=torch.float64)
    torch.testing.assert_close(weights, expected)
    torch.testing.assert_close(edges, torch.ones(2, dtype=torch.float64))


def test_weights_normalised_by_node() -> None:
    weights, edges = SparseThreshold(normalize="node").weights(PARAMETERS, cell_graph())
    expected = torch.tensor([[0.7, 0, 0], [0.2, 0.1, 0.05]], dtype=torch.float64) / 1.05
    torch.testing.assert_close(weights, expected)
    torch.testing.assert_close(edges, expected.sum(1))


@pytest.mark.parametrize("normalize", ["edge", "node"])
def test_derives_what_has_weight(normalize) -> None:
    relaxation = SparseThreshold(normalize=normalize)
    derived = relaxation.derive(PARAMETERS, cell_graph())
    assert derived == {2: [Derived(0, 0), Derived(0, 1), Derived(1, 1), Derived(2, 1)]}
    higher = PARAMETERS | {"beta": torch.tensor([logit(0.45)], dtype=torch.float64)}
    assert relaxation.derive(higher, cell_graph()) == {2: [Derived(0, 0), Derived(0, 1)]}
    highest = PARAMETERS | {"beta": torch.tensor([logit(0.6)], dtype=torch.float64)}
    assert relaxation.derive(highest, cell_graph()) == {2: [Derived(0, 0)]}
    weights, edges = relaxation.weights(highest, cell_graph())
    assert weights.tolist() == [[1, 0, 0], [0, 0, 0]]
    assert edges is not None and edges.tolist() == [1, 0]


@pytest.mark.parametrize("normalize", ["edge", "node"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 100.0])
def test_never_leaves_a_node_without_a_connection(scale, dtype, normalize) -> None:
    torch.manual_seed(0)
    graph = cell_graph(num_nodes=4)
    relaxation = SparseThreshold(normalize=normalize)
    for beta in (*range(-20, 21), 1e4):
        parameters = {
            "alpha": (scale * torch.randn(14, 3)).to(dtype),
            "beta": torch.full((4,), float(beta), dtype=dtype),
        }
        weights, edges = relaxation.weights(parameters, graph)
        assert torch.isfinite(weights).all()
        assert (weights >= 0).all()
        assert all(node for node in relaxation.derive(parameters, graph).values())
        for target in graph.targets:
            assert weights[graph.rows(target)].amax() > 0
        live = weights.sum(1) > 0
        if normalize == "edge":
            assert edges is not None
            torch.testing.assert_close(weights.sum(1)[live], torch.ones_like(edges[live]))


def test_starts_uniform() -> None:
    torch.manual_seed(0)
    graph = cell_graph(num_nodes=4)
    weights, _ = SparseThreshold().weights(SparseThreshold().init(graph), graph)
    torch.testing.assert_close(weights, torch.full((14, 3), 1 / 3), rtol=0.02, atol=0)


def test_gradients() -> None:
    torch.manual_seed(0)
    graph = cell_graph(num_nodes=2)
    alpha = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    beta = torch.tensor([-0.5, 0.3], dtype=torch.float64, requires_grad=True)
    for normalize in ("edge", "node"):
        relaxation = SparseThreshold(normalize=normalize)
        assert torch.autograd.gradcheck(
            lambda a, b, r=relaxation: r.weights({"alpha": a, "beta": b}, graph)[0], (alpha, beta)
        )
    weights, _ = SparseThreshold().weights({"alpha": alpha, "beta": beta}, graph)
    gradients = torch.autograd.grad((weights * torch.randn(5, 3)).sum(), (alpha, beta))
    assert all((gradient != 0).any() for gradient in gradients)


def test_dead_edges_pass_finite_gradients() -> None:
    alpha = PARAMETERS["alpha"].clone().requires_grad_()
    beta = torch.tensor([logit(0.6)], dtype=torch.float64, requires_grad=True)
    weights, _ = SparseThreshold().weights({"alpha": alpha, "beta": beta}, cell_graph())
    for gradient in torch.autograd.grad(weights.square().sum() + weights[1].sum(), (alpha, beta)):
        assert torch.isfinite(gradient).all()


def test_refuses_wrong_settings() -> None:
    with pytest.raises(ValueError, match="normalize must be one of edge, node, got 'cell'"):
        SparseThreshold(normalize="cell")  # type: ignore[arg-type]
    for tau in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="tau must be positive"):
            SparseThreshold(tau=tau)
    for decay in (0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="tau_decay must be a number above 0 and at most 1, got"):
            SparseThreshold(tau_decay=decay)
