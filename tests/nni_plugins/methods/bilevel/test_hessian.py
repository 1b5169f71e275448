"""The dominant Hessian eigenvalue against matrices and a full Hessian."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nni_plugins import RFDARTS, BilevelSearch, FirstOrderDARTS
from nni_plugins.methods.bilevel.hessian import architecture_eigenvalue, dominant_eigenvalue
from search_spaces import DARTSSpace, NASBench201
from tests.nni_plugins.methods.searching import Probe, mutated, of_architecture, search


def quadratic(eigenvalues: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """A loss with the given Hessian eigenvalues in a random basis, and its parameters."""
    torch.manual_seed(1)
    size = len(eigenvalues)
    basis, _ = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))
    hessian = basis @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T
    point = torch.randn(size, dtype=torch.float64, requires_grad=True)
    return 0.5 * point @ hessian @ point, point


@pytest.mark.parametrize(
    ("eigenvalues", "expected"),
    [
        ([3.0, 1.0, 0.5], 3.0),
        ([1.0, -4.0, 2.0], -4.0),
        ([2.0], 2.0),
        ([5.0, 5.0, 5.0], 5.0),
        ([0.0, 0.0], 0.0),
        ([0.01 * k for k in range(99)] + [2.0], 2.0),
    ],
)
def test_known_matrices(eigenvalues: list[float], expected: float) -> None:
    loss, point = quadratic(eigenvalues)
    assert dominant_eigenvalue(loss, [point]) == pytest.approx(expected, abs=1e-6)


def test_opposite_eigenvalues_which_power_iteration_cannot_tell_apart() -> None:
    loss, point = quadratic([4.0, -3.999, 1.0, 0.5, -2.0])
    assert dominant_eigenvalue(loss, [point]) == pytest.approx(4.0, abs=1e-6)


def test_several_parameters_some_of_them_unused() -> None:
    first, second, unused = (torch.ones(2, dtype=torch.float64, requires_grad=True) for _ in range(3))
    loss = first.pow(2).sum() + 3 * second[0] * first[1]
    assert dominant_eigenvalue(loss, [first, second, unused]) == pytest.approx(1 + 10**0.5)


@pytest.mark.parametrize("strategy", [FirstOrderDARTS, RFDARTS])
def test_against_the_full_hessian_of_a_tiny_net(strategy: type[BilevelSearch]) -> None:
    chosen = strategy()
    net = mutated(chosen, NASBench201, channels=2, cells=1, num_classes=3).double()
    alphas = list(of_architecture(net).values())
    with torch.no_grad():
        for alpha in alphas:
            alpha.normal_()
    images, labels = torch.randn(6, 3, 8, 8, dtype=torch.float64), torch.arange(6) % 3
    loss = F.cross_entropy(net(images), labels)
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, alphas, create_graph=True)])
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(entry, alphas, retain_graph=True)]) for entry in gradient
    ]
    eigenvalues = torch.linalg.eigvalsh(torch.stack(rows))
    expected = float(eigenvalues[eigenvalues.abs().argmax()])
    assert dominant_eigenvalue(loss, alphas, steps=30) == pytest.approx(expected, rel=1e-6)
    assert dominant_eigenvalue(loss, alphas, steps=10) == pytest.approx(expected, rel=1e-2)


def test_a_search_goes_on_as_if_it_had_not_been_asked() -> None:
    results = []
    for asks in (False, True):
        strategy = FirstOrderDARTS()
        net = mutated(strategy, DARTSSpace, channels=4, layers=3, num_classes=3)
        values: list[float] = []

        def ask(probe: Probe, batch_idx: int, values: list[float] = values) -> None:
            if batch_idx == 2:
                images, labels = torch.ones(2, 3, 8, 8), torch.tensor([0, 1])
                values.append(architecture_eigenvalue(probe.trainer.lightning_module, images, labels, steps=3))

        search(strategy, net, Probe(ask if asks else None), steps=2, images=(3, 8, 8))
        assert len(values) == asks
        results.append({name: value.clone() for name, value in net.state_dict().items()})
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())
