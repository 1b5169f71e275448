"""Results side by side on the terminal. Imports neither torch nor NNI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nni_plugins.report.figures import Figures
from nni_plugins.report.html import NONE, amount, readable


def print_comparison(results: Sequence[tuple[str, Figures]], differing: Mapping[str, Sequence[Any]]) -> None:
    """Print the figures of results, and the settings in which they differ.

    Parameters
    ----------
    results
        Folder and figures of each, in the order to print.
    differing
        The values of each result by setting, as :func:`nni_plugins.report.figures.differing_settings` finds them.
    """
    console = Console(highlight=False)
    runs = _table("Results", "strategy", "space", "data", "seed", "folder")
    table = _table("Figures (accuracy in percent, latency in ms, size in bytes)")
    for heading in ("test", "params", "MAdds", "latency", "size", "parity", "check", "decided"):
        table.add_column(heading, justify="right", no_wrap=True)
    for place, (folder, figures) in enumerate(results, start=1):
        texts = (figures.strategy, figures.space, figures.data, str(figures.seed), folder)
        runs.add_row(str(place), *map(escape, texts))
        table.add_row(
            str(place),
            _shown(figures.test_accuracy, ".2f"),
            amount(figures.parameters),
            amount(figures.multiply_adds),
            _shown(figures.latency_ms, ".2f"),
            amount(figures.file_bytes),
            _shown(figures.parity, ".0e"),
            "passed" if figures.deployment_passed else "FAILED",
            _shown(figures.decided, ".2f"),
        )
    console.print(runs)
    console.print(table)
    if differing:
        settings = _table("Settings that differ", *map(str, range(1, len(results) + 1)), first="setting")
        for name, values in differing.items():
            settings.add_row(*map(escape, (name, *map(readable, values))))
        console.print(settings)


def _table(title: str, *texts: str, first: str = "") -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in (first, *texts):
        table.add_column(heading, overflow="fold")
    return table


def _shown(value: float | None, form: str) -> str:
    return NONE if value is None else format(value, form)
