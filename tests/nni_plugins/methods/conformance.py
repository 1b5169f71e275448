"""What every method promises, checked on one that is given by name: the suite for ours and for those of other packages.

A method passes if, on each space that it is for, its search exports a valid architecture, follows from its seed alone,
survives a kill to the same result, leaves frozen what is frozen, and refuses what it cannot do before anything changes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from nni.nas.nn.pytorch import ModelSpace
from torch import nn

from nni_plugins.data import ImageData
from nni_plugins.methods.registry import method_spec
from nni_plugins.run.checkpoint import checkpoints
from nni_plugins.run.epoch_report import EpochRecord
from nni_plugins.run.networks import build_net, build_space
from nni_plugins.run.search import SearchResult, search
from nni_plugins.run.settings import Settings

TINY: dict[str, dict[str, Any]] = {
    "bcnn": {"space.channels": 4},
    "nasbench201": {"space.channels": 4, "space.cells": 1},
}
"""Sizes of the space; all others take those of the DARTS space."""
DARTS_LIKE = {"space.channels": 4, "space.layers": 3}
QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 8, "lr": 0.05, "cutout": 0, "consistency_batches": 1}


class Killed(Exception):
    """The run was ended from outside."""


@dataclass(frozen=True)
class Case:
    """A method on a space, with settings that differ from its own."""

    strategy: str
    space: str
    differing: tuple[tuple[str, Any], ...] = ()

    def settings(self, seed: int = 0, **more: Any) -> Settings:
        names = method_spec(self.strategy).load_strategy().setting_names()
        quick = {name: value for name, value in QUICK.items() if name not in self._unused()}
        small = {name: 2 for name in ("population_size",) if name in names}
        warmup = {name: 1 for name in ("warmup_epochs",) if method_spec(self.strategy).load_strategy().preset.get(name)}
        sizes = TINY.get(self.space, DARTS_LIKE)
        overrides = {**quick, **small, **warmup, **sizes, **dict(self.differing), **more}
        return Settings.of(strategy=self.strategy, space=self.space, data="none", seed=seed, overrides=overrides)

    def _unused(self) -> tuple[str, ...]:
        return method_spec(self.strategy).load_strategy().unused_settings


def data(size: int = 8) -> ImageData:
    """Dark and bright images in two classes."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(32) % 2
    x = torch.randint(0, 90, (32, 1, size, size), generator=generator) + 150 * y.view(-1, 1, 1, 1)
    x = x.to(torch.uint8)
    return ImageData("two classes", x, y, x[:8], y[:8], num_classes=2, flip=False)


def timeless(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in epoch.items() if name not in ("seconds", "memory_mb")} for epoch in history]


def final_state(folder: Path) -> dict[str, Any]:
    return torch.load(checkpoints(folder / "search")[0], weights_only=True)["state_dict"]


def kill_in_epoch(number: int) -> Callable[[EpochRecord], None]:
    """Return an ``on_epoch`` that ends the process's run before the checkpoint of epoch ``number`` is written."""

    def kill(record: EpochRecord) -> None:
        if record.epoch == number:
            raise Killed(record.to_dict())

    return kill


def check_export(case: Case, folder: Path) -> SearchResult:
    """The exported sample is an architecture of the space, whose network maps images to logits."""
    settings = case.settings()
    found = search(settings, data(), folder / "whole")
    build_space(settings, data()).validate(found.sample)
    net = build_net(found.genotype, settings, data(), found.sample)
    assert net.eval()(torch.zeros(2, 1, 8, 8)).shape == (2, 2)
    return found


def check_kill_and_resume(case: Case, folder: Path, found: SearchResult) -> None:
    """A search that is killed and run again ends as the whole one did: the seed alone decides, and nothing is lost."""
    settings = case.settings()
    with pytest.raises(Killed):
        search(settings, data(), folder / "killed", kill_in_epoch(1))
    resumed: list[int] = []
    again = search(settings, data(), folder / "killed", lambda record: resumed.append(record.epoch))
    assert 0 not in resumed, "the rerun started from the beginning"
    assert again.genotype == found.genotype and timeless(again.history) == timeless(found.history)
    before, after = final_state(folder / "whole"), final_state(folder / "killed")
    assert all(torch.equal(before[name], after[name]) for name in before)


def check_another_seed(case: Case, folder: Path, found: SearchResult) -> None:
    """Another seed gives another search from the first epoch on."""
    with pytest.raises(Killed) as killed:
        search(case.settings(seed=1), data(), folder / "other", kill_in_epoch(0))
    assert timeless(killed.value.args) != timeless(found.history[:1])


def check_frozen_parts(case: Case, folder: Path) -> None:
    """What has no gradient before the search is bit-identical after it, and something else has moved."""
    settings = case.settings()
    pl.seed_everything(settings.seed, verbose=False)
    supernet: nn.Module = settings.make_strategy().mutate_model(build_space(settings, data()))
    after = {name.split("model.", 1)[-1]: tensor for name, tensor in final_state(folder / "whole").items()}
    moved = {name for name, p in supernet.named_parameters() if not torch.equal(p, after[name])}
    frozen = {name for name, p in supernet.named_parameters() if not p.requires_grad}
    assert not moved & frozen
    assert moved, "nothing was trained"


def check_refusals(case: Case) -> None:
    """What the method cannot do is refused with a sentence, and the model is left as it was."""
    strategy = case.settings().make_strategy()
    plain = nn.Sequential(nn.Conv2d(1, 2, 3))
    names = list(plain.state_dict())
    with pytest.raises(ValueError, match=r"needs an NNI ModelSpace"):
        strategy.mutate_model(plain)  # type: ignore[arg-type]
    assert list(plain.state_dict()) == names

    class Fixed(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

    fixed = Fixed()
    before = copy.deepcopy(fixed.state_dict())
    with pytest.raises(ValueError, match="has nothing to search"):
        strategy.mutate_model(fixed)
    assert all(torch.equal(fixed.state_dict()[name], before[name]) for name in before)
    with pytest.raises(ValueError, match="no_such_setting"):
        type(strategy)(no_such_setting=1)
    with pytest.raises(ValueError, match="epochs must be a whole number"):
        replace(case.settings().search, epochs=0)
