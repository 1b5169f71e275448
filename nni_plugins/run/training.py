"""What every training of a run shares: the device, the Lightning trainer, the checkpoint to resume from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins.environments import TorchElasticEnvironment

from nni_plugins.methods.data_parallel import DataParallel
from nni_plugins.run.checkpoint import EpochCheckpoint, VerifiedCheckpointIO, newest_intact
from nni_plugins.run.epoch_report import EpochReport, show_bar
from nni_plugins.run.recipes import Recipe
from nni_plugins.supernet.fast_layers import prefers_channels_last
from nni_plugins.tools.allocator import keep_freed_memory
from nni_plugins.tools.ranks import number_of_ranks


def device() -> str:
    """Return the device that work of this process runs on: the GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def channels_last(recipe: Recipe) -> bool:
    """Return whether features are laid out channels last: as the recipe says, or as the device likes it."""
    return prefers_channels_last() if recipe.channels_last is None else recipe.channels_last


def make_trainer(
    recipe: Recipe,
    folder: Path,
    report: EpochReport,
    *,
    extra_epochs: int = 0,
    callbacks: Sequence[pl.Callback] = (),
    **arguments: Any,
) -> pl.Trainer:
    """Return a Lightning trainer that checkpoints, reports and logs every epoch, for all ranks together.

    Parameters
    ----------
    recipe
        Length and precision.
    folder
        Checkpoints lie in its sub-folder named after the report's stage, logs in ``tensorboard``.
    report
        The callback that people see.
    extra_epochs
        Epochs beyond those of the recipe.
    callbacks
        Further callbacks, asked before the report.
    **arguments
        Passed on to the trainer.
    """
    keep_freed_memory()
    ranks = number_of_ranks()
    if ranks > 1:  # each sees one device alone, as a node of its own would
        arguments |= {"strategy": DataParallel(cluster_environment=TorchElasticEnvironment()), "num_nodes": ranks}
    return Trainer(
        max_epochs=recipe.epochs + extra_epochs,
        accelerator="gpu" if device() == "cuda" else "cpu",
        devices=1,
        precision=recipe.precision,
        callbacks=[*callbacks, report, EpochCheckpoint(folder / report.stage)],
        plugins=[VerifiedCheckpointIO()],
        logger=TensorBoardLogger(str(folder), name="tensorboard", version=report.stage),
        enable_model_summary=False,
        enable_progress_bar=show_bar(),
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        **arguments,
    )


def resume_arguments(folder: Path) -> dict[str, Any]:
    """Return arguments of ``Trainer.fit`` that resume from the newest intact checkpoint in ``folder``, if any."""
    checkpoint = newest_intact(folder)
    return {"weights_only": True} | ({} if checkpoint is None else {"ckpt_path": str(checkpoint)})
