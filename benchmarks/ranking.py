"""How found cells stand among random ones: percentiles, a rank test, the table and the picture of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import mannwhitneyu, pearsonr, percentileofscore

from search_spaces import Genotype

ALIKE = 0.15
"""Cells whose parameters differ by at most this share count as equally large."""


@dataclass(frozen=True)
class Trained:
    """A cell and what came out of training it.

    Parameters
    ----------
    genotype
        As JSON.
    parameters
        Of its network.
    accuracies
        Test accuracies in percent, one for each seed of the training.
    search
        What is known of the search that found it; empty for other cells.
    """

    genotype: str
    parameters: int
    accuracies: tuple[float, ...]
    search: Mapping[str, Any] = field(default_factory=dict)

    @property
    def accuracy(self) -> float:
        """Mean over the seeds of the training."""
        return float(np.mean(self.accuracies))

    @property
    def depth(self) -> float:
        """:func:`depth` of the cell."""
        return depth(Genotype.from_json(self.genotype))


def percentile(cell: Trained, others: Sequence[Trained]) -> float | None:
    """Return the percentage of ``others`` that are less accurate, ties counted half; None if there are none."""
    if not others:
        return None
    return float(percentileofscore([other.accuracy for other in others], cell.accuracy, kind="mean"))


def equally_large(cell: Trained, others: Sequence[Trained]) -> list[Trained]:
    """Return those of ``others`` whose parameters differ from the cell's by at most :data:`ALIKE` of the cell's."""
    return [other for other in others if abs(other.parameters - cell.parameters) <= ALIKE * cell.parameters]


def rank_test(cells: Sequence[Trained], others: Sequence[Trained]) -> float | None:
    """Return the one-sided p value of Mann and Whitney's test that ``cells`` are more accurate; None without cells."""
    if not cells or not others:
        return None
    ours, theirs = ([each.accuracy for each in group] for group in (cells, others))
    return float(mannwhitneyu(ours, theirs, alternative="greater").pvalue)


def figures(groups: Mapping[str, Sequence[Trained]], random: Sequence[Trained]) -> dict[str, dict[str, Any]]:
    """Return for each group of cells how it stands among the random ones, as JSON values."""
    return {
        name: {
            "p": rank_test(cells, random),
            "cells": [
                {
                    "genotype": cell.genotype,
                    "parameters": cell.parameters,
                    "depth": cell.depth,
                    "accuracies": list(cell.accuracies),
                    "accuracy": cell.accuracy,
                    "percentile": percentile(cell, random),
                    "percentile_equally_large": percentile(cell, equally_large(cell, random)),
                    "equally_large": len(equally_large(cell, random)),
                    **cell.search,
                }
                for cell in cells
            ],
        }
        for name, cells in groups.items()
    }


COLUMNS = {
    "accuracy": ("test accuracy", "{:.2f}"),
    "percentile": ("percentile", "{:.0f}"),
    "percentile_equally_large": ("equally large", "{:.0f}"),
    "parameters": ("parameters", "{:,.0f}"),
    "depth": ("depth", "{:.1f}"),
    "seconds": ("search s", "{:.0f}"),
    "decided": ("decided", "{:.2f}"),
    "gap": ("gap", "{:.2f}"),
    "validation_accuracy": ("validation", "{:.1f}"),
}
"""Columns of the table: title and format of the mean and the deviation over the cells."""


def table(found: Mapping[str, Mapping[str, Any]], random: Sequence[Trained]) -> list[str]:
    """Return lines of Markdown: a row for each group of :func:`figures`, then the random cells."""
    titles = ["cells", "cells x trainings", *(title for title, _ in COLUMNS.values()), "p"]
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    for name, group in found.items():
        cells = group["cells"]
        trainings = f"{len(cells)} x {_range([len(cell['accuracies']) for cell in cells])}"
        columns = [_mean([cell.get(key) for cell in cells], form) for key, (_, form) in COLUMNS.items()]
        p = "" if group["p"] is None or len(cells) < 2 else f"{group['p']:.3f}"
        lines.append(f"| {name} | {trainings} | {' | '.join(columns)} | {p} |")
    own = [
        _mean([cell.accuracy for cell in random], COLUMNS["accuracy"][1]),
        "50",
        "",
        _mean([cell.parameters for cell in random], COLUMNS["parameters"][1]),
        _mean([cell.depth for cell in random], COLUMNS["depth"][1]),
    ]
    trainings = f"{len(random)} x {_range([len(cell.accuracies) for cell in random])}"
    lines.append(f"| random cells | {trainings} | {' | '.join(own)} |{' |' * (len(COLUMNS) - len(own) + 1)}")
    return lines


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers, default=0), max(numbers, default=0)
    return str(low) if low == high else f"{low} to {high}"


def _mean(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    deviation = f" ± {form.format(np.std(known, ddof=1))}" if len(known) > 1 else ""
    return form.format(np.mean(known)) + deviation


def seed_noise(cells: Sequence[Trained]) -> tuple[float, float] | None:
    """Return the standard deviations between seeds of one cell's training and between cells, in points.

    None unless two cells have two trainings. The second is of the cells' means, so that it holds some of the first.
    """
    twice = [cell for cell in cells if len(cell.accuracies) > 1]
    if len(twice) < 2:
        return None
    within = float(np.sqrt(np.mean([np.var(cell.accuracies, ddof=1) for cell in twice])))
    return within, float(np.std([cell.accuracy for cell in twice], ddof=1))


def depth(genotype: Genotype) -> float:
    """Return the number of operations on the longest path to a node, the mean over the nodes of all cells."""
    depths: list[int] = []
    for nodes in genotype.cells.values():
        longest = [0] * genotype.num_inputs
        for node in nodes:
            longest.append(1 + max(longest[source] for _, source in node))
        depths += longest[genotype.num_inputs :]
    return float(np.mean(depths))


def correlations(cells: Sequence[Trained]) -> tuple[float, float] | None:
    """Return Pearson's correlation of the cells' accuracies with their parameters, and with their depths.

    None for fewer than three cells, of which any two would lie on a line.
    """
    if len(cells) < 3:
        return None
    accuracies, *others = ([getattr(cell, name) for cell in cells] for name in ("accuracy", "parameters", "depth"))
    parameters, depths = (float(pearsonr(accuracies, other).statistic) for other in others)
    return parameters, depths


def picture(groups: Mapping[str, Sequence[Trained]], random: Sequence[Trained], title: str, path: Path) -> None:
    """Draw a strip for each group over the distribution of the random cells, accuracy to the right."""
    rows = {**groups, "random cells": random}
    figure, panel = plt.subplots(figsize=(9, 1.4 + 0.42 * len(rows)))
    accuracies = [cell.accuracy for cell in random]
    if accuracies:
        for low, high, shade in ((0, 100, 0.08), (20, 80, 0.12)):
            panel.axvspan(*np.percentile(accuracies, [low, high]), color="grey", alpha=shade, linewidth=0)
        panel.axvline(np.median(accuracies), color="grey", linewidth=1, linestyle="--")
    for row, cells in enumerate(rows.values()):
        values = [cell.accuracy for cell in cells]
        colour = "grey" if row == len(rows) - 1 else f"C{row % 10}"
        panel.plot(values, [row] * len(values), "o", color=colour, alpha=0.6, markersize=7, markeredgewidth=0)
        if len(values) > 1:
            panel.plot([np.mean(values)], [row], "|", color="black", markersize=18, markeredgewidth=2)
    panel.set_yticks(range(len(rows)), list(rows))
    panel.set_ylim(len(rows) - 0.5, -0.5)
    panel.set_xlabel("test accuracy, %; grey: range, middle three fifths and median of the random cells")
    panel.set_title(title, fontsize=10)
    panel.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
