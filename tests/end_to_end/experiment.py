"""Real ``nnictl`` experiments for the tests: start one, wait for it, stop it for certain."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from nni_plugins.tools.demo import ENDED, Experiment, free_port

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}


def nnictl(*words: str) -> str:
    done = subprocess.run(
        [str(BIN / "nnictl"), *words], capture_output=True, text=True, env=ENVIRONMENT, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def write_config(folder: Path, config: dict[str, Any]) -> Path:
    """A configuration whose experiment lives in ``folder``."""
    path = folder / "experiment.yml"
    path.write_text(yaml.safe_dump({"experimentWorkingDirectory": str(folder / "nni"), **config}))
    return path


@contextlib.contextmanager
def running(config: Path) -> Iterator[tuple[Experiment, str]]:
    """Create the experiment of ``config``; it is stopped whatever happens."""
    experiment = Experiment(free_port(18080))
    for _ in range(5):  # NNI gives its tuner ten seconds to start, which a busy machine may miss
        nnictl("create", "--config", str(config), "--port", str(experiment.port))
        identity = experiment.wait_until_up()["id"]
        if experiment.begins():
            break
        nnictl("stop", identity)
    try:
        yield experiment, identity
    finally:
        subprocess.run([str(BIN / "nnictl"), "stop", identity], env=ENVIRONMENT, capture_output=True, check=False)


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
