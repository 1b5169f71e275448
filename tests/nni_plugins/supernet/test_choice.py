"""Mixtures over LayerChoice and InputChoice against an explicit softmax."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from nni.nas.nn.pytorch import InputChoice, LayerChoice, ModelSpace
from torch import nn

from nni_plugins import BilevelSearch
from nni_plugins.supernet.choice import MixedInput, MixedLayer
from search_spaces.operations import Zero


class Choices(ModelSpace):
    """Two layers with one label, and an InputChoice over their outputs."""

    def __init__(self, n_chosen: int = 1, reduction: str = "sum") -> None:
        super().__init__()

        def layer() -> LayerChoice:
            candidates = {
                "conv": nn.Sequential(
                    nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), nn.BatchNorm2d(4)
                ),
                "none": Zero(1),
                "pool": nn.AvgPool2d(3, 1, 1),
                "linear": nn.Conv2d(4, 4, 1),
            }
            return LayerChoice(candidates, label="layer")

        self.first, self.second = layer(), layer()
        self.inputs = InputChoice(3, n_chosen, reduction, label="inputs")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.first(x)
        return self.inputs([x, first, self.second(first)])


def mutated_choices(**settings: Any) -> tuple[ModelSpace, ModelSpace, dict[str, nn.Parameter]]:
    """A supernet, a copy of the space it was made from, and the weights that it took over by their names there."""
    torch.manual_seed(0)
    space = Choices(**settings).double()
    reference, weights = copy.deepcopy(space), dict(space.named_parameters())
    supernet = BilevelSearch().mutate_model(space).double()
    with torch.no_grad():
        for choice in (supernet.first, supernet.inputs):
            choice.architecture.alpha.normal_()
    return supernet, reference, weights


def test_mixed_choices() -> None:
    supernet, space, weights = mutated_choices()
    assert [type(module) for module in (supernet.first, supernet.second, supernet.inputs)] == [
        MixedLayer, MixedLayer, MixedInput,
    ]  # fmt: skip
    assert supernet.first.architecture is supernet.second.architecture
    alphas = [supernet.first.architecture.alpha, supernet.inputs.architecture.alpha]
    of_layers, of_inputs = references = [alpha.detach().clone().requires_grad_() for alpha in alphas]
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)

    p = of_layers.exp() / of_layers.exp().sum()
    q = of_inputs.exp() / of_inputs.exp().sum()

    def layer(choice: LayerChoice, x: torch.Tensor) -> torch.Tensor:
        return sum(p[k] * choice[name](x) for k, name in enumerate(choice.names))

    first = layer(space.first, x)
    expected = q[0] * x + q[1] * first + q[2] * layer(space.second, first)
    output = supernet(x)
    torch.testing.assert_close(output, expected)
    output.sin().sum().backward()
    expected.sin().sum().backward()
    for alpha, reference in zip(alphas, references, strict=True):
        torch.testing.assert_close(alpha.grad, reference.grad)
    for name, reference in space.named_parameters():
        torch.testing.assert_close(weights[name].grad, reference.grad)


def test_layers_without_pixels() -> None:
    class Linear(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.layer = LayerChoice([nn.Linear(3, 2), nn.Sequential(nn.ReLU(), nn.Linear(3, 2))], label="layer")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    torch.manual_seed(0)
    space = Linear()
    reference = copy.deepcopy(space)
    x = torch.randn(5, 3)
    output = BilevelSearch().mutate_model(space)(x)
    p = space.layer.architecture.alpha.detach().softmax(0)
    torch.testing.assert_close(output, p[0] * reference.layer[0](x) + p[1] * reference.layer[1](x))


@pytest.mark.parametrize(("n_chosen", "reduction", "divisor"), [(1, "sum", 1), (2, "sum", 1), (2, "mean", 2)])
def test_derived_choices(n_chosen: int, reduction: str, divisor: int) -> None:
    supernet, space, _ = mutated_choices(n_chosen=n_chosen, reduction=reduction)
    with torch.no_grad():
        supernet.first.architecture.alpha.copy_(torch.tensor([0.0, 5.0, 6.0, 1.0]))
        supernet.inputs.architecture.alpha.copy_(torch.tensor([1.0, 0.0, 2.0]))
    layers, inputs = supernet.first.export({}), supernet.inputs.export({})
    assert layers == {"layer": "pool"}
    assert inputs == {"inputs": [2] if n_chosen == 1 else [0, 2]}
    for choice in (supernet.first, supernet.second, supernet.inputs):
        choice.derived_only = True
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    pooled_twice = space.second["pool"](space.first["pool"](x))
    expected = (pooled_twice if n_chosen == 1 else x + pooled_twice) / divisor
    torch.testing.assert_close(supernet(x), expected)
    frozen = space.freeze(layers | inputs)
    torch.testing.assert_close(frozen(x), expected)


def test_ties_between_candidates_go_to_the_first() -> None:
    supernet, *_ = mutated_choices(n_chosen=2)
    with torch.no_grad():
        supernet.first.architecture.alpha.zero_()
        supernet.inputs.architecture.alpha.zero_()
    assert supernet.first.export({}) == {"layer": "conv"}
    assert supernet.inputs.export({}) == {"inputs": [0, 1]}
