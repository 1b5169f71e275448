"""An experiment in one command: ``nni-plugins run`` from its YAML file, ``nni-plugins follow`` from its name."""

from __future__ import annotations

import contextlib
import getpass
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from nni_plugins import trial
from nni_plugins.experiment.client import VIEWED, Experiment
from nni_plugins.experiment.configuration import read_configuration, trial_arguments
from nni_plugins.experiment.doctor import Finding, diagnose_start, show_fixes
from nni_plugins.experiment.known import known_experiments, running_managers
from nni_plugins.experiment.nnictl import free_port, nnictl, start, stop
from nni_plugins.experiment.outcome import show_outcome
from nni_plugins.experiment.remote.checkup import diagnose_remote
from nni_plugins.experiment.remote.collect import collect, collect_trial, resume_line
from nni_plugins.experiment.remote.records import machines_of, read_experiment
from nni_plugins.experiment.watching import Epochs, Watcher, watch
from nni_plugins.tools.stopping import Stopped, say_stopped

_NAMES_SHOWN = 10


def run(config: Path, out: Path, *, port: int | None = None, opened: bool = False) -> int:
    """Check an experiment's file and the machines that it needs, start it, and follow it to its end.

    Parameters
    ----------
    config
        Its YAML file.
    out
        Folder that the results of remote machines go to.
    port
        That of NNI's page; by default the first free one from 8080 on.
    opened
        Let other machines reach the page.

    Returns
    -------
    int
        The exit status: 0 if every trial has succeeded, 1 if one has not or a machine is not ready, 130 after Ctrl-C.

    Raises
    ------
    ValueError
        If the file, or the settings of a trial, are not valid; nothing has been started.
    OSError
        If there is no such file, or NNI does not start.
    """
    console = Console(highlight=False)
    with console.status(f"Checking {config} ..."):
        params = read_configuration(config)
        number_of_ports = 2 if is_remote(params) else 1
        port = port or free_port(together=number_of_ports)
        failures = [each for each in check_machines(params, range(port, port + number_of_ports)) if not each.ok]
    if failures:
        for failure in failures:
            console.print(f"{failure.name}: {failure.detail}", markup=False, soft_wrap=True)
        return show_fixes(console, failures)
    if opened:
        console.print(warning(port), soft_wrap=True)
    console.print("Starting NNI ...")
    experiment = start("create", "--config", str(config), port=port, opened=opened)
    console.print(f"Experiment {experiment.id}; NNI's web UI shows it at http://localhost:{port}", soft_wrap=True)
    return _to_the_end(experiment, out, console)


def follow(name: str, out: Path) -> int:
    """Show an experiment, running or ended, as :func:`run` does.

    Parameters
    ----------
    name
        NNI's name of it.
    out
        As in :func:`run`; so is the exit status.

    Raises
    ------
    ValueError
        If there is no such experiment on this machine.
    OSError
        If its manager does not answer, or what NNI keeps of it is gone.
    """
    console = Console(highlight=False)
    manager = running_managers().get(name)
    if manager is not None:
        experiment = Experiment(manager.port)
        experiment.wait_until_up()
        console.print(f"Experiment {name}; NNI's web UI shows it at http://localhost:{manager.port}", soft_wrap=True)
        is_only_viewed = experiment.get("check-status")["status"] == VIEWED
        return _to_the_end(experiment, out, console, ends_manager=not is_only_viewed)
    known = list(known_experiments())
    if name not in known:
        names = ", ".join(reversed(known[-_NAMES_SHOWN:]))
        raise ValueError(
            f"There is no experiment {name!r} on this machine; "
            + (f"NNI knows {names}." if known else "NNI knows none: nni-plugins run CONFIG.yml starts one.")
        )
    port = free_port()
    with console.status(f"Asking NNI for the experiment {name} ..."):
        nnictl("view", name, "--port", str(port))
    experiment = Experiment(port)
    with _viewed(experiment):
        experiment.wait_until_up()
        return _to_the_end(experiment, out, console, ends_manager=False)


@contextlib.contextmanager
def _viewed(experiment: Experiment) -> Iterator[None]:
    try:
        yield
    finally:
        stop(experiment)


def _to_the_end(experiment: Experiment, out: Path, console: Console, *, ends_manager: bool = True) -> int:
    params = experiment.get("experiment")["params"]
    try:
        trials = watch(Watcher(experiment, epochs_of(params)), console, _fetcher(params, experiment, out))
        results = bring_home(params, experiment, out, console)
    except Stopped as stopped:
        return say_stopped(
            stopped,
            f"experiment {experiment.id} is as it was: nni-plugins follow {experiment.id} shows it again, nnictl stop "
            f"{experiment.id} ends it.",
        )
    status = show_outcome(console, experiment, trials, results)
    if ends_manager:
        stop(experiment)
    return status


def is_remote(params: Mapping[str, Any]) -> bool:
    """Return whether the trials of a configuration run on remote machines."""
    service = params["trainingService"]
    return isinstance(service, Mapping) and service.get("platform") == "remote"


def check_machines(params: Mapping[str, Any], ports: range) -> list[Finding]:
    """Make the checks without which an experiment cannot start, on this machine and on those that run its trials.

    Parameters
    ----------
    params
        The configuration, as NNI's REST interface gives it.
    ports
        Those that the manager is to listen on.
    """
    remote = is_remote(params)
    findings = diagnose_start(ports, uses_gpus=not remote and bool(params.get("trialGpuNumber")))
    if remote:
        for machine in machines_of(params, "of this file"):
            findings += diagnose_remote(machine)
    return findings


def warning(port: int) -> str:
    """Return what a person has to know who opens the page."""
    host = socket.gethostname()
    return (
        f"[bold red]Warning:[/] --open lets every machine that reaches port {port} of this one see the experiment, "
        "stop it and start trials, without a login; the page is at "
        f"http://{host}:{port}. Without --open this shows it elsewhere: ssh -L {port}:localhost:{port} "
        f"{getpass.getuser()}@{host}"
    )


def epochs_of(params: Mapping[str, Any]) -> Epochs:
    """Return the function from a trial's parameters to its epochs; code that a configuration names is not imported."""
    try:
        arguments = trial_arguments(params["trialCommand"])
    except ValueError:
        arguments = None

    def planned(parameters: Mapping[str, Any]) -> tuple[int, ...]:
        try:
            return () if arguments is None else trial.planned_epochs(parameters, arguments)
        except (ValueError, OSError):
            return ()

    return planned


def _fetcher(params: Mapping[str, Any], experiment: Experiment, out: Path) -> Callable[[str], None]:
    """Return what brings a trial home that has ended; where that fails, :func:`bring_home` says so at the end."""

    def fetch(trial: str) -> None:
        if is_remote(params):
            with contextlib.suppress(OSError, ValueError):
                collect_trial(read_experiment(experiment.id), trial, out)

    return fetch


def bring_home(params: Mapping[str, Any], experiment: Experiment, out: Path, console: Console) -> dict[str, Path]:
    """Bring all that is still on remote machines here, say what could not be, and return the result folders.

    Parameters
    ----------
    params
        The configuration, as NNI's REST interface gives it; trials on this machine have their results here.
    experiment
        The experiment.
    out
        Folder that the results go to.
    console
        Where to say it.

    Returns
    -------
    dict
        From the name of a result folder to where it is now.
    """
    if not is_remote(params):
        return {}
    with console.status("Fetching results ..."):
        collected = collect(read_experiment(experiment.id), out)
    for one in collected:
        if one.problem:
            console.print(f"{one.trial.id} is not home: {one.problem}", soft_wrap=True, markup=False)
        if line := resume_line(one):
            console.print(f"{one.trial.id} can be finished here:\n  {line}", soft_wrap=True, markup=False)
    if any(one.problem for one in collected):
        console.print(f"To fetch the rest: nni-plugins collect {experiment.id} --out {out}", soft_wrap=True)
    return {one.trial.name: one.result for one in collected if one.result is not None}
