"""Retrain: from a genotype to trained weights, on the whole training set, tested once at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import nn

from nni_plugins.data import ImageSet, retrain_loaders
from nni_plugins.methods.metric import VALIDATION_ACCURACY
from nni_plugins.run.epoch_report import EpochRecord, EpochReport, History
from nni_plugins.run.networks import build_net, classifier_of
from nni_plugins.run.settings import Settings
from nni_plugins.run.training import device, make_trainer, resume_arguments
from search_spaces import Genotype


@dataclass(frozen=True)
class Retrained:
    """A trained network, its test accuracy in percent, and the metrics of every epoch."""

    net: nn.Module
    test_accuracy: float
    history: History


def retrain(
    genotype: Genotype,
    settings: Settings,
    data: ImageSet,
    folder: Path,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    sample: Mapping[str, Any] | None = None,
) -> Retrained:
    """Train the evaluation network of ``genotype``, or resume its training where ``folder`` says it was interrupted.

    Parameters
    ----------
    genotype, sample
        The architecture; ``sample`` is NNI's form of it, for a user's own space.
    settings
        Recipe, network sizes, seed.
    data
        Trains on all its training images; the test images are used once, after the last epoch.
    folder
        Checkpoints and logs.
    on_epoch
        Called with the record of every finished epoch.
    """
    recipe = settings.retrain
    pl.seed_everything(settings.seed, verbose=False)
    net = build_net(genotype, settings, data, sample)
    module = classifier_of(net, settings, data)
    batches, test_batches = retrain_loaders(
        data,
        batch_size=recipe.batch_size,
        seed=settings.seed,
        device=device(),
        cutout=recipe.cutout,
        channels_last=recipe.channels_last,
    )
    report = EpochReport(
        "retrain",
        lambda trainer, _: EpochRecord(trainer.current_epoch, module.epoch_metrics("training")),
        on_epoch,
    )
    trainer = make_trainer(recipe, folder, report, gradient_clip_val=recipe.gradient_clip_val)
    trainer.fit(module, batches, **resume_arguments(folder / "retrain"))
    trainer.validate(module, test_batches, verbose=False)
    accuracy = module.epoch_metrics("validation")[VALIDATION_ACCURACY]
    assert accuracy is not None, "there is a test image"
    return Retrained(net.cpu().eval(), accuracy, report.history)
