"""What a run will need is built before it begins, whatever the space; what cannot be built is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import nn

from nni_plugins.data import load_data
from nni_plugins.run.rehearsal import rehearse
from nni_plugins.run.settings import Settings
from nni_plugins.tools.own_code import allow
from search_spaces.registry import space_names

SMALL = {"batch_size": 16, "retrain.batch_size": 16, "retrain.cutout": 0, "space.channels": 4, "net.channels": 4}


@pytest.mark.parametrize("space", space_names())
def test_a_right_setting_of_every_space_passes(space: str, tiny_data: str) -> None:
    strategy = "entrannas_dst" if space == "darts_any" else "darts"
    rehearse(Settings.of(strategy=strategy, space=space, data=tiny_data, overrides=SMALL), load_data(tiny_data))


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("batch_size", 65, "batch_size 65 exceeds the 64 images of the weights part"),
        ("retrain.batch_size", 129, r"^The settings retrain\.\* do not fit the data: batch_size 129 exceeds the 128"),
        ("retrain.cutout", 8, r"^The settings retrain\.\* do not fit the data: cutout 8 covers whole 8x8 images"),
    ],
)
def test_a_wrong_setting_is_refused(setting: str, value: int, sentence: str, tiny_data: str) -> None:
    settings = Settings.of(data=tiny_data, overrides={**SMALL, setting: value})
    with pytest.raises(ValueError, match=sentence):
        rehearse(settings, load_data(tiny_data))


def test_a_table_is_for_its_own_space(tiny_data: str, tmp_path: Path) -> None:
    settings = Settings.of(data=tiny_data, overrides={**SMALL, "table": f"{tmp_path}/none.npz"})
    with pytest.raises(FileNotFoundError, match="There is no table at"):
        rehearse(settings, load_data(tiny_data))


class Headless(ModelSpace):
    """A space of one's own that has forgotten its classifier."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.layer = LayerChoice([nn.Identity(), nn.ReLU()], label="layer")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images).flatten(1)


def test_a_network_without_logits_for_the_classes_is_refused(tiny_data: str) -> None:
    name = f"{__name__}:Headless"
    allow(name, "search space")
    overrides = {key: value for key, value in SMALL.items() if key.startswith(("batch", "retrain"))}
    settings = Settings.of(strategy="darts", space=name, data=tiny_data, overrides=overrides)
    sentence = r"must return logits \(N, classes\), for two images and 2 classes it gave \(2, 64\)"
    with pytest.raises(ValueError, match=sentence):
        rehearse(settings, load_data(tiny_data))
