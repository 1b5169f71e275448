"""One checkpoint an epoch, from which an interrupted run resumes as if it had never stopped.

Lightning's own checkpoint holds weights, architecture parameters, optimisers, schedules and the epoch; the data order
is a function of seed and epoch; callbacks add history and random states. It is written atomically and read with
``weights_only``, so that loading one executes no code. Beside ``epoch-0001.ckpt`` lies ``epoch-0001.ckpt.sha256``, as
``sha256sum --check`` reads it: a checkpoint that changed in a single bit is not used.
"""

from __future__ import annotations

import hashlib
import io
import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins import TorchCheckpointIO

from nni_plugins.tools.atomic_files import atomic_write

_logger = logging.getLogger(__name__)

KEPT = 2


class DamagedCheckpointError(ValueError):
    """A checkpoint is not what was written."""


class VerifiedCheckpointIO(TorchCheckpointIO):
    """How Lightning writes and reads checkpoints: atomically, beside their target, with a checksum.

    Lightning's own way goes through the temporary folder of the system, which may be a small disk or memory.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``, and its SHA-256 beside it.

        Raises
        ------
        FullDiskError
            If there is no room for it; what was at ``path`` is left as it was.
        """
        path, content = Path(path), io.BytesIO()
        torch.save(checkpoint, content)
        # first, so that a checkpoint is never without its checksum however early the process is killed
        atomic_write(_checksum_file(path), f"{hashlib.sha256(content.getbuffer()).hexdigest()}  {path.name}\n")
        atomic_write(path, content.getbuffer())

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Return the checkpoint at ``path``.

        Raises
        ------
        DamagedCheckpointError
            If it cannot be read, or does not match its checksum.
        """
        path = Path(path)
        try:
            content = path.read_bytes()
            expected = _checksum_file(path).read_text().split()[0]
            if hashlib.sha256(content).hexdigest() != expected:
                raise DamagedCheckpointError("it does not match its checksum")
            return torch.load(io.BytesIO(content), map_location=map_location, weights_only=weights_only)
        except Exception as error:
            raise DamagedCheckpointError(f"The checkpoint {path} is damaged ({_first_line(error)}).") from error


def _checksum_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")


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
        trainer.save_checkpoint(self.folder / f"epoch-{trainer.current_epoch + 1:04d}.ckpt", weights_only=False)
        if not trainer.is_global_zero:  # the first of several ranks writes, and tidies up
            return
        for old in checkpoints(self.folder)[KEPT:]:
            old.unlink()
            _checksum_file(old).unlink(missing_ok=True)
        for cut_short in self.folder.glob(".epoch-*"):  # by a kill; the run that holds the folder is the only one here
            cut_short.unlink()

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
    """Return the checkpoints in ``folder``, the newest first."""
    return sorted(Path(folder).glob("epoch-*.ckpt"), reverse=True)


def newest_intact(folder: str | Path) -> Path | None:
    """Return the newest checkpoint that is as it was written, or None if there is no checkpoint at all.

    Damaged ones are named in the log and passed over, and left where they are.

    Raises
    ------
    DamagedCheckpointError
        If there are checkpoints and all of them are damaged.
    """
    found = checkpoints(folder)
    for path in found:
        try:
            VerifiedCheckpointIO().load_checkpoint(path)
        except DamagedCheckpointError as error:
            _logger.warning("%s", error)
        else:
            if path != found[0]:
                _logger.warning("Resuming from %s, the newest checkpoint that is intact.", path)
            return path
    if found:
        raise DamagedCheckpointError(
            f"Every checkpoint is damaged: {' and '.join(map(str, found))}. Nothing was deleted; restore one of them "
            "with its .sha256 file from a backup, or move them away to start anew."
        )
    return None
