"""What NNI's files on this machine say of a remote experiment: its machines, its trials, and where those ran."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from nni_plugins.experiment.client import ENDED
from nni_plugins.experiment.known import home, known_experiments
from nni_plugins.experiment.remote.machine import Machine


@dataclass(frozen=True)
class RemoteTrial:
    """One trial of a remote experiment.

    Attributes
    ----------
    experiment, id
        NNI's names of the experiment and of the trial.
    status
        NNI's word for its last known state.
    host
        The machine that it ran on last, as the ``machineList`` calls it.
    folder
        Its ``NNI_OUTPUT_DIR`` there; ``~`` is the home folder.
    """

    experiment: str
    id: str
    status: str
    host: str
    folder: str

    @property
    def name(self) -> str:
        """The name of the trial's result folder."""
        return f"{self.experiment}-{self.id}"

    @property
    def has_ended(self) -> bool:
        """Whether it has ended, well or not."""
        return self.status in ENDED


@dataclass(frozen=True)
class RemoteExperiment:
    """A remote experiment: NNI's name, its machines, and those of its trials that have been on a machine."""

    id: str
    machines: tuple[Machine, ...]
    trials: tuple[RemoteTrial, ...]


def experiment_folder(experiment: str) -> Path:
    """Return where NNI keeps its files of an experiment on this machine.

    Raises
    ------
    FileNotFoundError
        If NNI knows of none by this name.
    """
    parent = Path(known_experiments().get(experiment, {}).get("logDir") or home())
    # what a person types is a name, never a path
    if re.fullmatch(r"\w+", experiment) and (parent / experiment / "db").is_dir():
        return parent / experiment
    raise FileNotFoundError(
        f"NNI knows of no experiment {experiment!r} on this machine; nnictl experiment list --all names them, and "
        "results are collected where the experiment was started."
    )


def read_experiment(experiment: str, config: Path | None = None) -> RemoteExperiment:
    """Return what NNI's database says of a remote experiment, running or not.

    Parameters
    ----------
    experiment
        NNI's name of it.
    config
        A configuration file whose ``machineList`` to use, if machines have since got other names, ports or keys.

    Raises
    ------
    FileNotFoundError
        If there is no such experiment, or no such file.
    ValueError
        If its trials do not run on remote machines.
    """
    database = experiment_folder(experiment) / "db" / "nni.sqlite"
    with contextlib.closing(sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True)) as connection:
        profiles = connection.execute("select params from ExperimentProfile order by revision desc limit 1").fetchall()
        events = connection.execute("select trialJobId, event, logPath from TrialJobEvent order by rowid").fetchall()
    params = yaml.safe_load(config.read_text()) if config else json.loads(profiles[0][0]) if profiles else {}
    return RemoteExperiment(experiment, machines_of(params, experiment), _trials(experiment, events))


def machines_of(params: Mapping[str, Any], experiment: str) -> tuple[Machine, ...]:
    """Return the machines of an experiment's configuration.

    Raises
    ------
    ValueError
        If it has none.
    """
    service = (params or {}).get("trainingService") or {}
    machines = service.get("machineList") if isinstance(service, Mapping) else None
    if not machines:
        raise ValueError(
            f"Experiment {experiment} has no machineList: its trials ran on this machine, and their results are here."
        )
    return tuple(Machine.of_nni(entry) for entry in machines)


# HOST:FOLDER of the trial; in reuse mode file://HOST:FOLDER of what runs trials there.
_PLACE = re.compile(r"(file://)?(.+?):([~/].*)")


def _trials(experiment: str, events: list[tuple[str, str, str | None]]) -> tuple[RemoteTrial, ...]:
    status, place = {}, {}
    for trial, event, where in events:
        if event.isupper() and event not in ("ADD_CUSTOMIZED", "ADD_HYPERPARAMETER", "IMPORT_DATA"):
            status[trial] = event
        found = _PLACE.fullmatch(where or "")
        if found is not None:
            reused, host, folder = found.groups()
            if reused:
                folder = f"{folder.partition('/envs/')[0]}/trials/{trial}/nnioutput"
            place[trial] = (host, folder)
    return tuple(RemoteTrial(experiment, trial, status.get(trial, "UNKNOWN"), *where) for trial, where in place.items())
