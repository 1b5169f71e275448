"""The main job in one command: a real ``nnictl`` experiment on the embedded digits, then a table of its trials.

python -m nni_plugins.tools.demo            (what ``make demo`` runs)
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from nni_plugins.tools.console import complain

ENDED = {"SUCCEEDED", "FAILED", "USER_CANCELED", "SYS_CANCELED", "EARLY_STOPPED"}
OVER = {"DONE", "ERROR", "STOPPED"}
SECONDS_TO_START = 120
ATTEMPTS = 5
FIGURES = {
    "search_accuracy": "{:.2f}",
    "test_accuracy": "{:.2f}",
    "parameters": "{:,}",
    "onnx_latency_ms": "{:.2f}",
}
"""Columns of the table, in its order; a trial that evaluates one cell has not all of them."""


class Experiment:
    """A running NNI experiment, seen through its REST interface.

    Parameters
    ----------
    port
        Port of its web UI on this machine.
    """

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, path: str) -> Any:
        """Content of ``/api/v1/nni/PATH``."""
        with urllib.request.urlopen(f"http://localhost:{self.port}/api/v1/nni/{path}", timeout=20) as answer:
            return json.load(answer)

    def wait_until_up(self) -> dict[str, Any]:
        """The experiment's profile, as soon as its manager answers.

        Raises
        ------
        OSError
            If it does not answer in time.
        """
        deadline = time.monotonic() + SECONDS_TO_START
        while True:
            try:
                return self.get("experiment")
            except (OSError, ValueError):
                if time.monotonic() > deadline:
                    raise OSError(
                        f"NNI's manager does not answer on port {self.port}; run nni-plugins doctor to see why."
                    ) from None
                time.sleep(1)

    def begins(self) -> bool:
        """Wait for the first trial; False if there will be none, because the tuner started too slowly for NNI."""
        try:
            while not self.trials():
                if self.get("check-status")["status"] in OVER:
                    return False
                time.sleep(1)
        except OSError:  # the manager has given up and gone
            return False
        return True

    def trials(self) -> list[dict[str, Any]]:
        """All trials so far, in the order in which they started."""
        return sorted(self.get("trial-jobs"), key=lambda trial: trial["sequenceId"])

    def last_metrics(self, trial: dict[str, Any], kind: str) -> dict[str, Any]:
        """The trial's newest metrics of ``kind``, ``PERIODICAL`` or ``FINAL``; empty if there are none."""
        metrics = [m for m in self.get(f"metric-data/{trial['trialJobId']}") if m["type"] == kind]
        if not metrics:
            return {}
        newest = max(metrics, key=lambda m: m["sequence"])
        return json.loads(json.loads(newest["data"]))


def follow(experiment: Experiment, expected: int) -> list[dict[str, Any]]:
    """Show a bar and what each trial is doing until all ``expected`` trials have ended; returns them."""
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} trials"),
        TimeElapsedColumn(),
    ) as progress:  # fmt: skip
        bar = progress.add_task("starting", total=expected)
        while True:
            trials = experiment.trials()
            ended = [trial for trial in trials if trial["status"] in ENDED]
            progress.update(bar, completed=len(ended), description=_activity(experiment, trials))
            if len(ended) >= expected or experiment.get("check-status")["status"] in OVER:
                return trials
            time.sleep(2)


def _activity(experiment: Experiment, trials: Sequence[dict[str, Any]]) -> str:
    running = [trial for trial in trials if trial["status"] == "RUNNING"]
    if not running:
        return "waiting"
    parameters = _parameters(running[0])
    accuracy = experiment.last_metrics(running[0], "PERIODICAL").get("default")
    doing = "starting" if accuracy is None else f"at {accuracy:.1f} %"
    return f"{parameters.get('strategy', 'cell')}: {doing}"


def _parameters(trial: dict[str, Any]) -> dict[str, Any]:
    return json.loads(trial["hyperParameters"][0])["parameters"]


def summary(experiment: Experiment, trials: Sequence[dict[str, Any]]) -> tuple[Table, list[dict[str, Any]]]:
    """A table of the trials (``ms`` is the ONNX model's latency), and the final metrics of those that succeeded.

    The best comes first.
    """
    table = Table(title="Trials (accuracies in percent, latency in ms)", title_justify="left", box=box.SIMPLE)
    for column in ("strategy", "seed", "status", "search", "test", "params", "ms", "parity"):
        left = column in ("strategy", "status", "parity")
        table.add_column(column, justify="left" if left else "right", no_wrap=True)
    finals = []
    for trial in trials:
        # NNI may exchange the parameters that it shows of trials started together: the result says what was run
        final = experiment.last_metrics(trial, "FINAL")
        ran = final or _parameters(trial)
        row = [str(ran.get("strategy", "")), str(ran.get("seed", "")), trial["status"].lower()]
        if final:
            finals.append(final)
            row += [form.format(final[name]) if name in final else "" for name, form in FIGURES.items()]
            row.append({1: "passed", 0: "FAILED"}.get(final.get("deployment_passed", -1), ""))
        table.add_row(*row)
    return table, sorted(finals, key=lambda final: -final["default"])


def free_port(first: int = 8080) -> int:
    """The first port from ``first`` on that nothing listens on."""
    for port in range(first, first + 100):
        with socket.socket() as probe:
            if probe.connect_ex(("localhost", port)) != 0:
                return port
    raise OSError(f"All ports from {first} to {first + 99} are taken; stop an old experiment with nnictl stop --all.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the experiment of a configuration file and print its table; 0 if every trial succeeded."""
    parser = argparse.ArgumentParser(prog="python -m nni_plugins.tools.demo", description=__doc__.split("\n\n")[0])
    parser.add_argument("--config", type=Path, default=Path("examples/bnas_v2.yml"), help="experiment to run")
    parser.add_argument("--port", type=int, help="port of the web UI (default: the first free one from 8080 on)")
    arguments = parser.parse_args(argv)
    console = Console(highlight=False)
    try:
        if not arguments.config.is_file():
            raise OSError(f"There is no {arguments.config}; start the demo in the repository's root.")
        return _run(arguments.config, arguments.port or free_port(), console)
    except OSError as error:
        return complain(error)


def _run(config: Path, port: int, console: Console) -> int:
    nnictl = str(Path(sys.executable).with_name("nnictl"))
    if not Path(nnictl).is_file():
        nnictl = shutil.which("nnictl") or nnictl
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    # NNI gives its tuner ten seconds to start; the first import after an installation takes longer than that.
    subprocess.run([sys.executable, "-W", "ignore", "-c", "import nni.__main__"], check=False, capture_output=True)
    experiment = Experiment(port)
    for _ in range(ATTEMPTS):
        created = subprocess.run(
            [nnictl, "create", "--config", str(config), "--port", str(port)],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if created.returncode:
            raise OSError(f"nnictl create failed: {(created.stderr or created.stdout).strip().splitlines()[-1]}")
        profile = experiment.wait_until_up()
        identity = profile["id"]
        console.print(f"Experiment {identity}; NNI's web UI shows it at http://localhost:{port}")
        try:
            if experiment.begins():
                trials = follow(experiment, profile["params"]["maxTrialNumber"])
                table, finals = summary(experiment, trials)
                break
        finally:
            subprocess.run([nnictl, "stop", identity], env=environment, capture_output=True, check=False)
        console.print("The experiment ended before its first trial, as it does when the tuner starts too slowly.")
    else:
        raise OSError(f"No trial was started; see ~/nni-experiments/{identity}/log, and run nni-plugins doctor.")
    console.print(table)
    if finals:
        folder = finals[0]["folder"]
        console.print(f"The best result lies in {folder}; exported/README.md says what each file is.", soft_wrap=True)
    console.print(f"To see the web UI again: {_shown(nnictl)} view {identity} --port {port}", soft_wrap=True)
    failed = len(trials) - len(finals)
    if failed:
        console.print(f"{failed} of {len(trials)} trials failed; their logs: nnictl log trial {identity}")
    return int(failed > 0 or any(final.get("deployment_passed") == 0 for final in finals))


def _shown(path: str) -> str:
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


if __name__ == "__main__":
    sys.exit(main())
