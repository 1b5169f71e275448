"""Spaces that the bilevel strategies search, as whole NNI experiments, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nni
import pytest
import torch
from nni.nas.evaluator.pytorch import Classification, DataLoader, Lightning, Trainer
from nni.nas.experiment import NasExperiment
from nni.nas.hub.pytorch import DARTS as HubDARTS
from nni.nas.hub.pytorch import NasBench201 as HubNasBench201
from nni.nas.nn.pytorch import Cell, InputChoice, LayerChoice, ModelSpace, MutableConv2d, model_context
from torch import nn

from nni_plugins import BNASD, BilevelSearch, BNASv2CLR, BNASv2PC, PartialChannels
from nni_plugins.methods.bilevel.strategy import Choices
from search_spaces import BCNN
from tests.nni_plugins.methods.searching import (
    CLASSES,
    QUIET,
    OneCell,
    OwnSpace,
    Probe,
    batches,
    cell,
    copied,
    mutated,
    of_architecture,
    same_bits,
    search,
)

# Whole experiments


@pytest.mark.parametrize(
    ("make", "strategy", "channels", "classes"),
    [
        (partial(BCNN, num_classes=5, in_channels=1, channels=4), BNASD(), 1, 5),
        (partial(BCNN, num_classes=5, in_channels=1, channels=4), BNASv2CLR(), 1, 5),
        (partial(BCNN, num_classes=5, in_channels=1, channels=4), BNASv2PC(warmup_epochs=1), 1, 5),
        (partial(HubDARTS, width=4, num_cells=3, dataset="cifar"), BNASv2CLR(), 3, 10),
        (partial(HubDARTS, width=4, num_cells=3, dataset="cifar"), BNASv2PC(warmup_epochs=0), 3, 10),
        (partial(HubNasBench201, 4, 1, 5), BNASD(), 3, 5),
        (OwnSpace, BNASD(), 1, CLASSES),
    ],
    ids=lambda value: getattr(getattr(value, "func", value), "__name__", type(value).__name__),
)  # fmt: skip
def test_experiments(
    make: Callable[[], ModelSpace], strategy: BilevelSearch, channels: int, classes: int, nni_home: Path
) -> None:
    space = make()
    labels = set(space.simplify())
    loaders = [DataLoader(batches(2, seed, 2, (channels, 8, 8)), batch_size=2) for seed in (1, 2)]
    evaluator = Classification(
        num_classes=classes, learning_rate=0.01, train_dataloaders=loaders[0], val_dataloaders=loaders[1], max_epochs=2,
        **QUIET,
    )  # fmt: skip
    experiment = NasExperiment(space, evaluator, strategy)
    experiment.config.experiment_working_directory = nni_home
    experiment.run()
    experiment.stop()
    (sample,) = experiment.export_top_models(formatter="dict")
    assert set(sample) == labels
    assert "none" not in [value for label, value in sample.items() if "/op_" in label]
    assert "val_acc" in strategy.oneshot_module.trainer.callback_metrics
    alphas = of_architecture(strategy.supernet).values()
    assert all(0 < float(alpha.detach().abs().max()) < 0.1 for alpha in alphas)
    with model_context(sample):
        assert make()(torch.randn(2, channels, 8, 8)).shape == (2, classes)


# Refusals


class NothingToChoose(ModelSpace):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)


class AWidthToChoose(ModelSpace):
    def __init__(self) -> None:
        super().__init__()
        self.first = MutableConv2d(1, nni.choice("width", [4, 8]), 3)
        self.choice = LayerChoice([nn.ReLU(), nn.Tanh()], label="activation")


class AnInput(ModelSpace):
    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.input = InputChoice(3, label="input", **settings)


def ready_made(channels: int) -> Cell:
    return Cell([nn.Conv2d(channels, channels, 1), nn.Identity()], 2, 1, 1, label="cell")


PARTIAL = partial(BNASv2PC, warmup_epochs=0)


@pytest.mark.parametrize(
    ("strategy", "make", "sentence"),
    [
        (PARTIAL(), OwnSpace,
         "PartialChannels works inside Cells, but stem is a LayerChoice over ready-made candidates; use a strategy "
         "with all channels and a plain softmax, or a space of Cells."),
        (PARTIAL(), partial(OneCell, make_cell=ready_made),
         "Partial channels need operations that can be built narrower, but cell has a ready-made candidate '0'; give "
         "Cell functools.partial(make, channels=16) in its place, where make(node, slot, source, channels) builds"),
        (PARTIAL(), partial(HubNasBench201, 4, 1), "Partial channels need operations that can be built narrower, but "),
        (PARTIAL(), partial(OneCell, channels=6),
         "Partial channels with K=4 do not divide the 6 channels of cell; choose a K that divides them, or another "
         "width."),
        (PARTIAL(channels=PartialChannels(3)), partial(BCNN, channels=4),
         "Partial channels with K=3 do not divide the 8 channels of convolution_cells.0; choose"),
        (BNASD(), partial(OneCell, make_cell=partial(cell, merge_op="loose_end")),
         "cell merges its loose_end nodes, which only a fixed cell has; use Cell(merge_op='all')."),
        (BNASD(), partial(nn.Linear, 2, 2), "A search needs an NNI ModelSpace, but Linear is none; derive it from "),
        (BNASD(), NothingToChoose, "NothingToChoose has nothing to search: it contains no Cell or choice."),
        (BNASD(), AWidthToChoose, "first (MutableConv2d) cannot be relaxed; express its choice with Cell, LayerChoice"),
        (BNASD(), partial(HubDARTS, width=(4, 8), num_cells=3, dataset="cifar"), "stem.0 (MutableConv2d) cannot be"),
        (BNASD(), partial(HubDARTS, width=4, num_cells=(3, 6), dataset="cifar"), "stages.0 (NDSStage) cannot be"),
        (BNASD(), partial(AnInput, n_chosen=None), "input chooses any number of inputs and returns their sum; a "),
        (BNASD(), partial(AnInput, n_chosen=2, reduction="concat"), "input chooses 2 inputs and returns their concat"),
    ],
)  # fmt: skip
def test_spaces_that_cannot_be_searched(strategy: Any, make: Callable[[], ModelSpace], sentence: str) -> None:
    space = make()
    modules = [(name, id(module)) for name, module in space.named_modules()]
    state = copied(space.state_dict())
    with pytest.raises(ValueError) as error:  # noqa: PT011 the sentence is compared below
        strategy.mutate_model(space)
    assert str(error.value).startswith(sentence)
    assert str(error.value).endswith(".")
    assert [(name, id(module)) for name, module in space.named_modules()] == modules
    assert same_bits(space.state_dict(), state)


def test_an_experiment_is_refused_before_anything_trains(nni_home: Path) -> None:
    def watch(module: Probe, number: int) -> None:
        raise AssertionError("something trained")

    loaders = [DataLoader(batches(1, seed), batch_size=4) for seed in (1, 2)]
    evaluator = Lightning(Probe(watch), Trainer(max_epochs=1, **QUIET), *loaders)
    experiment = NasExperiment(OwnSpace(), evaluator, BNASv2PC())
    experiment.config.experiment_working_directory = nni_home
    with pytest.raises(ValueError, match="PartialChannels works inside Cells"):
        experiment.run()
    experiment.stop()


def test_a_space_is_searched_once() -> None:
    supernet = mutated(BNASD())
    with pytest.raises(ValueError, match="OneCell has nothing to search"):
        BNASD().mutate_model(supernet)


def test_several_devices_under_another_strategy_are_refused() -> None:
    strategy = BNASD()
    supernet = mutated(strategy)
    with pytest.raises(ValueError, match=r"was given 2 devices with DDPStrategy; pass devices=1, or run nni-plugins"):
        search(strategy, supernet, Probe(), devices=2)


@pytest.mark.parametrize("strategy", [BNASD, BNASv2CLR, BNASv2PC])
def test_an_unknown_setting_lists_the_valid_ones(strategy: type[BilevelSearch]) -> None:
    with pytest.raises(ValueError, match=r"no setting 'warmup'; expected one of relaxation, channels, ") as error:
        strategy(warmup=3)
    assert str(error.value).startswith(strategy.__name__)
    assert all(name in str(error.value) for name in Choices.names())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"arch_learning_rate": 0}, r"^arch_learning_rate must be positive, got 0\.$"),
        ({"arch_learning_rate": float("nan")}, r"^arch_learning_rate must be positive, got nan\.$"),
        ({"warmup_epochs": -1}, r"^warmup_epochs must be a whole number of at least 0, got -1\.$"),
        ({"warmup_epochs": 1.5}, r"^warmup_epochs must be a whole number of at least 0, got 1\.5\.$"),
        ({"warmup_epochs": True}, r"^warmup_epochs must be a whole number of at least 0, got True\.$"),
        ({"gradient_clip_val": 0}, r"^gradient_clip_val must be positive, or None for no clipping, got 0\.$"),
        ({"arch_gradient_clip_val": -2}, r"^arch_gradient_clip_val must be positive, or None .*, got -2\.$"),
    ],
)
def test_wrong_values_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        BNASD(**settings)


@pytest.mark.parametrize("fraction", [1, 0, -4])
def test_a_fraction_below_two_is_refused(fraction: int) -> None:
    with pytest.raises(ValueError, match=rf"^fraction must be a whole number of at least 2, got {fraction}\.$"):
        PartialChannels(fraction)
