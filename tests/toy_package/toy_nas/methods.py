"""A method made of nni-plugins' parts, and one that is NNI's and has no architecture parameters."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytorch_lightning as pl
from nni.nas.oneshot.pytorch.strategy import RandomOneShot

from nni_plugins.methods.bilevel.schedules import Confident
from nni_plugins.methods.bilevel.strategy import BilevelSearch
from nni_plugins.methods.metric import Metric, Metrics
from nni_plugins.methods.spec import EpochEnd, MethodSpec, OnSpace, SearchMethod

CANDIDATES_SEEN = Metric("candidates_seen", "batches, each of which trained a candidate of its own")


class ToyGradient(BilevelSearch):
    """DARTS with a cubic confident learning rate."""

    preset = MappingProxyType({"arch_lr": Confident(power=3)})


class ToyRandom(SearchMethod, RandomOneShot):
    """NNI's single-path search, as it is."""

    def __init__(self, **choices: Any) -> None:
        self.choices = type("NoChoices", (), {})()
        super().__init__()

    def epoch_metrics(self, module: pl.LightningModule, epoch: EpochEnd) -> Metrics:
        """Return the training metrics and a number of its own."""
        return {**epoch.training, CANDIDATES_SEEN: float(module.trainer.num_training_batches)}


GRADIENT = MethodSpec(
    name="toy_gradient",
    strategy=ToyGradient,
    summary="a toy",
    papers=(),
    search=MappingProxyType({"batch_size": 32}),
    spaces={"toy_space": OnSpace(arguments=MappingProxyType({"channels": 6}))},
)
RANDOM = MethodSpec(name="toy_random", strategy=ToyRandom, summary="another toy", papers=())
