"""The presets of the DARTS family, and training nothing but BatchNorm."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import nn

from nni_plugins import (
    PCDARTS,
    RFDARTS,
    RFPCDARTS,
    BatchNormOnly,
    BilevelSearch,
    Confident,
    EdgeNormalisation,
    Everything,
    FirstOrderDARTS,
    PartialChannels,
    SecondOrderDARTS,
    Softmax,
)
from search_spaces import BCNN, DARTSSpace, Genotype, NASBench201, RobustDARTS
from tests.nni_plugins.methods.searching import Probe, copied, mutated, of_architecture, same_bits, search, weights_of

IMAGES = (3, 8, 8)
SMALL = {"channels": 4, "layers": 3, "num_classes": 3}


def trained(net: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in weights_of(net).items() if p.requires_grad}


def of_norms(net: nn.Module) -> set[str]:
    return {
        f"{name}.{kind}"
        for name, module in net.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for kind in ("weight", "bias")
    }


# Presets


def test_first_order_darts_is_the_plain_search() -> None:
    choices = FirstOrderDARTS().choices
    assert choices == BilevelSearch().choices
    assert not choices.unrolled
    assert (choices.arch_learning_rate, choices.arch_betas, choices.arch_weight_decay) == (3e-4, (0.5, 0.999), 1e-3)
    assert SecondOrderDARTS().choices.unrolled


@pytest.mark.parametrize("strategy", [PCDARTS, RFPCDARTS])
def test_partial_channel_presets(strategy: type[BilevelSearch]) -> None:
    choices = strategy().choices
    assert choices.channels == PartialChannels(4)
    assert choices.relaxation == EdgeNormalisation()
    assert (choices.arch_learning_rate, choices.warmup_epochs) == (6e-4, 15)


def test_random_feature_presets() -> None:
    assert RFDARTS().choices.trains == RFPCDARTS().choices.trains == BatchNormOnly()
    assert RFDARTS().choices.relaxation == Softmax()
    assert PCDARTS().choices.trains == Everything()


@pytest.mark.parametrize("strategy", [FirstOrderDARTS, PCDARTS, RFDARTS, RFPCDARTS])
def test_confident_learning_rate_applies_to_each(strategy: type[BilevelSearch]) -> None:
    rates: list[float] = []

    def note(probe: Probe, batch_idx: int) -> None:
        if batch_idx % 2 == 0:  # of the two losses of a step, the architecture's
            rates.extend(o.param_groups[0]["lr"] for o in probe.trainer.optimizers if hasattr(o, "is_arch_optimizer"))

    settings: dict[str, Any] = {"arch_lr": Confident(power=2), "warmup_epochs": 0}
    wanted = strategy().choices.arch_learning_rate
    chosen = strategy(**settings)
    search(chosen, mutated(chosen, DARTSSpace, **SMALL), Probe(note), steps=1, images=IMAGES, max_epochs=2)
    assert sorted(set(rates))[-2:] == pytest.approx([wanted / 4, wanted])


# What trains


@pytest.mark.parametrize(
    ("strategy", "space", "parameters"),
    [
        (RFDARTS, DARTSSpace, 74_592),
        (RFDARTS, lambda: RobustDARTS("s1"), 14_752),
        (RFDARTS, lambda: RobustDARTS("s2"), 20_832),
        (RFPCDARTS, DARTSSpace, 19_680),
    ],
    ids=["darts", "s1", "s2", "partial-channels"],
)
def test_trainable_parameters(strategy: type[BilevelSearch], space: Callable[[], ModelSpace], parameters: int) -> None:
    net = strategy().mutate_model(space())
    assert sum(p.numel() for p in trained(net).values()) == parameters
    assert set(trained(net)) == of_norms(net)


def test_frozen_parameters_of_the_full_space() -> None:
    net = RFDARTS().mutate_model(DARTSSpace())
    frozen = [p for p in weights_of(net).values() if not p.requires_grad]
    assert sum(p.numel() for p in frozen if p.dim() == 4) == 1_927_952
    assert sum(p.numel() for p in frozen if p.dim() != 4) == 2_570


@pytest.mark.parametrize("make", [NASBench201, BCNN])
def test_other_spaces(make: type[ModelSpace]) -> None:
    net = mutated(RFDARTS(), make, channels=4)
    assert set(trained(net)) == of_norms(net)
    assert all(module.affine for module in net.modules() if isinstance(module, nn.BatchNorm2d))


def test_the_classifier_trains_on_request() -> None:
    net = mutated(RFDARTS(trains=BatchNormOnly(train_classifier=True)), DARTSSpace, **SMALL)
    assert set(trained(net)) == of_norms(net) | {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize(
    ("init", "deviation"),
    [("default", (1 / 3 / 64) ** 0.5), ("kaiming_normal", (2 / 64) ** 0.5), ("xavier_normal", (2 / 128) ** 0.5)],
)
def test_frozen_initialisation(init: Any, deviation: float) -> None:
    """On a 1x1 convolution from 64 to 64 channels."""
    net = mutated(RFDARTS(trains=BatchNormOnly(init=init)), DARTSSpace, channels=64, layers=3)
    convs = [m for m in net.cells[0].modules() if isinstance(m, nn.Conv2d) and m.weight.shape == (64, 64, 1, 1)]
    weights = torch.cat([conv.weight.flatten() for conv in convs])
    assert float(weights.std()) == pytest.approx(deviation, rel=0.02)
    assert len({float(conv.weight[0, 0]) for conv in convs}) == len(convs)


# A search


@pytest.mark.parametrize(
    ("strategy", "space"),
    [
        (RFDARTS, DARTSSpace),
        (RFPCDARTS, DARTSSpace),
        (RFDARTS, RobustDARTS),
        (RFPCDARTS, RobustDARTS),
        (RFDARTS, NASBench201),
    ],
)
def test_a_search_moves_batch_norm_and_alpha_alone(strategy: type[BilevelSearch], space: type[ModelSpace]) -> None:
    sizes = {"channels": 4, "num_classes": 3, **({"cells": 1} if space is NASBench201 else {"layers": 3})}
    chosen = strategy(warmup_epochs=0)
    net = mutated(chosen, space, **sizes)
    names = set(trained(net))
    before = copied(weights_of(net)), copied(of_architecture(net))
    seen: list[list[int]] = []

    def watch(probe: Probe, batch_idx: int) -> None:
        optimizer = next(o for o in probe.trainer.optimizers if not hasattr(o, "is_arch_optimizer"))
        seen.append([id(p) for p in optimizer.state])

    module = search(chosen, net, Probe(watch), steps=3, images=IMAGES)
    after = copied(weights_of(net))
    moved = {name for name, value in after.items() if not torch.equal(value, before[0][name])}
    assert moved <= names
    assert len(moved) > 0.9 * len(names)
    frozen = {name: p for name, p in weights_of(net).items() if name not in names}
    assert all(p.grad is None for p in frozen.values())
    assert seen[-1]
    assert not {id(p) for p in frozen.values()} & set(seen[-1])
    assert not same_bits(before[1], copied(of_architecture(net)))
    Genotype.from_sample(module.export(), {DARTSSpace: "darts", RobustDARTS: "s1", NASBench201: "nasbench201"}[space])


def test_random_features_change_nothing_but_what_trains() -> None:
    """RF's gradients of scale, shift and alpha are those of the same net with all weights trainable."""
    net = mutated(RFDARTS(), DARTSSpace, **SMALL).double()
    reference = copy.deepcopy(net).requires_grad_()
    images = torch.randn(4, *IMAGES, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 0])
    for model in (net, reference):
        F.cross_entropy(model(images), labels).backward()
    gradients = {name: p.grad for name, p in reference.named_parameters()}
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, gradients[name], msg=name)


def test_pooling_is_computed_once_per_source() -> None:
    net = mutated(RFDARTS(), DARTSSpace, **SMALL)
    calls: list[str] = []
    for operation in net.cells[0].operations.values():
        if "Pool" in repr(operation.body):
            operation.body.register_forward_hook(lambda module, inputs, output: calls.append(repr(module)))
    net.cells[0]([torch.randn(2, 12, 8, 8)] * 2)
    assert len(calls) == 2 * 5


# Wrong input


class WithoutNorm(ModelSpace):
    def __init__(self) -> None:
        super().__init__()
        self.layer = LayerChoice([nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)], label="layer")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images).mean((2, 3))


def test_a_space_without_batch_norm_is_refused_untouched() -> None:
    space = WithoutNorm()
    with pytest.raises(ValueError, match=r"WithoutNorm has no BatchNorm, .* or trains=Everything\(\)"):
        RFDARTS().mutate_model(space)
    assert type(space.layer) is LayerChoice


def test_a_classifier_that_is_not_there() -> None:
    class WithNorm(WithoutNorm):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(4)

    with pytest.raises(ValueError, match="WithNorm has no linear layer"):
        RFDARTS(trains=BatchNormOnly(train_classifier=True)).mutate_model(WithNorm())


def test_partial_channels_need_operations_that_can_be_built_narrower() -> None:
    with pytest.raises(ValueError, match=r"cells\.0 has a ready-made candidate"):
        RFPCDARTS().mutate_model(NASBench201(channels=4, cells=1))


def test_unknown_initialisation() -> None:
    with pytest.raises(ValueError, match="init must be one of default, kaiming_normal, xavier_normal, got 'he'"):
        BatchNormOnly(init="he")  # type: ignore[arg-type]
