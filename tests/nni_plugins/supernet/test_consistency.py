"""The accuracy of a supernet against that of its derived sub-graph."""

from __future__ import annotations

import pytest
import torch
from nni.nas.nn.pytorch import InputChoice, LayerChoice, ModelSpace
from numpy.random import RandomState
from torch import nn

from nni_plugins import BNASD, EnTranNAS, EnTranNASDST
from nni_plugins.supernet.cell import MixedCell
from nni_plugins.supernet.consistency import batch_statistics, consistency, derived_subgraph, evaluating
from search_spaces import BCNN, AnyDARTSSpace, DARTSSpace, NASBench201

IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Choices(ModelSpace):
    """Layers that scale by 1, 10 and 100, and one of three inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = LayerChoice([Scale(1.0), Scale(10.0), Scale(100.0)], label="layer")
        self.input = InputChoice(3, 2, label="input")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.input([self.layer(x), 2 * x, 3 * x])


class Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * x


def test_choices() -> None:
    supernet = BNASD().mutate_model(Choices())
    with torch.no_grad():
        supernet.layer.architecture.alpha.copy_(torch.tensor([0.0, 1.0, 0.0]))
        supernet.input.architecture.alpha.copy_(torch.tensor([1.0, 0.0, 2.0]))
    x = torch.ones(1, 1)
    mixed = supernet(x)
    with derived_subgraph(supernet):
        assert supernet(x) == 10 + 3
    with derived_subgraph(supernet, {"layer": 2, "input": [1, 2]}):
        assert supernet(x) == 2 + 3
    assert torch.equal(supernet(x), mixed)
    for wrong in ({"layer": 3, "input": [1, 2]}, {"input": [1, 2]}, {"layer": 0, "input": 1}):
        with pytest.raises(ValueError, match="expected"), derived_subgraph(supernet, wrong):
            pass
    assert torch.equal(supernet(x), mixed)


@pytest.mark.parametrize(
    ("strategy", "space"),
    [
        (BNASD(), lambda: BCNN(channels=4)),
        (EnTranNAS(), lambda: DARTSSpace(channels=4, layers=4)),
        (EnTranNAS(), lambda: NASBench201(channels=4, cells=2)),
        (EnTranNASDST(), lambda: AnyDARTSSpace(channels=4, layers=4)),
    ],
    ids=["bcnn", "darts", "nasbench201", "any"],
)
def test_any_architecture_runs_with_the_weights_of_the_supernet(strategy, space) -> None:
    torch.manual_seed(0)
    supernet = strategy.mutate_model(space()).eval()
    cells = [m for m in supernet.modules() if isinstance(m, MixedCell)]
    derived = {label: value for cell in cells for label, value in cell.architecture.export().items()}
    sample: dict[str, object] = {}
    space().random(sample, RandomState(0))
    images = torch.randn(2, 3, 16, 16)
    mixed = supernet(images)
    with derived_subgraph(supernet):
        expected = supernet(images)
    assert not torch.allclose(expected, mixed)
    with derived_subgraph(supernet, derived):
        assert torch.equal(supernet(images), expected)
    with derived_subgraph(supernet, sample):
        assert not torch.allclose(supernet(images), expected)
    assert torch.equal(supernet(images), mixed)
    for label in sample:
        with (
            pytest.raises(ValueError, match=r"The sample does not describe the \w+ cell"),
            derived_subgraph(supernet, {name: value for name, value in sample.items() if name != label}),
        ):
            pass
    with (
        pytest.raises(ValueError, match="expected operations among"),
        derived_subgraph(supernet, sample | {label: ["flip:0"]}),
    ):
        pass
    assert torch.equal(supernet(images), mixed)


class Biased(nn.Module):
    """A supernet whose mixture is right about every image and whose derived sub-graph about every third."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = BNASD().mutate_model(Choices()).layer
        self.norm = nn.BatchNorm1d(2)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wrong = torch.arange(len(x)) % 3 != 0 if self.layer.derived_only else torch.zeros(len(x), dtype=torch.bool)
        self.norm(self.dropout(x))
        assert not self.dropout.training
        logits = torch.nn.functional.one_hot(x[:, 0].long(), 4)
        return torch.where(wrong[:, None], -logits, logits)


def test_gap() -> None:
    net = Biased().train()
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    images = torch.stack([labels, labels], 1).float()
    statistics = {name: value.clone() for name, value in net.state_dict().items()}
    for running in (False, True):
        result = consistency(net, iter([(images, labels), (images[:3], labels[:3])]), running_statistics=running)
        assert tuple(result) == pytest.approx((100.0, 100 / 3))
        assert result.gap == pytest.approx(200 / 3)
    assert all(torch.equal(value, statistics[name]) for name, value in net.state_dict().items())
    assert net.norm.training
    assert net.dropout.training
    with pytest.raises(ValueError, match="there is not one batch"):
        consistency(net, [])


def test_batch_statistics_normalise_and_leave_no_trace() -> None:
    supernet = EnTranNAS().mutate_model(DARTSSpace(channels=4, layers=4))
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    expected = supernet.train()(IMAGES)
    supernet.load_state_dict(before)
    supernet.eval()
    assert not torch.allclose(supernet(IMAGES), expected)
    with batch_statistics(supernet):
        torch.testing.assert_close(supernet(IMAGES), expected)
    with evaluating(supernet.train()):
        torch.testing.assert_close(supernet(IMAGES), expected)
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())
    assert all(module.training for module in supernet.modules())
