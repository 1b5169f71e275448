"""One checkpoint an epoch, from which an interrupted run goes on as if it had never stopped.

Lightning's own checkpoint holds weights, architecture parameters, optimisers, schedules and the epoch; the data order
is a function of seed and epoch; callbacks add history and random states. It is written atomically and read with
``weights_only``, so that loading one executes no code.
"""

from __future__ import annotations

import logging
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

_logger = logging.getLogger(__name__)

KEPT = 2


class EpochCheckpoint(Checkpoint):
    """Write a checkpoint at the end of every epoch; keep the last two.

    Parameters
    ----------
    folder
        Where they lie: ``epoch-0001.ckpt`` after the first epoch.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"epoch-{trainer.current_epoch + 1:04d}.ckpt"
        temporary = path.with_suffix(".partial")
        trainer.save_checkpoint(temporary, weights_only=False)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        for old in checkpoints(self.folder)[KEPT:]:
            old.unlink()

    def state_dict(self) -> dict[str, Any]:
        numpy_name, numpy_key, *numpy_rest = np.random.get_state()
        return {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "python": random.getstate(),
            "numpy": [numpy_name, torch.from_numpy(np.asarray(numpy_key).astype(np.int64)), *numpy_rest],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        torch.set_rng_state(state_dict["torch"])
        if state_dict["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state_dict["cuda"])
        version, internal, gauss = state_dict["python"]
        random.setstate((version, tuple(internal), gauss))
        name, key, *rest = state_dict["numpy"]
        np.random.set_state((name, key.numpy().astype(np.uint32), *rest))


def checkpoints(folder: str | Path) -> list[Path]:
    """Checkpoints in ``folder``, the newest first."""
    return sorted(Path(folder).glob("epoch-*.ckpt"), reverse=True)


def newest_intact(folder: str | Path) -> Path | None:
    """The newest checkpoint that can be read; damaged ones are named in the log and passed over."""
    for path in checkpoints(folder):
        try:
            torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            _logger.warning(
                "The checkpoint %s is damaged (%s); going on from the one before it.", path, type(error).__name__
            )
        else:
            return path
    return None
