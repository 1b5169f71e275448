"""A loss that is not finite is named with its epoch and step, and ends a retraining before anything is kept of it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from nni_plugins.data import load_data
from nni_plugins.methods.divergence import STEPS_BETWEEN_CHECKS, Diverged, FiniteLosses
from nni_plugins.run.checkpoint import checkpoints
from nni_plugins.run.epoch_report import EpochRecord
from nni_plugins.run.retrain import retrain
from nni_plugins.run.settings import Settings
from search_spaces import published


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_loss_that_is_not_finite_is_named_by_the_sixteenth_step(value: float) -> None:
    losses = FiniteLosses()
    for step in range(STEPS_BETWEEN_CHECKS - 1):
        losses.add(torch.tensor(value if step in (5, 7) else 1.0), epoch=2, step=step)
    with pytest.raises(Diverged, match=rf"^The loss became {value} in epoch 2, step 5; lower the learning rate"):
        losses.add(torch.tensor(1.0), epoch=2, step=STEPS_BETWEEN_CHECKS - 1)


def test_a_loss_is_checked_once() -> None:
    losses = FiniteLosses()
    losses.check()
    losses.add(torch.tensor(math.nan), epoch=0, step=3)
    with pytest.raises(Diverged, match="epoch 0, step 3"):
        losses.check()
    losses.check()


@pytest.mark.parametrize("batch_size", [16, 4], ids=["8 steps an epoch", "32 steps an epoch"])
def test_a_retraining_that_diverges_is_neither_reported_nor_kept(
    batch_size: int, tiny_data: str, tmp_path: Path
) -> None:
    overrides = {
        "retrain.epochs": 3, "retrain.batch_size": batch_size, "retrain.lr": 1e30, "retrain.cutout": 0,
        "retrain.gradient_clip_val": None, "net.channels": 4, "net.deep_cells": 0, "net.enhancement_cells": 1,
    }  # fmt: skip
    settings = Settings.of(data=tiny_data, overrides=overrides)
    epochs: list[EpochRecord] = []
    with pytest.raises(Diverged, match="in epoch 0, step"):
        retrain(published("bnas_v2_clr_v1"), settings, load_data(tiny_data), tmp_path, epochs.append)
    assert epochs == []
    assert checkpoints(tmp_path / "retrain") == []
