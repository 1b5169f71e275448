"""Real ``nnictl`` experiments for the tests: start one, wait for it, stop it for certain."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from nni_plugins.experiment import nnictl
from nni_plugins.experiment.client import ENDED, Experiment

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def write_config(folder: Path, config: dict[str, Any]) -> Path:
    """A configuration whose experiment lives in ``folder``."""
    path = folder / "experiment.yml"
    path.write_text(yaml.safe_dump({"experimentWorkingDirectory": str(folder / "nni"), **config}))
    return path


def any_port() -> int:
    """A port that the system hands out to nobody else soon: nnictl takes a while to bind it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(*words: str) -> Experiment:
    return nnictl.start(*words, port=any_port(), environment=ENVIRONMENT, folder=ROOT)


def resume(experiment: Experiment, config: Path) -> Experiment:
    """Resume an experiment whose manager has ended, at the port that it had."""
    folder = yaml.safe_load(config.read_text())["experimentWorkingDirectory"]
    words = ("resume", experiment.id, "--experiment_dir", folder)
    return nnictl.start(*words, port=experiment.port, environment=ENVIRONMENT, folder=ROOT)


def stop(experiment: Experiment) -> None:
    nnictl.nnictl("stop", experiment.id, environment=ENVIRONMENT)


@contextlib.contextmanager
def running(config: Path) -> Iterator[Experiment]:
    """Create the experiment of ``config``; it is stopped whatever happens."""
    experiment = start("create", "--config", str(config))
    try:
        yield experiment
    finally:
        nnictl.stop(experiment, ENVIRONMENT)


Trials = list[dict[str, Any]]


def wait(experiment: Experiment, done: Callable[[Trials], bool], seconds: float = 400) -> Trials:
    """Trials of the experiment as soon as ``done`` holds of them."""
    deadline = time.monotonic() + seconds
    while not done(trials := experiment.trials()):
        assert time.monotonic() < deadline, [trial["status"] for trial in trials]
        time.sleep(0.5)
    return trials


def all_ended(number: int) -> Callable[[Trials], bool]:
    return lambda trials: sum(trial["status"] in ENDED for trial in trials) >= number
