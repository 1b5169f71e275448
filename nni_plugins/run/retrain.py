"""Retrain: from a genotype to trained weights, on the whole training set, tested once at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nni_plugins.data import ImageData, StreamedImages, retrain_loaders
from nni_plugins.run.classifier import ImageClassifier
from nni_plugins.run.epoch_report import EpochMetrics, EpochReport
from nni_plugins.run.search import build_space, device, make_trainer, resume_arguments, shape_arguments
from nni_plugins.run.settings import Settings
from nni_plugins.supernet.depthwise import use_fast_depthwise
from search_spaces import Genotype, evaluation_net
from search_spaces.genotype import is_own_space


@dataclass(frozen=True)
class Retrained:
    """A trained network, its test accuracy in percent, and the metrics of every epoch."""

    net: nn.Module
    test_accuracy: float
    history: list[EpochMetrics]


def build_net(
    genotype: Genotype, settings: Settings, data: ImageData | StreamedImages, sample: Mapping[str, Any] | None = None
) -> nn.Module:
    """The evaluation network of ``genotype`` for ``data``; a user's own space freezes itself with NNI's ``sample``."""
    if is_own_space(genotype.space):
        return build_space(settings, data).freeze(dict(sample or genotype.to_sample()))
    shape = shape_arguments(genotype.space, data)
    dataset = "imagenet" if shape["stem"] == "imagenet" else "cifar10"
    drop_path = {"drop_path": settings.retrain.drop_path} if settings.retrain.drop_path else {}
    sizes = {**shape, **drop_path, **settings.net_arguments}
    return evaluation_net(genotype, dataset, **sizes)


def retrain(
    genotype: Genotype,
    settings: Settings,
    data: ImageData | StreamedImages,
    folder: Path,
    on_epoch: Callable[[EpochMetrics], None] | None = None,
    sample: Mapping[str, Any] | None = None,
) -> Retrained:
    """Train the evaluation network of ``genotype``, or go on with it where ``folder`` says it was interrupted.

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
        Called with the metrics of every finished epoch.
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
    report = EpochReport(on_epoch, stage="retrain")
    report.measure = lambda *_: module.epoch_metrics("training")
    trainer = make_trainer(recipe, folder, report, "retrain", gradient_clip_val=recipe.gradient_clip_val)
    trainer.fit(module, batches, **resume_arguments(folder / "retrain"))
    trainer.validate(module, test_batches, verbose=False)
    accuracy = module.epoch_metrics("validation")["validation_accuracy"]
    return Retrained(net.cpu().eval(), accuracy, report.history)


def classifier_of(net: nn.Module, settings: Settings, data: ImageData | StreamedImages) -> ImageClassifier:
    """The Lightning module that trains ``net`` by the settings' recipe."""
    recipe = settings.retrain
    if recipe.channels_last:
        cast(Any, net).to(memory_format=torch.channels_last)
    module = ImageClassifier(
        recipe, data.num_classes, drop_path=recipe.drop_path, auxiliary_weight=recipe.auxiliary_weight
    )
    module.set_model(use_fast_depthwise(net))
    return module


def count_parameters(net: nn.Module) -> int:
    """Parameters of ``net``, shared ones once."""
    return sum(parameter.numel() for parameter in net.parameters())


def count_multiply_adds(net: nn.Module, in_channels: int, image_size: int) -> int:
    """Multiply-adds of convolutions and linear layers for one image, in evaluation mode."""
    training = net.training
    example = next(net.parameters()).new_zeros(1, in_channels, image_size, image_size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net.eval()(example)
    net.train(training)
    return counter.get_total_flops() // 2
