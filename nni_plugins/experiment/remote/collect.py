"""Bring home what the trials of a remote experiment have left on their machines: NNI fetches their logs alone.

Of a trial ``ID-TRIAL`` the result folder goes to ``OUT/ID-TRIAL``, and what else it has written (TensorBoard's event
files, logs, the newest checkpoint while it is unfinished) to ``OUT/ID-TRIAL.run``, where ``nni-plugins search`` would
keep it. Files that are home and right are not fetched again; one that was cut short is resumed. A file arrives only
when its SHA-256 is what was computed on its machine, and a result folder only when all of its files have.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shlex
import shutil
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import asyncssh
from rich.console import Console
from rich.table import Table

from nni_plugins.experiment.remote import listing
from nni_plugins.experiment.remote.machine import LostConnectionError, Machine, connected, run_python
from nni_plugins.experiment.remote.records import RemoteExperiment, RemoteTrial, read_experiment
from nni_plugins.run.trial_record import TRIAL_RECORD, TrialRecord
from nni_plugins.tools.atomic_files import atomic_directory, naming_a_full_disk
from nni_plugins.tools.folder_lock import locked, reserved

_CHUNK = 4 << 20
_ATTEMPTS = 3  # a running trial may replace a file between its listing and its copy


class ChangedError(OSError):
    """A file is no longer, or not yet, what its machine said it is."""


@dataclass(frozen=True)
class Collected:
    """What has been brought home of one trial.

    Attributes
    ----------
    trial
        The trial.
    result
        Its result folder, None if it has none.
    work
        Where its logs and its last checkpoint are, None if it has left nothing.
    files, fetched
        Number of files that are home, and of those that were fetched now.
    problem
        Why it is not all home; empty if it is.
    """

    trial: RemoteTrial
    result: Path | None = None
    work: Path | None = None
    files: int = 0
    fetched: int = 0
    problem: str = ""


def collect(
    experiment: RemoteExperiment, out: Path, *, on_trial: Callable[[Collected], None] = lambda collected: None
) -> list[Collected]:
    """Bring all trials home, the machines side by side.

    Parameters
    ----------
    experiment
        The experiment, from :func:`~nni_plugins.experiment.remote.records.read_experiment`.
    out
        Folder that results go to.
    on_trial
        Is told of each trial as soon as it is home.

    Returns
    -------
    list[Collected]
        One entry for each trial, in their order; ``problem`` says what a machine that cannot be reached has kept.
    """
    return asyncio.run(_collect(experiment, out, on_trial))


def collect_trial(experiment: RemoteExperiment, trial: str, out: Path) -> Collected:
    """Bring one trial home; parameters and result as in :func:`collect`.

    Raises
    ------
    ValueError
        If the experiment has no such trial, or it has not been on a machine yet.
    """
    chosen = tuple(one for one in experiment.trials if one.id == trial)
    if not chosen:
        raise ValueError(f"No trial {trial} of experiment {experiment.id} has been on a machine yet.")
    return collect(RemoteExperiment(experiment.id, experiment.machines, chosen), out)[0]


async def _collect(experiment: RemoteExperiment, out: Path, on_trial: Callable[[Collected], None]) -> list[Collected]:
    home: dict[str, Collected] = {}

    async def of_host(host: str) -> None:
        waiting = {trial.id: trial for trial in experiment.trials if trial.host == host}
        problem = f"the experiment's machineList has no machine {host}; pass --config FILE with one that has"
        for machine in experiment.machines:
            if machine.host != host:
                continue
            try:
                async for collected in _of_machine(machine, list(waiting.values()), out):
                    home[collected.trial.id] = collected
                    del waiting[collected.trial.id]
                    on_trial(collected)
                problem = f"it is no longer on {machine}"
            except OSError as error:
                problem = str(error)
                if isinstance(error, LostConnectionError):
                    problem += " The same command again fetches the rest."
        for trial in waiting.values():
            home[trial.id] = Collected(trial, problem=problem)
            on_trial(home[trial.id])

    await asyncio.gather(*(of_host(host) for host in dict.fromkeys(trial.host for trial in experiment.trials)))
    return [home[trial.id] for trial in experiment.trials]


async def _of_machine(machine: Machine, trials: Sequence[RemoteTrial], out: Path) -> AsyncIterator[Collected]:
    """Yield those of the trials that are on ``machine``, once they are home."""
    async with connected(machine) as connection, connection.start_sftp_client() as files:
        for trial in trials:
            for attempt in range(_ATTEMPTS):
                found = await run_python(machine, connection, Path(listing.__file__), trial.folder, TRIAL_RECORD)
                if found["work"] is None:
                    break
                try:
                    with naming_a_full_disk(out):
                        yield await _bring(trial, found, out, files)
                    break
                except ChangedError as error:
                    if attempt == _ATTEMPTS - 1:
                        yield Collected(trial, problem=str(error))


@dataclass(frozen=True)
class _File:
    source: str
    path: str
    size: int
    sha256: str

    def is_at(self, folder: Path) -> bool:
        return _is(folder / self.path, self.size, self.sha256)


def _files_of(found: dict[str, Any] | None) -> list[_File]:
    """The files of a listing; what would leave the folder is refused, whatever a machine says."""
    if found is None:
        return []
    files = []
    for entry in found["files"]:
        path = PurePosixPath(entry["path"])
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise OSError(
                f"A machine lists {entry['path']!r}, which lies outside of the trial's folder; see to it there."
            )
        files.append(_File(f"{found['folder']}/{path}", str(path), int(entry["size"]), str(entry["sha256"])))
    return files


async def _bring(trial: RemoteTrial, found: dict[str, Any], out: Path, files: asyncssh.SFTPClient) -> Collected:
    result, work, stage = out / trial.name, out / f"{trial.name}.run", out / f".{trial.name}.partial"
    of_result, of_work = _files_of(found["result"]), _files_of(found["work"])
    if _is_ahead(work, of_work):
        of_work = []  # it has been resumed here
    new = {
        folder: [file for file in wanted if not file.is_at(folder)]
        for folder, wanted in ((result, of_result), (work, of_work))
    }
    for folder, wanted in new.items():
        for file in wanted:
            await _fetch(files, file, stage / folder.name / file.path)
    if new[work]:
        with locked(work, work / "run.lock"):
            for file in sorted(new[work], key=lambda file: file.path.endswith(".ckpt")):  # what it needs comes first
                _move(stage / work.name / file.path, work / file.path)
    if of_work and work.is_dir():
        _drop_superseded(work, {file.path for file in of_work})
    if new[result]:
        _put_result(result, of_result, stage / result.name)
    shutil.rmtree(stage, ignore_errors=True)
    return Collected(
        trial,
        result if of_result else None,
        work if work.is_dir() else None,
        len(of_result) + len(of_work),
        sum(map(len, new.values())),
    )


def _is_ahead(work: Path, of_work: Iterable[_File]) -> bool:
    def newest(paths: Iterable[str]) -> dict[str, str]:
        return {str(PurePosixPath(path).parent): path for path in sorted(paths) if path.endswith(".ckpt")}

    there = newest(file.path for file in of_work)
    here = newest(path.relative_to(work).as_posix() for path in work.rglob("epoch-*.ckpt"))
    return any(stage in here and here[stage] > path for stage, path in there.items())


def _drop_superseded(work: Path, wanted: set[str]) -> None:
    """Remove checkpoints that the trial itself has removed since they were brought home."""
    for path in work.rglob("epoch-*.ckpt*"):
        if path.relative_to(work).as_posix() not in wanted:
            path.unlink()


def _put_result(result: Path, of_result: Sequence[_File], stage: Path) -> None:
    names = {PurePosixPath(file.path).parts[0] for file in of_result}
    mark = of_result[0].path
    with reserved(result), atomic_directory(result, ours=names, mark=mark, force=True) as temporary:
        for file in of_result:
            fetched = stage / file.path
            if not fetched.is_file():
                fetched.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(result / file.path, fetched)
            _move(fetched, temporary / file.path)


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, target)


async def _fetch(files: asyncssh.SFTPClient, file: _File, partial: Path) -> None:
    """Copy a file, from where an earlier copy was cut short if there is one.

    Raises
    ------
    ChangedError
        If what arrives is not what was listed.
    """
    partial.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(2):  # what was cut short may be of an earlier state of the file: then once more from its beginning
        with contextlib.suppress(FileNotFoundError):
            if partial.stat().st_size > file.size:
                partial.unlink()
        try:
            async with files.open(file.source, "rb") as source:
                with open(partial, "ab") as target:
                    while (place := target.tell()) < file.size:
                        content = await source.read(min(_CHUNK, file.size - place), place)
                        if not content:
                            break
                        target.write(content if isinstance(content, bytes) else content.encode())
                    target.flush()
                    os.fsync(target.fileno())
        except asyncssh.SFTPNoSuchFile:
            break
        if _is(partial, file.size, file.sha256):
            return
        partial.unlink()
    raise ChangedError(f"{file.source} changes while it is copied; run the same command again.")


def _is(path: Path, size: int, sha256: str) -> bool:
    try:
        if path.stat().st_size != size:
            return False
        with open(path, "rb") as file:
            digest = hashlib.sha256()
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        return digest.hexdigest() == sha256
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return False


def main(experiment: str, out: Path, config: Path | None = None) -> int:
    """Bring an experiment home and print what of each trial is there, and how to resume the unfinished ones.

    Returns
    -------
    int
        The exit status: 0 if all that there is is home.
    """
    console = Console(highlight=False)
    found = read_experiment(experiment, config)
    if not found.trials:
        console.print(f"No trial of experiment {experiment} has been on a machine yet.")
        return 0
    with console.status(f"Fetching from {len(found.machines)} machines ..."):
        collected = collect(found, out)
    table = Table("trial", "status", "machine", "files", "new", "result", box=None)
    for one in collected:
        place = str(one.result) if one.result else "not home" if one.problem else "none yet"
        counts = str(one.files), str(one.fetched)
        table.add_row(one.trial.id, one.trial.status.lower(), one.trial.host, *counts, place)
    console.print(table)
    for one in collected:
        line = resume_line(one)
        if line:
            console.print(
                f"{one.trial.id} can be finished from its checkpoint:\n  {line}", soft_wrap=True, markup=False
            )
    problems = [one for one in collected if one.problem]
    for one in problems:
        console.print(f"{one.trial.id}: {one.problem}", soft_wrap=True, markup=False)
    return int(bool(problems))


def resume_line(collected: Collected) -> str:
    """Return the shell command that finishes an unfinished trial here; empty if there is nothing to resume."""
    work = collected.work
    if work is None or collected.result is not None or not any(work.rglob("epoch-*.ckpt")):
        return ""
    record = TrialRecord.read(work)
    return "" if record is None else f"NNI_OUTPUT_DIR={shlex.quote(str(work))} {shlex.join(record.command)}"
