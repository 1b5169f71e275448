"""The steps of the bilevel search, in NNI's evaluator, against hand-written ones and brute force."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import nn
from torch.utils.data import TensorDataset

from nni_plugins import BNASD, BilevelSearch, BNASv2CLR, BNASv2PC, Confident, EdgeNormalisation, PartialChannels
from tests.nni_plugins.methods.searching import (
    CLASSES,
    OneCell,
    OwnSpace,
    Probe,
    batches,
    copied,
    mutated,
    of_architecture,
    same_bits,
    search,
    weights_of,
)

# First order


PARTIAL = {"relaxation": EdgeNormalisation(), "channels": PartialChannels(2)}
UNCLIPPED = {"gradient_clip_val": None, "arch_betas": (0.9, 0.99), "arch_weight_decay": 0.1}


@pytest.mark.parametrize(
    ("space", "settings"),
    [
        (OneCell, {}),
        (OneCell, PARTIAL),
        (OneCell, {"gradient_clip_val": 0.01}),
        (OneCell, {**UNCLIPPED, "arch_gradient_clip_val": 1e-4}),
        (OwnSpace, {}),
        (OwnSpace, UNCLIPPED),
    ],
    ids=["cell", "partial channels", "clipped weights", "clipped architecture", "choices", "unclipped choices"],
)
def test_equal_to_hand_written_steps(space: type[ModelSpace], settings: dict[str, Any]) -> None:
    strategy = BilevelSearch(arch_learning_rate=0.01, **settings)
    supernet = mutated(strategy, space).double()
    expected = copy.deepcopy(supernet)
    search(strategy, supernet, Probe(), steps=3, prepare=torch.Tensor.double)

    alpha, w = list(of_architecture(expected).values()), list(weights_of(expected).values())
    betas, decay = settings.get("arch_betas", (0.5, 0.999)), settings.get("arch_weight_decay", 1e-3)
    adam = torch.optim.Adam(alpha, 0.01, betas=betas, weight_decay=decay)
    sgd = torch.optim.SGD(w, 0.1, momentum=0.9, weight_decay=3e-4)
    training, validation = (batches(3, seed) for seed in (1, 2))
    for step in range(3):
        batch = slice(4 * step, 4 * step + 4)
        adam.zero_grad()
        F.cross_entropy(expected(validation.tensors[0][batch].double()), validation.tensors[1][batch]).backward()
        if settings.get("arch_gradient_clip_val"):
            nn.utils.clip_grad_norm_(alpha, settings["arch_gradient_clip_val"])
        adam.step()
        sgd.zero_grad()
        F.cross_entropy(expected(training.tensors[0][batch].double()), training.tensors[1][batch]).backward()
        clip = settings.get("gradient_clip_val", 5.0)
        if clip is not None:
            nn.utils.clip_grad_norm_(w, clip)
        sgd.step()
    for name, value in expected.state_dict().items():  # weights, architecture and running statistics
        torch.testing.assert_close(supernet.state_dict()[name], value, msg=partial("{}: {}".format, name))


@pytest.mark.parametrize("unrolled", [False, True])
def test_each_step_changes_its_own_parameters_and_asks_for_no_other_gradients(unrolled: bool) -> None:
    strategy = BilevelSearch(arch_learning_rate=0.01, unrolled=unrolled)
    supernet = mutated(strategy)
    alphas, weights = of_architecture(supernet), weights_of(supernet)
    seen: list[tuple[int, dict[str, torch.Tensor], dict[str, torch.Tensor]]] = []

    def watch(module: Probe, number: int) -> None:
        seen.append((number, copied(alphas), copied(weights)))
        wanted = [[any(p.requires_grad for p in group.values()) for group in (alphas, weights)]]
        if number % 2 == 1 and len(seen) % (5 if unrolled else 2) == 0:  # the weight step is the last of a step
            assert wanted == [[False, True]]
        elif not unrolled:
            assert wanted == [[True, False]]

    module = search(strategy, supernet, Probe(watch), steps=3)
    assert all(p.requires_grad for p in module.parameters())
    per_step = 5 if unrolled else 2
    # second order: training loss, validation loss, both sides of the finite difference, then the weight step
    order = [1, 0, 1, 1, 1] if unrolled else [0, 1]
    assert [number for number, _, _ in seen] == [2 * step + kind for step in range(3) for kind in order]
    steps = [seen[start : start + per_step] for start in range(0, len(seen), per_step)]
    for step, following in zip(steps, [*steps[1:], [(0, copied(alphas), copied(weights))]], strict=True):
        (_, alphas_before, weights_before), (_, alphas_between, weights_between) = step[0], step[-1]
        _, alphas_after, weights_after = following[0]
        assert same_bits(weights_between, weights_before)
        assert same_bits(alphas_after, alphas_between)
        assert not any(torch.equal(alphas_between[name], alphas_before[name]) for name in alphas)
        assert not same_bits(weights_after, weights_between)


# Second order


class Smooth(ModelSpace):
    """A layer to choose and a linear classifier, twice differentiable everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = LayerChoice(
            [nn.Sequential(nn.Linear(3, 4), nn.Tanh()), nn.Sequential(nn.Linear(3, 4), nn.Sigmoid()), nn.Linear(3, 4)],
            label="layer",
        )
        self.classifier = nn.Linear(4, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.layer(x))


@pytest.mark.parametrize("classifier_lr", [0.5, 0.1], ids=["one learning rate", "two parameter groups"])
def test_unrolled_gradient_against_brute_force(classifier_lr: float) -> None:
    lr, momentum, decay, steps, size = 0.5, 0.9, 0.05, 3, 6
    strategy = BilevelSearch(unrolled=True, arch_learning_rate=0.05, gradient_clip_val=None)
    supernet = mutated(strategy, Smooth).double()
    alphas, weights = of_architecture(supernet), weights_of(supernet)
    reference = copy.deepcopy(supernet)
    before: list[tuple[Any, ...]] = []
    gradients: list[torch.Tensor] = []

    def rate(name: str) -> float:
        return classifier_lr if name.startswith("classifier") else lr

    class Recorder(Probe):
        def configure_optimizers(self) -> Any:
            groups = [{"params": [parameter], "lr": rate(name)} for name, parameter in weights.items()]
            return torch.optim.SGD(groups, **self.sgd)

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            state = self.trainer.optimizers[0].state
            buffers = {name: state[p]["momentum_buffer"].clone() if p in state else 0 for name, p in weights.items()}
            before.append((copied(alphas), copied(weights), buffers))

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            (alpha,) = alphas.values()
            assert alpha.grad is not None
            gradients.append(alpha.grad.clone())

    module = Recorder(lr=lr, momentum=momentum, weight_decay=decay)
    search(strategy, supernet, module, steps=steps, size=size, images=(3,), prepare=torch.Tensor.double)
    training, validation = (batches(steps, seed, size, (3,)) for seed in (1, 2))

    def loss(data: TensorDataset, step: int, parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        x, y = (tensor[size * step : size * (step + 1)] for tensor in data.tensors)
        return F.cross_entropy(torch.func.functional_call(reference, parameters, (x.double(),)), y)

    assert len(gradients) == steps
    for step, ((alpha, w, buffers), actual) in enumerate(zip(before, gradients, strict=True)):
        alpha = {name: value.requires_grad_() for name, value in alpha.items()}
        w = {name: value.requires_grad_() for name, value in w.items()}
        on_w = torch.autograd.grad(loss(training, step, alpha | w), list(w.values()), create_graph=True)
        moved = {
            name: w[name] - rate(name) * (gradient + decay * w[name] + momentum * buffers[name])
            for name, gradient in zip(w, on_w, strict=True)
        }
        (exact,) = torch.autograd.grad(loss(validation, step, alpha | moved), list(alpha.values()))
        fixed = {name: value.detach() for name, value in moved.items()}
        (direct,) = torch.autograd.grad(loss(validation, step, alpha | fixed), list(alpha.values()))
        implicit = (exact - direct).norm()
        assert implicit > 0.01 * exact.norm()  # else the finite difference would not be tested
        assert (actual - exact).norm() < 0.01 * implicit
        assert step == 0 or any(buffer.abs().max() > 0 for buffer in buffers.values())


def test_unrolled_runs_on_cells_with_partial_channels() -> None:
    strategy = BNASv2PC(unrolled=True, warmup_epochs=0, channels=PartialChannels(2))
    supernet = mutated(strategy)
    before = copied(of_architecture(supernet))
    search(strategy, supernet, Probe())
    after = copied(of_architecture(supernet))
    assert not same_bits(before, after)
    assert all(value.isfinite().all() for value in after.values())


# Schedules of the architecture


def test_warm_up_leaves_the_architecture_bit_identical() -> None:
    strategy = BNASv2PC(warmup_epochs=2, channels=PartialChannels(2), arch_learning_rate=0.01)
    supernet = mutated(strategy)
    alphas, weights = of_architecture(supernet), weights_of(supernet)
    initial = copied(alphas), copied(weights)
    steps: list[tuple[int, int, bool, bool]] = []

    def watch(module: Probe, number: int) -> None:
        unchanged = same_bits(copied(alphas), initial[0]), same_bits(copied(weights), initial[1])
        steps.append((module.current_epoch, number % 2, *unchanged))

    search(strategy, supernet, Probe(watch), max_epochs=3)
    warm_up = [step for step in steps if step[0] < 2]
    assert [kind for _, kind, *_ in warm_up] == [1, 1, 1, 1]  # weight steps alone
    assert all(alpha_unchanged for *_, alpha_unchanged, _ in warm_up)
    assert [weights_unchanged for *_, weights_unchanged in warm_up] == [True, False, False, False]
    assert [kind for epoch, kind, *_ in steps if epoch == 2] == [0, 1, 0, 1]
    assert not any(torch.equal(alphas[name], initial[0][name]) for name in alphas)


@pytest.mark.parametrize(
    ("strategy", "rates"),
    [
        (BNASD(), [3e-4] * 4),
        (BNASv2CLR(), [3e-4 / 16, 3e-4 / 4, 3e-4 * 9 / 16, 3e-4]),
        (BNASv2CLR(arch_learning_rate=1e-2, arch_lr=Confident(power=1)), [0.0025, 0.005, 0.0075, 0.01]),
        (BNASv2CLR(unrolled=True), [3e-4 / 16, 3e-4 / 4, 3e-4 * 9 / 16, 3e-4]),
        (BNASv2PC(channels=PartialChannels(2), warmup_epochs=0), [6e-4] * 4),
        (BNASv2PC(channels=PartialChannels(2), warmup_epochs=1, arch_lr=Confident(power=2)),
         [6e-4 / 16, 6e-4 / 4, 6e-4 * 9 / 16, 6e-4]),
    ],
)  # fmt: skip
def test_rates_by_epoch(strategy: BilevelSearch, rates: list[float]) -> None:
    supernet = mutated(strategy)
    seen: dict[int, set[tuple[float, float]]] = {}

    def watch(module: Probe, number: int) -> None:
        of_weights, of_alpha = module.trainer.optimizers
        pair = of_weights.param_groups[0]["lr"], of_alpha.param_groups[0]["lr"]
        seen.setdefault(module.current_epoch, set()).add(pair)

    search(strategy, supernet, Probe(watch), max_epochs=4)
    for epoch, rate in enumerate(rates):
        ((of_weights, of_alpha),) = seen[epoch]
        assert of_weights == 0.1
        assert of_alpha == pytest.approx(rate, rel=1e-12)


def test_adam_moves_alpha_by_the_confident_rate() -> None:
    strategy = BNASv2CLR(arch_learning_rate=0.16, arch_weight_decay=0.0)
    supernet = mutated(strategy).double()
    before = copied(of_architecture(supernet))
    search(strategy, supernet, Probe(), steps=1, max_epochs=4, limit_train_batches=1, max_steps=2,
           prepare=torch.Tensor.double)  # fmt: skip
    # Adam's first step has the size of the rate: 0.16 / 4 ** 2 (two optimiser steps are one search step)
    moved = torch.cat([(p.detach() - before[name]).abs().flatten() for name, p in of_architecture(supernet).items()])
    assert moved.max() == pytest.approx(0.01, rel=1e-3)


def test_an_architecture_gradient_is_clipped_over_all_tables() -> None:
    strategy = BilevelSearch(relaxation=EdgeNormalisation(), arch_gradient_clip_val=1e-3)
    supernet = mutated(strategy)
    norms: list[float] = []

    class Recorder(Probe):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            tables: list[Any] = list(of_architecture(supernet).values())
            norms.append(float(torch.cat([table.grad.flatten() for table in tables]).norm()))

    search(strategy, supernet, Recorder())
    assert norms == pytest.approx([1e-3] * 2, rel=1e-2)


def test_a_schedule_of_the_weights_is_stepped_once_per_epoch() -> None:
    rates: list[float] = []

    class Cosine(Probe):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)]

    def watch(module: Probe, number: int) -> None:
        rates.append(module.trainer.optimizers[0].param_groups[0]["lr"])

    strategy = BNASD()
    search(strategy, mutated(strategy), Cosine(watch), steps=2, max_epochs=3)
    expected = [0.05 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(3)]
    assert rates == pytest.approx([rate for rate in expected for _ in range(4)])
