"""The folder that a run works in: one live process at a time, and only the run that began there.

Beside checkpoints and logs it holds ``settings.json``: the settings, the SHA-256 of the data, and the numbers of CPU
threads that computed the run so far. ``run.lock`` is locked by the operating system, so that the lock ends with the
process that holds it, however that ends; ``run.holder`` names the process.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from filelock import FileLock, Timeout

from nni_plugins.data import ImageSet
from nni_plugins.run.settings import Settings
from nni_plugins.tools.atomic_files import atomic_write, naming_a_full_disk, strict_json
from search_spaces import Genotype

_logger = logging.getLogger(__name__)

WORKERS_OUTLIVE = 10.0
"""Seconds for which the data loader's workers of a killed process may hold its lock: they look for it every five."""


@dataclass(frozen=True)
class Claim:
    """What a claimed folder knows of its run.

    Parameters
    ----------
    data_sha256
        Fingerprint of the data.
    threads
        Numbers of CPU threads that torch has computed the run with, in their order; several if it was resumed with
        another number.
    """

    data_sha256: str
    threads: tuple[int, ...]


@contextlib.contextmanager
def claim(
    work: Path,
    settings: Settings,
    data: ImageSet,
    *,
    genotype: Genotype | None = None,
    out: Path | None = None,
) -> Iterator[Claim]:
    """Hold ``work`` for a run of ``settings`` on ``data``, new or resumed, and ``out`` for its results.

    Parameters
    ----------
    work
        Folder of checkpoints and logs.
    settings, data, genotype
        What the run is; a resumed one must have the same. ``genotype`` is that of a retraining alone.
    out
        Folder of results, which another run may not be about to write.

    Yields
    ------
    Claim
        What ends up in the report. A resume with another number of threads gives a warning.

    Raises
    ------
    ValueError
        If ``work`` holds a run with other settings, or whose data was different.
    BlockingIOError
        If another process holds ``work`` or ``out``.
    FullDiskError
        If a disk is full inside the block.
    """
    with contextlib.ExitStack() as held:
        held.enter_context(locked(work, work / "run.lock"))
        if out is not None:
            held.enter_context(reserved(out))
        held.enter_context(naming_a_full_disk(work))
        yield _begin_or_resume(work, settings, data, genotype)


def reserved(out: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the result folder ``out``, which need not exist, by a hidden lock file beside it; see :func:`locked`."""
    return locked(out, out.with_name(f".{out.name}.lock"))


@contextlib.contextmanager
def locked(folder: Path, lock_file: Path) -> Iterator[None]:
    """Hold ``folder`` inside the block; a file beside ``lock_file``, with the ending ``.holder``, names this process.

    Raises
    ------
    BlockingIOError
        If another process holds it.
    OSError
        If the file system has no locks.
    """
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    lock, holder_file = FileLock(lock_file), lock_file.with_suffix(".holder")
    try:
        lock.acquire(timeout=WORKERS_OUTLIVE if _has_died(_read_holder(holder_file)) else 0)
    except Timeout:
        raise BlockingIOError(
            f"{folder} is in use by {_read_holder(holder_file) or 'another process'}; wait until it ends, or end it, "
            "then run the same again."
        ) from None
    except NotImplementedError:
        raise OSError(f"The file system of {folder} cannot lock files; choose a folder on another one.") from None
    try:
        # not inside the lock file, which filelock empties whenever a process asks for the lock
        atomic_write(holder_file, strict_json({"host": socket.gethostname(), "pid": os.getpid()}, indent=None))
        yield
    finally:
        holder_file.unlink(missing_ok=True)
        lock.release()


@dataclass(frozen=True)
class _Holder:
    host: str
    pid: int

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def _read_holder(path: Path) -> _Holder | None:
    try:
        return _Holder(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):  # the holder has not written it yet, or the disk damaged it
        return None


def _has_died(holder: _Holder | None) -> bool:
    return holder is not None and holder.host == socket.gethostname() and not psutil.pid_exists(holder.pid)


def _begin_or_resume(work: Path, settings: Settings, data: ImageSet, genotype: Genotype | None) -> Claim:
    path, threads = work / "settings.json", [torch.get_num_threads()]
    cell = {} if genotype is None else {"genotype": json.loads(genotype.to_json())}
    run = json.loads(strict_json({**settings.to_dict(), **cell, "data_sha256": data.fingerprint()}))
    if path.is_file():
        before = _read_run(path)
        threads_before = before.pop("threads", [])
        if {**before, "data_sha256": None} != {**run, "data_sha256": None}:
            raise ValueError(
                f"{work} holds a run with other settings (see {path.name} there); choose another output folder, use "
                "the same settings to resume it, or delete the folder."
            )
        if before.get("data_sha256") != run["data_sha256"]:
            raise ValueError(
                f"The data {settings.data} has changed since the run in {work} began; bring the same images and labels "
                "back to resume it, choose another output folder, or delete the folder."
            )
        if threads_before and any(work.glob("*/epoch-*.ckpt")):
            if threads_before[-1:] != threads:
                _logger.warning(
                    "The run in %s was computed with %d CPU threads and resumes with %d: its result will differ in the "
                    "last bits from an uninterrupted one. Set OMP_NUM_THREADS=%d for the same bits.",
                    work, threads_before[-1], threads[0], threads_before[-1],
                )  # fmt: skip
                threads = threads_before + threads
            else:
                threads = threads_before
    atomic_write(path, strict_json({**run, "threads": threads}) + "\n")
    return Claim(run["data_sha256"], tuple(threads))


def _read_run(path: Path) -> dict[str, Any]:
    try:
        run = json.loads(path.read_text())
        if isinstance(run, dict):
            return run
    except ValueError:
        pass
    raise ValueError(
        f"{path} is damaged; restore it from a backup to resume the run, or delete the folder to start anew."
    )
