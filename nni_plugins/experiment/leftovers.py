"""What a killed NNI manager leaves running: its tuner, and trials whose results reach nobody."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_SECONDS_TO_END = 10


@dataclass(frozen=True)
class Leftover:
    """A process that an ended manager of its experiment has started.

    Attributes
    ----------
    process
        The process; psutil ends it only if its number has not gone to another one since.
    experiment
        NNI's name of the experiment.
    role
        ``tuner``, or ``trial`` and its name.
    """

    process: psutil.Process
    experiment: str
    role: str

    def __str__(self) -> str:
        return f"{self.role} of experiment {self.experiment} (process {self.process.pid})"


def managers() -> Iterator[tuple[psutil.Process, str]]:
    """Yield the NNI managers running on this machine, each with its experiment's name."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if any(Path(word).parts[-2:] == ("nni_node", "main.js") for word in words) and "--experiment-id" in words:
                yield process, words[words.index("--experiment-id") + 1]


def find_leftovers(experiment: str | None = None) -> list[Leftover]:
    """Return the tuners and the trials on this machine whose manager has ended.

    Trials that a manager on another machine has started here are none of them.

    Parameters
    ----------
    experiment
        The experiment to look at, by default all.
    """
    managed = {name: manager.create_time() for manager, name in managers()}
    own = {process.pid for process in (psutil.Process(), *psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            environment = process.environ()
            if environment.get("SDK_PROCESS") == "dispatcher":
                name, role = Path(environment["NNI_LOG_DIRECTORY"]).parent.name, "tuner"
            elif environment.get("NNI_PLATFORM") == "local" and "NNI_TRIAL_JOB_ID" in environment:
                name, role = environment["NNI_EXP_ID"], f"trial {environment['NNI_TRIAL_JOB_ID']}"
            else:
                continue
            # An experiment that has been resumed has a manager again, which is younger.
            is_left = process.create_time() < managed.get(name, math.inf)
            if is_left and experiment in (None, name) and process.pid not in own:
                found.append(Leftover(process, name, role))
    return found


def end(leftovers: Sequence[Leftover]) -> None:
    """Ask the processes to end, and after ten seconds make them.

    A search leaves a checkpoint after every epoch, from which ``nnictl resume`` takes it up.
    """
    processes = [leftover.process for leftover in leftovers]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=_SECONDS_TO_END)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=_SECONDS_TO_END)


def main(experiment: str | None = None, *, yes: bool = False) -> int:
    """List what killed managers have left running and end it, once the person has agreed.

    Parameters
    ----------
    experiment
        The experiment to look at, by default all.
    yes
        End them without asking.

    Returns
    -------
    int
        The exit status: 0 if nothing is left running.
    """
    leftovers = find_leftovers(experiment)
    if not leftovers:
        print("No NNI manager has left anything running.")
        return 0
    for leftover in leftovers:
        print(f"The {leftover} has outlived its manager.")
    if not yes and not (sys.stdin.isatty() and input("End them? [y/N] ").strip().lower() in ("y", "yes")):
        print("They are left as they are; --yes ends them.")
        return 1
    end(leftovers)
    print("They have ended. nnictl resume takes the experiment up, each unfinished trial from its last checkpoint.")
    return 0
