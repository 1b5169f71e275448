"""What a bilevel search reports and returns, and its numbers: precision, memory format, seeds, losses."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import LightningModule
from nni.nas.nn.pytorch import model_context

from nni_plugins import BNASD, BilevelSearch, BNASv2PC, PartialChannels
from nni_plugins.methods.divergence import Diverged
from nni_plugins.supernet.operation import WeightedOperation
from search_spaces import BCNN
from tests.nni_plugins.methods.searching import (
    CLASSES,
    OPERATIONS,
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

# What a search reports and returns


def test_architecture_parameters_are_in_the_order_of_the_network() -> None:
    strategy = BNASD()
    supernet = mutated(strategy, OwnSpace)
    module = search(strategy, supernet, Probe())
    assert [architecture.label for architecture in module.architectures()] == ["stem", "z", "a", "input", "head"]
    expected = [id(p) for p in of_architecture(supernet).values()]
    assert [id(p) for p in module.arch_parameters()] == expected
    (group,) = module.trainer.optimizers[1].param_groups
    assert [id(p) for p in group["params"]] == expected
    trained = {id(p) for group in module.trainer.optimizers[0].param_groups for p in group["params"]}
    assert trained == {id(p) for p in weights_of(supernet).values()}


def test_alpha_comes_before_beta_and_convolution_before_enhancement() -> None:
    strategy = BNASv2PC()
    supernet = mutated(strategy, BCNN, channels=4)
    module = strategy.configure_oneshot_module(Probe())
    module.set_model(supernet)
    assert [tuple(p.shape) for p in module.arch_parameters()] == [(14, 8), (14,), (14, 8), (14,)]
    assert [architecture.label for architecture in module.architectures()] == ["convolution", "enhancement"]


def test_validation_accuracy_every_epoch() -> None:
    accuracies: list[float] = []

    class Watcher(pl.Callback):
        def on_validation_epoch_end(self, trainer: pl.Trainer, module: LightningModule) -> None:
            accuracies.append(float(trainer.callback_metrics["val_acc"]))

    strategy = BNASD()
    supernet = mutated(strategy)
    search(strategy, supernet, Probe(), steps=5, max_epochs=3, callbacks=[Watcher()])
    images, labels = batches(5, 2).tensors
    with torch.no_grad():
        predicted = supernet.eval()(images).argmax(-1)
    assert len(accuracies) == 3
    assert accuracies[-1] == pytest.approx(float((predicted == labels).float().mean()))


def test_mean_losses_of_an_epoch() -> None:
    losses: dict[int, list[float]] = {0: [], 1: []}

    class Recorder(Probe):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            loss = super().training_step(batch, batch_idx)
            losses[batch_idx % 2].append(float(loss.detach()))
            return loss

    strategy = BNASD()
    module = search(strategy, mutated(strategy), Recorder(), steps=3)
    assert module.epoch_losses() == pytest.approx({"architecture": sum(losses[0]) / 3, "weights": sum(losses[1]) / 3})
    assert module.epoch_losses() == {}


def test_the_export_is_the_derived_architecture_of_the_whole_space() -> None:
    strategy = BNASD()
    space = OwnSpace()
    labels = set(space.simplify())
    torch.manual_seed(0)
    supernet = strategy.mutate_model(space)
    module = search(strategy, supernet, Probe())
    with torch.no_grad():
        for name, alpha in of_architecture(supernet).items():
            alpha.zero_()
            if "tables" in name:
                alpha[:, OPERATIONS.index("sep_conv_3x3")] = 1
                alpha[:, OPERATIONS.index("none")] = 2
            else:
                alpha[1] = 1
    sample = module.export()
    assert set(sample) == labels
    cells = {f"{kind}/{part}_{node}_0": value for kind in "az" for node in (1, 2)
             for part, value in (("op", "sep_conv_3x3"), ("input", [0]))}  # fmt: skip
    assert sample == {"stem": 1, "input": [1], "head": "flat"} | cells
    with model_context(sample):
        frozen = OwnSpace()
    assert frozen(torch.randn(2, 1, 6, 6)).shape == (2, CLASSES)


# Numbers


@pytest.mark.parametrize(
    "strategy",
    [BNASD(), BNASv2PC(channels=PartialChannels(2), warmup_epochs=0), BilevelSearch(unrolled=True)],
    ids=["BNAS-D", "BNAS-v2-PC", "second order"],
)
def test_bfloat16(strategy: BilevelSearch) -> None:
    supernet = mutated(strategy)
    before = copied(of_architecture(supernet))
    dtypes: set[torch.dtype] = set()
    for module in supernet.cell.modules():
        if isinstance(module, WeightedOperation) and module.has_parameters:
            module.register_forward_hook(lambda module, x, y: dtypes.add(y.dtype) if module.training else None)
    search(strategy, supernet, Probe(), max_epochs=2, precision="bf16-mixed")
    assert dtypes == {torch.bfloat16}
    for name, parameter in supernet.named_parameters():
        assert parameter.dtype is torch.float32
        assert parameter.isfinite().all(), name
    assert not any(torch.equal(p, before[name]) for name, p in of_architecture(supernet).items())


@pytest.mark.parametrize("strategy", [BNASD(), BNASv2PC(channels=PartialChannels(2), warmup_epochs=0)])
def test_channels_last(strategy: BilevelSearch) -> None:
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        supernet = mutated(strategy).double().to(memory_format=memory_format)

        def prepare(images: torch.Tensor, memory_format: torch.memory_format = memory_format) -> torch.Tensor:
            return images.double().to(memory_format=memory_format)

        search(strategy, supernet, Probe(), steps=3, prepare=prepare)
        results.append(supernet.state_dict())
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, check_stride=False)


def test_one_seed_gives_one_search() -> None:
    def alphas(seed: int) -> dict[str, torch.Tensor]:
        strategy = BNASv2PC(channels=PartialChannels(2), warmup_epochs=0)
        supernet = mutated(strategy, seed=seed)
        search(strategy, supernet, Probe(), steps=3)
        return copied(of_architecture(supernet))

    first = alphas(0)
    assert same_bits(alphas(0), first)
    assert not same_bits(alphas(1), first)


def test_a_search_no_longer_than_its_warmup_is_refused() -> None:
    strategy = BNASv2PC(channels=PartialChannels(2), warmup_epochs=2)
    with pytest.raises(ValueError, match=r"^warmup_epochs=2 leaves none of the 2 epochs to the architecture; lower"):
        search(strategy, mutated(strategy), Probe(), max_epochs=2)


@pytest.mark.parametrize("kind", [0, 1], ids=["architecture step", "weight step"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_search(kind: int, value: float) -> None:
    def watch(module: Probe, number: int) -> None:
        module.factor = value if (module.current_epoch, number) == (1, 2 * 2 + kind) else 1.0

    strategy = BNASD()
    sentence = rf"^The loss became {value} in epoch 1, step 2; lower the learning rate, set gradient_clip_val, or "
    with pytest.raises(Diverged, match=sentence):
        search(strategy, mutated(strategy), Probe(watch), steps=4, max_epochs=3)


def test_a_long_epoch_is_not_finished_after_a_loss_that_is_not_finite() -> None:
    last = 0

    def watch(module: Probe, number: int) -> None:
        nonlocal last
        last = number // 2
        module.factor = float("nan") if number == 2 * 3 + 1 else 1.0

    strategy = BNASD()
    with pytest.raises(Diverged, match="epoch 0, step 3"):
        search(strategy, mutated(strategy), Probe(watch), steps=60)
    assert last < 30


def test_the_architecture_step_keeps_no_more_than_the_weight_step() -> None:
    kept: dict[int, int] = {}

    class Measured(Probe):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            storages: dict[int, int] = {}

            def note(tensor: torch.Tensor) -> torch.Tensor:
                storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                loss = super().training_step(batch, batch_idx)
            kept[batch_idx % 2] = sum(storages.values())
            return loss

    strategy = BNASD()
    supernet = mutated(strategy, BCNN, channels=4, num_classes=CLASSES, in_channels=1)
    search(strategy, supernet, Measured(), images=(1, 16, 16))
    assert kept[0] <= kept[1]
