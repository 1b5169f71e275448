"""What an experiment has come to: one table of its trials, another over seeds, and where the best result is."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from nni_plugins.deploy.result_folder import REPORT_FILE
from nni_plugins.experiment.client import ENDED, Experiment
from nni_plugins.experiment.nnictl import export_line, is_closed, program
from nni_plugins.experiment.watching import parameters_of
from nni_plugins.report.seeds import CONFIDENCE, by_run, over_seeds
from nni_plugins.run.report_page import experiment_page_of
from nni_plugins.tools.atomic_files import atomic_write

FIGURES = {
    "search_accuracy": "{:.2f}",
    "decided": "{:.2f}",
    "test_accuracy": "{:.2f}",
    "parameters": "{:,}",
    "onnx_latency_ms": "{:.2f}",
}
"""Columns of the table, in its order; a trial that evaluates one cell has not all of them."""


def summary(experiment: Experiment, trials: Sequence[dict[str, Any]]) -> tuple[Table, list[dict[str, Any]]]:
    """Return a table of the trials, and the final metrics of those that succeeded, the best first.

    ``decided`` is from 0 to 1, ``ms`` the ONNX model's latency.
    """
    table = Table(
        title="Trials (accuracies in percent, latency in ms)", title_justify="left", box=box.SIMPLE,
        padding=(0, 1, 0, 0), pad_edge=False,  # so that it fits a terminal of 80 columns
    )  # fmt: skip
    for column in ("strategy", "seed", "status", "search", "decided", "test", "params", "ms", "parity"):
        left = column in ("strategy", "status", "parity")
        table.add_column(column, justify="left" if left else "right", no_wrap=True)
    finals = []
    for trial in trials:
        # NNI may exchange the parameters that it shows of trials started together: the result says what was run
        final = experiment.last_metrics(trial, "FINAL")
        ran = final or parameters_of(trial)[1]
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


def show_outcome(
    console: Console, experiment: Experiment, trials: Sequence[dict[str, Any]], results: Mapping[str, Path]
) -> int:
    """Print the tables, where the best result is, and how to see the page again.

    Parameters
    ----------
    console
        Where to print.
    experiment
        The experiment, its manager still up.
    trials
        Its trials.
    results
        Result folders that have been brought here from other machines, by their trial's name.

    Returns
    -------
    int
        The exit status: 0 if every trial has succeeded.
    """
    table, finals = summary(experiment, trials)
    console.print(table)
    if over := seeds_table(finals):
        console.print(over)
    folders = [results.get(Path(final["folder"]).name, Path(final["folder"])) for final in finals if "folder" in final]
    if folders:
        console.print(
            f"The best result lies in {folders[0]}; open its report.html in a browser (exported/README.md says what "
            "each file is).",
            soft_wrap=True,
        )
    if (page := write_page(experiment.id, folders)) is not None:
        console.print(f"A page of all results: {page}", soft_wrap=True)
    console.print("To see the web UI again, closed to other machines:")
    if not is_closed():
        console.print(f"  {export_line()}", soft_wrap=True, markup=False)
    console.print(f"  {_shown(program())} view {experiment.id} --port {experiment.port}", soft_wrap=True)
    ended = [trial for trial in trials if trial["status"] in ENDED]
    if failed := len(ended) - len(finals):
        console.print(f"{failed} of {len(trials)} trials failed; their logs: nnictl log trial {experiment.id}")
    if unfinished := len(trials) - len(ended):
        console.print(f"{unfinished} of {len(trials)} trials are unfinished: nnictl resume {experiment.id}")
    return int(len(finals) < len(trials) or any(final.get("deployment_passed") == 0 for final in finals))


def write_page(experiment: str, folders: Sequence[Path]) -> Path | None:
    """Write the page that compares an experiment's results beside them, anew if it is there.

    Parameters
    ----------
    experiment
        NNI's name of it.
    folders
        Its result folders; those without a report, of trials that looked a cell up, are left out.

    Returns
    -------
    Path or None
        Where the page is; None if no folder has a report.
    """
    reported = sorted(folder for folder in folders if (folder / REPORT_FILE).is_file())
    if not reported:
        return None
    page = reported[0].parent / f"{experiment}.html"
    atomic_write(page, experiment_page_of(f"Experiment {experiment}", reported, beside=page))
    return page


def _shown(path: str) -> str:
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
