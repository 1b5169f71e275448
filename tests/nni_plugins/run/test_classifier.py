"""What the Lightning module reports of its batches, against figures made from all images at once."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nni_plugins.methods.metric import TRAINING_ACCURACY, TRAINING_LOSS, VALIDATION_ACCURACY, VALIDATION_LOSS
from nni_plugins.run.classifier import ImageClassifier
from nni_plugins.run.recipes import Recipe


def classifier(**recipe: float) -> ImageClassifier:
    module = ImageClassifier(Recipe(**recipe), 3)  # type: ignore[arg-type]
    torch.manual_seed(0)
    module.set_model(nn.Linear(4, 3))
    return module


def images(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 4, generator=generator), torch.randint(3, (count,), generator=generator)


@pytest.mark.parametrize("size", [1, 4, 10])
def test_validation_does_not_depend_on_the_batches(size: int) -> None:
    module, (x, y) = classifier(label_smoothing=0.2), images(10)  # batches of 4, 4 and 2
    for number, batch in enumerate(zip(x.split(size), y.split(size), strict=True)):
        module.validation_step(batch, number)
    metrics = module.epoch_metrics("validation")
    logits = module.model(x)
    assert metrics[VALIDATION_LOSS] == pytest.approx(float(F.cross_entropy(logits, y)), rel=1e-6)
    assert metrics[VALIDATION_ACCURACY] == pytest.approx(10 * int((logits.argmax(1) == y).sum()))
    assert module.epoch_metrics("validation") == {}


def test_training_metrics_are_those_of_the_steps() -> None:
    module, (x, y) = classifier(label_smoothing=0.2), images(8)
    losses = [float(module.training_step(batch, 0)) for batch in zip(x.split(4), y.split(4), strict=True)]
    metrics = module.epoch_metrics("training")
    assert metrics[TRAINING_LOSS] == pytest.approx(sum(losses) / 2, rel=1e-6)
    assert metrics[TRAINING_ACCURACY] == pytest.approx(12.5 * int((module.model(x).argmax(1) == y).sum()))


def test_a_loss_that_is_not_finite_is_told_as_it_is() -> None:
    module, (x, y) = classifier(), images(8)
    x[0] = torch.nan
    for number, batch in enumerate(zip(x.split(4), y.split(4), strict=True)):
        module.validation_step(batch, number)
        module.training_step(batch, number)
    assert math.isnan(module.epoch_metrics("validation")[VALIDATION_LOSS] or 0)
    assert math.isnan(module.epoch_metrics("training")[TRAINING_LOSS] or 0)
