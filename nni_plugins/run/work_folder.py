"""The folder that a run works in: one live process at a time, and every stage of it only for what began there.

Each stage (search, retraining, evaluation) has a sub-folder with its checkpoints and ``settings.json``: the settings
that the stage depends on, the SHA-256 of the data, the version of this package and the numbers of CPU threads that
computed it so far. So a run whose retraining is set otherwise still has its search. ``run.lock`` is the folder's lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import itertools
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nni_plugins.run.checkpoint import checkpoints
from nni_plugins.run.settings import Settings
from nni_plugins.tools.atomic_files import atomic_write, naming_a_full_disk, strict_json
from nni_plugins.tools.folder_lock import locked, reserved
from search_spaces import Genotype

_logger = logging.getLogger(__name__)


@contextlib.contextmanager
def claim(work: Path, *, out: Path | None = None) -> Iterator[None]:
    """Hold ``work`` for one run, and ``out`` for its results.

    Parameters
    ----------
    work
        Folder of checkpoints and logs.
    out
        Folder of results, which another run may not be about to write.

    Raises
    ------
    BlockingIOError
        If another process holds ``work`` or ``out``.
    PermissionError
        If one of them may not be written.
    FullDiskError
        If a disk is full inside the block.
    """
    with contextlib.ExitStack() as held:
        held.enter_context(locked(work, work / "run.lock"))
        if out is not None:
            held.enter_context(reserved(out))
        held.enter_context(naming_a_full_disk(work))
        yield


@dataclass(frozen=True)
class Stage:
    """One training of a run, by all that its outcome depends on.

    Parameters
    ----------
    name
        ``search``, ``retrain`` or ``evaluate``: the sub-folder of the work folder.
    depends_on
        JSON values; a stage is resumed only by one with the same.
    data_name, data_sha256
        What messages call the data, and its fingerprint.
    """

    name: str
    depends_on: Mapping[str, Any]
    data_name: str
    data_sha256: str

    @classmethod
    def of_search(cls, settings: Settings, data_sha256: str) -> Stage:
        """Return the search of ``settings``, whose table of latencies, if they name one, must exist."""
        parts = ("strategy", "space", "data", "seed", "choices", "search", "space_arguments")
        path = settings.search.latency_table
        table = {} if path is None else {"latency_table": hashlib.sha256(Path(path).read_bytes()).hexdigest()}
        return cls("search", {**_chosen(settings, parts), **table}, settings.data, data_sha256)

    @classmethod
    def of_retraining(
        cls, settings: Settings, genotype: Genotype, data_sha256: str, initial_sha256: str | None = None
    ) -> Stage:
        """Return the retraining of ``genotype`` with ``settings``, from the weights with this SHA-256 if given."""
        parts = ("space", "data", "seed", "retrain", "space_arguments", "net_arguments")
        initial = {} if initial_sha256 is None else {"initial_weights": initial_sha256}
        return cls("retrain", {**_chosen(settings, parts, genotype), **initial}, settings.data, data_sha256)

    @classmethod
    def of_evaluation(cls, settings: Settings, genotype: Genotype, data_sha256: str) -> Stage:
        """Return the evaluation of the candidate ``genotype`` with ``settings``; it splits the data as a search."""
        parts = ("space", "data", "seed", "search", "retrain", "space_arguments", "net_arguments")
        return cls("evaluate", _chosen(settings, parts, genotype), settings.data, data_sha256)

    def enter(self, work: Path, *, first: bool = True) -> tuple[int, ...]:
        """Begin or resume the stage in ``work``, which must be claimed.

        Parameters
        ----------
        work
            The work folder.
        first
            Whether the run begins with this stage. What lies there of a first stage with other settings is refused; of
            a later one, it is set aside.

        Returns
        -------
        tuple of int
            Numbers of CPU threads that torch has computed the stage with, in their order. A resume with another number
            gives a warning.

        Raises
        ------
        ValueError
            If the folder holds another first stage, its data was different, or another version of this package began
            the stage: what a checkpoint holds, and what is computed from it, may differ between versions.
        """
        folder = work / self.name
        path = folder / "settings.json"
        version = importlib.metadata.version("nni-plugins")
        threads: tuple[int, ...] = (torch.get_num_threads(),)
        if checkpoints(folder):  # nothing is lost of a stage that has none
            before = _read_stage(path)
            if before["data_sha256"] != self.data_sha256:
                raise ValueError(
                    f"The data {self.data_name} has changed since the run in {work} began; bring the same images and "
                    "labels back to resume it, choose another output folder, or delete the folder."
                )
            if before["version"] != version:
                raise ValueError(
                    f"{folder} holds a {self.name} that nni-plugins {before['version']} began, and this is {version}; "
                    "install that version to resume it, choose another output folder, or delete the folder."
                )
            if before["depends_on"] == json.loads(strict_json(self.depends_on)):
                threads = _resumed_threads(folder, tuple(before["threads"]), threads[0])
            elif first:
                raise ValueError(
                    f"{folder} holds a {self.name} with other settings (see {path.name} there); choose another output "
                    "folder, use the same settings to resume it, or delete the folder."
                )
            else:
                aside = _set_aside(folder)
                _logger.warning(
                    "The settings of this stage have changed: it begins anew, and what was trained with the others is "
                    "kept in %s; rename it to %s to resume that.", aside, folder.name,
                )  # fmt: skip
        record = {"version": version, "depends_on": self.depends_on, "data_sha256": self.data_sha256}
        atomic_write(path, strict_json({**record, "threads": threads}) + "\n")
        return threads


def leave(work: Path) -> None:
    """Remove the checkpoints of all stages of a run that has its result; logs stay."""
    for name in ("search", "retrain", "evaluate"):
        for folder in (work / name, *work.glob(f"{name}-[0-9]*")):
            shutil.rmtree(folder, ignore_errors=True)


def _chosen(settings: Settings, parts: Sequence[str], genotype: Genotype | None = None) -> dict[str, Any]:
    values = settings.to_dict()
    del values["search"]["compile"]  # the same computation, to rounding
    cell = {} if genotype is None else {"genotype": json.loads(genotype.to_json())}
    return {**{name: values[name] for name in parts}, **cell}


def _resumed_threads(folder: Path, before: tuple[int, ...], now: int) -> tuple[int, ...]:
    if before[-1] == now:
        return before
    _logger.warning(
        "What lies in %s was computed with %d CPU threads and resumes with %d: its result will differ in the last bits "
        "from an uninterrupted one. Set OMP_NUM_THREADS=%d for the same bits.",
        folder, before[-1], now, before[-1],
    )  # fmt: skip
    return (*before, now)


def _set_aside(folder: Path) -> Path:
    aside = next(path for n in itertools.count(1) if not (path := folder.with_name(f"{folder.name}-{n}")).exists())
    folder.rename(aside)
    return aside


def _read_stage(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
        if record["threads"] and {"version", "depends_on", "data_sha256"} <= record.keys():
            return record
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        pass
    raise ValueError(
        f"{path} is missing or damaged; restore it from a backup to resume the run, or delete {path.parent} to start "
        "it anew."
    )
