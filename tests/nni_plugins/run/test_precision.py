"""bfloat16 autocast on the CPU: every method on every space that it can search, and the retraining of every space."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.random import RandomState

from nni_plugins.data import ImageData, load_data
from nni_plugins.methods.registry import method_specs
from nni_plugins.run.retrain import retrain
from nni_plugins.run.search import search
from nni_plugins.run.settings import Settings
from search_spaces import Genotype, space_names, space_spec

TINY = {"epochs": 1, "batch_size": 8, "precision": "bf16-mixed"}
PARTIAL_CHANNELS = {"bnas_v2_pc", "pc_darts", "rf_pcdarts"}
ANY_CONNECTIONS = {"entrannas_dst"}
"""What learns how many connections a node keeps."""
SAMPLED = {"relative_nas"}
"""What runs one sampled architecture at a time, of whatever space."""


@pytest.fixture(scope="module")
def images() -> ImageData:
    """Two steps of a search, four of a retraining."""
    x = torch.randint(0, 256, (32, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(32) % 2
    return ImageData("noise", x, y, x[:8], y[:8], 2, flip=False)


def fits(method: str, space: str) -> bool:
    if method in SAMPLED:
        return True
    if space == "nasbench201" and method in PARTIAL_CHANNELS:  # its operations are ready-made
        return False
    return (space == "darts_any") == (method in ANY_CONNECTIONS)


def tiny(method: str, space: str) -> Settings:
    own: dict[str, Any] = {"warmup_epochs": 0, "population_size": 2}
    names = method_specs()[method].load_strategy().setting_names()
    overrides = TINY | {name: value for name, value in own.items() if name in names}
    return Settings.of(strategy=method, space=space, overrides=overrides)


@pytest.mark.parametrize("space", space_names())
@pytest.mark.parametrize("method", method_specs())
def test_search(method: str, space: str, images: ImageData, tmp_path: Path) -> None:
    if not fits(method, space):
        with pytest.raises(ValueError, match=r"Partial channels|how many connections"):
            search(tiny(method, space), images, tmp_path)
        return
    result = search(tiny(method, space), images, tmp_path)
    assert result.genotype.space == space
    assert Genotype.from_sample(result.sample, space) == result.genotype


@pytest.mark.parametrize("method", ["bnas_v2_pc", "rf_darts", "entrannas"])
def test_losses_are_close_to_those_of_float32(method: str, tmp_path: Path) -> None:
    digits = load_data("digits")
    assert isinstance(digits, ImageData)
    images = replace(digits, x_train=digits.x_train[:160], y_train=digits.y_train[:160])
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        overrides = {"epochs": 2, "batch_size": 16, "lr": 0.02, "warmup_epochs": 0, "precision": precision}
        history = search(Settings.of(strategy=method, overrides=overrides), images, tmp_path / precision).history
        losses[precision] = [epoch[kind] for epoch in history for kind in ("weights_loss", "architecture_loss")]
    assert losses["bf16-mixed"] != losses["32-true"]
    assert losses["bf16-mixed"] == pytest.approx(losses["32-true"], rel=0.05)


@pytest.mark.parametrize("space", space_names())
def test_retraining(space: str, images: ImageData, tmp_path: Path) -> None:
    sample: dict[str, Any] = {}
    space_spec(space).load_network()(**space_spec(space).quick_search_sizes).random(sample, random_state=RandomState(0))
    overrides = {f"retrain.{name}": value for name, value in TINY.items()}
    settings = Settings.of(space=space, overrides=overrides)
    retrained = retrain(Genotype.from_sample(sample, space), settings, images, tmp_path)
    assert {parameter.dtype for parameter in retrained.net.parameters()} == {torch.float32}
    assert all(parameter.isfinite().all() for parameter in retrained.net.parameters())
