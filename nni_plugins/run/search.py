"""Search: from settings to a genotype, resumable after every epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import Lightning, Trainer
from nni.nas.nn.pytorch import ModelSpace
from pytorch_lightning.loggers import TensorBoardLogger

from nni_plugins.data import ImageData, StreamedImages, search_loaders
from nni_plugins.methods.bilevel.strategy import BilevelSearch
from nni_plugins.methods.registry import make_space
from nni_plugins.run.checkpoint import EpochCheckpoint, newest_intact
from nni_plugins.run.classifier import ImageClassifier
from nni_plugins.run.epoch_metrics import GradientWatch, PopulationWatch, genotype_of_epoch, hessian_stop_epoch
from nni_plugins.run.epoch_report import EpochMetrics, EpochReport, show_bar
from nni_plugins.run.settings import Recipe, Settings
from search_spaces import Genotype

IMAGENET_SIZE = 128
"""Images of at least this side get the ImageNet stem."""


@dataclass(frozen=True)
class SearchResult:
    """What a search leaves: the architecture, NNI's sample of it, and the metrics of every epoch."""

    genotype: Genotype
    sample: dict[str, Any]
    history: list[EpochMetrics]


def device() -> str:
    """The device that work runs on: the GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def shape_arguments(space: str, data: ImageData | StreamedImages) -> dict[str, Any]:
    """What the data asks of a network: classes, image channels and, for this package's spaces, the stem."""
    arguments: dict[str, Any] = {"num_classes": data.num_classes, "in_channels": data.in_channels}
    if ":" not in space:
        arguments["stem"] = "imagenet" if data.image_size >= IMAGENET_SIZE else "cifar"
    return arguments


def build_space(settings: Settings, data: ImageData | StreamedImages) -> ModelSpace:
    """A fresh model space for ``data``.

    Raises
    ------
    ValueError
        If the space does not take the settings' arguments.
    """
    return make_space(settings.space, **{**shape_arguments(settings.space, data), **settings.space_arguments})


def search(
    settings: Settings,
    data: ImageData | StreamedImages,
    folder: Path,
    on_epoch: Callable[[EpochMetrics], None] | None = None,
) -> SearchResult:
    """Run the search of ``settings``, or go on with it where ``folder`` says it was interrupted.

    Parameters
    ----------
    settings
        Strategy, space, recipe, seed.
    data
        Only its training images are used.
    folder
        Checkpoints and logs.
    on_epoch
        Called with the metrics of every finished epoch.

    Raises
    ------
    ValueError
        If the strategy cannot search the space.
    SearchDiverged
        If a loss is not finite.
    """
    pl.seed_everything(settings.seed, verbose=False)
    strategy, recipe = settings.make_strategy(), settings.search
    supernet = strategy.mutate_model(build_space(settings, data))
    if recipe.channels_last:
        supernet = supernet.to(memory_format=torch.channels_last)
    weights_batches, architecture_batches, validation_batches = search_loaders(
        data,
        batch_size=recipe.batch_size,
        seed=settings.seed,
        device=device(),
        fractions=(recipe.weights_fraction, recipe.architecture_fraction),
        cutout=recipe.cutout,
        augment_validation=recipe.augment_validation,
        channels_last=recipe.channels_last,
    )
    report = EpochReport(on_epoch, stage="search")
    trainer = make_trainer(recipe, folder, report, "search", extra_epochs=strategy.extra_epochs)
    module = ImageClassifier(recipe, data.num_classes)
    if isinstance(strategy, BilevelSearch):
        report.measure = GradientWatch(settings, validation_batches)
        report.stops = lambda history: hessian_stop_epoch(recipe, history) is not None
        evaluator = strategy.mutate_evaluator(Lightning(module, trainer, weights_batches, architecture_batches))
        evaluator.val_dataloaders = validation_batches
    else:
        report.measure = PopulationWatch(settings)
        evaluator = strategy.mutate_evaluator(Lightning(module, trainer, weights_batches, validation_batches))
    evaluator.fit_kwargs = resume_arguments(folder / "search")
    evaluator.evaluate(supernet)
    if (epoch := hessian_stop_epoch(recipe, report.history)) is not None:
        genotype = genotype_of_epoch(report.history, epoch + 1)
        return SearchResult(genotype, genotype.to_sample(), report.history)
    sample = evaluator.module.export()
    return SearchResult(Genotype.from_sample(sample, settings.space), sample, report.history)


def make_trainer(
    recipe: Recipe, folder: Path, report: EpochReport, stage: str, *, extra_epochs: int = 0, **arguments: Any
) -> pl.Trainer:
    """A Lightning trainer that checkpoints, reports and logs every epoch."""
    return Trainer(
        max_epochs=recipe.epochs + extra_epochs,
        accelerator="gpu" if device() == "cuda" else "cpu",
        devices=1,
        precision=recipe.precision,
        callbacks=[report, EpochCheckpoint(folder / stage)],
        logger=TensorBoardLogger(str(folder), name="tensorboard", version=stage),
        enable_model_summary=False,
        enable_progress_bar=show_bar(),
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        **arguments,
    )


def resume_arguments(folder: Path) -> dict[str, Any]:
    """Arguments of ``Trainer.fit`` that go on from the newest intact checkpoint in ``folder``, if there is one."""
    checkpoint = newest_intact(folder)
    return {"weights_only": True} | ({} if checkpoint is None else {"ckpt_path": str(checkpoint)})
