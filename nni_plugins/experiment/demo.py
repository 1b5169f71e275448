"""The main job in one command: a real ``nnictl`` experiment on the embedded digits, then a table of its trials.

python -m nni_plugins.experiment.demo            (what ``make demo`` runs)
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from nni_plugins.experiment.client import ENDED, OVER, Experiment
from nni_plugins.experiment.nnictl import export_line, free_port, is_closed, program, start, stop
from nni_plugins.report.seeds import CONFIDENCE, by_run, over_seeds
from nni_plugins.tools.console import complain

FIGURES = {
    "search_accuracy": "{:.2f}",
    "decided": "{:.2f}",
    "test_accuracy": "{:.2f}",
    "parameters": "{:,}",
    "onnx_latency_ms": "{:.2f}",
}
"""Columns of the table, in its order; a trial that evaluates one cell has not all of them."""


def follow(experiment: Experiment, expected: int) -> list[dict[str, Any]]:
    """Show a bar and what each trial is doing until all ``expected`` trials have ended; return them."""
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
    """Return a table of the trials, and the final metrics of those that succeeded, the best first.

    ``decided`` is from 0 to 1, ``ms`` the ONNX model's latency.
    """
    table = Table(title="Trials (accuracies in percent, latency in ms)", title_justify="left", box=box.SIMPLE)
    for column in ("strategy", "seed", "status", "search", "decided", "test", "params", "ms", "parity"):
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


def seeds_table(finals: Sequence[dict[str, Any]]) -> Table | None:
    """Return a table of the test accuracy over seeds; None where no strategy ran with more than one."""
    runs = {key: over_seeds(values) for key, values in by_run(finals).items()}
    if all(run.seeds == 1 for run in runs.values()):
        return None
    title = f"Test accuracy over seeds (mean ± standard deviation [{CONFIDENCE:.0%} interval of the mean])"
    table = Table("strategy", "space", "data", "seeds", "test", title=title, title_justify="left", box=box.SIMPLE)
    for key, run in runs.items():
        table.add_row(*key, str(run.seeds), run.in_words())
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Run the experiment of a configuration file and print its table; 0 if every trial succeeded."""
    parser = argparse.ArgumentParser(prog="python -m nni_plugins.experiment.demo", description=__doc__.split("\n\n")[0])
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
    console.print("Starting NNI ...")
    experiment = start("create", "--config", str(config), port=port)
    try:
        console.print(f"Experiment {experiment.id}; NNI's web UI shows it at http://localhost:{port}")
        trials = follow(experiment, experiment.get("experiment")["params"]["maxTrialNumber"])
        table, finals = summary(experiment, trials)
    finally:
        stop(experiment)
    console.print(table)
    if over := seeds_table(finals):
        console.print(over)
    if finals:
        folder = finals[0]["folder"]
        console.print(
            f"The best result lies in {folder}; open its report.html in a browser (exported/README.md says what each "
            f"file is), and nni-plugins report {experiment.id} makes a page of all.",
            soft_wrap=True,
        )
    console.print("To see the web UI again, closed to other machines:")
    if not is_closed():
        console.print(f"  {export_line()}", soft_wrap=True, markup=False)
    console.print(f"  {_shown(program())} view {experiment.id} --port {port}", soft_wrap=True)
    failed = len(trials) - len(finals)
    if failed:
        console.print(f"{failed} of {len(trials)} trials failed; their logs: nnictl log trial {experiment.id}")
    return int(failed > 0 or any(final.get("deployment_passed") == 0 for final in finals))


def _shown(path: str) -> str:
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


if __name__ == "__main__":
    sys.exit(main())
