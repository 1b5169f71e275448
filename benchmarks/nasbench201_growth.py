"""Searches on NAS-Bench-201 as the supernet grows: the derived cell in the table by epoch, what warned, the ranking.

    python benchmarks/nasbench201_growth.py npz:CIFAR10.npz NB201.npz --images 10000 --hours 2
    python benchmarks/nasbench201_growth.py digits NB201.npz --size 8 --channels 2 --cells 1 --epochs 2 --long 0

RF-DARTS, DARTS, DARTS with BNAS-v2's confident learning rate and NNI's own DARTS search supernets of C channels and N
cells a stage; a few searches of the smallest size are much longer, to see DARTS collapse. EnTranNAS, a single-path
supernet and RelativeNAS take part for the ranking: Kendall's tau of a supernet's accuracies against the table
(:mod:`nasbench201_contenders`). When a search drops and which sign warned of it is :mod:`warning_signs`.

All gradient searches have one architecture learning rate, the long ones too: ``--path`` over the steps of ``--epochs``.
Adam moves alpha by at most about its rate a step, so that the path says how far alpha could go; the published search
has 3e-4 over 50 epochs of 390 steps, 5.9.

Every search has a process of its own and one thread. One that is done is kept under ``OUTPUT/pieces`` by all settings
that it depends on (a version of the package with further settings begins anew), one that is interrupted resumes after
its last epoch; the first seed of all sizes comes first, small sizes before large ones. Tables and pictures are made of
what there is.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
import warning_signs
from nasbench201_contenders import GENERATION_TAU, ONE_SHOT_TAU
from nasbench201_search import DATASETS, mean_and_spread, score_all
from pieces import Clock, Pieces, run_to_results
from searching import prepare, search_arguments, small_images, without_cells

from nni_plugins.data import ImageData
from nni_plugins.methods.bilevel.metrics import CONSISTENCY_GAP
from nni_plugins.methods.metric import ALPHA_GAP, PARAMETER_FREE, SKIP_CONNECT
from nni_plugins.methods.registry import method_spec
from nni_plugins.report.nasbench201_table import EDGES, Table
from nni_plugins.run.search import search
from nni_plugins.run.settings import Settings
from nni_plugins.run.work_folder import Stage
from nni_plugins.tools.atomic_files import atomic_write, strict_json
from search_spaces import Genotype, to_architecture_string

CONTENDERS = {
    "rf_darts": "nasbench201_contenders:RF_DARTS",
    "darts": "nasbench201_contenders:DARTS",
    "bnas_v2_clr": "nasbench201_contenders:CLR",
    "nni_darts": "nasbench201_contenders:NNI_DARTS",
    "entrannas": "nasbench201_contenders:ENTRANNAS",
    "single_path": "nasbench201_contenders:SINGLE_PATH",
    "relative_nas": "nasbench201_contenders:RELATIVE_NAS",
}
GROWING = ("rf_darts", "darts", "bnas_v2_clr", "nni_darts")
"""Contenders of the pictures of accuracy."""
LONG = ("darts", "rf_darts")
"""Contenders of the long searches."""
DERIVES_NOTHING = ("single_path",)
PUBLISHED = {"RF-DARTS, published": 94.27, "DARTS after its collapse, published": 54.30}
"""Test accuracies on CIFAR-10 of searches with C=16, N=5, 50 epochs and all images."""


class Size(NamedTuple):
    """Of a supernet: C, N, and the side of the images in pixels."""

    channels: int
    cells: int
    side: int

    @property
    def cost(self) -> int:
        """What a step takes, up to a factor that all sizes share."""
        return self.channels * self.cells * self.side**2

    def __str__(self) -> str:
        return f"C={self.channels} N={self.cells} {self.side}x{self.side}"


class Search(NamedTuple):
    """One search; ``epochs`` are generations of RelativeNAS, ``long`` says whether it is one of the long ones."""

    contender: str
    size: Size
    seed: int
    epochs: int
    long: bool = False


def do_search(settings: Settings, data: ImageData, folder: Path, clock: Clock) -> dict[str, Any]:
    """Search; return the cell and the metrics of every epoch, and the CPU seconds."""
    found = search(settings, data, folder, clock.keep)
    return {
        "cells": [to_architecture_string(Genotype.from_json(epoch["genotype"])) for epoch in found.history],
        "seconds": clock.seconds(),
        "history": without_cells(found.history),
        "machine": f"{platform.machine()} CPU, one thread, torch {torch.__version__}",
    }


class Growth:
    """The searches in their order, and their outcomes.

    Parameters
    ----------
    arguments
        Of the command line.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.table = Table.load(arguments.table)
        self.done = Pieces(arguments.output, arguments.hours)
        sizes = [
            Size(channels, cells, side)
            for channels in arguments.channels
            for cells in arguments.cells
            for side in arguments.size
        ]
        self.sizes = sorted(sizes, key=lambda size: size.cost)

    @functools.cached_property
    def data(self) -> Mapping[int, ImageData]:
        """The images by their side."""
        return {
            side: small_images(argparse.Namespace(**{**vars(self.arguments), "size": side}))
            for side in self.arguments.size
        }

    @functools.cached_property
    def data_sha256(self) -> Mapping[int, str]:
        return {side: data.fingerprint() for side, data in self.data.items()}

    def searches(self) -> Iterator[Search]:
        """Return all searches in their order."""
        arguments = self.arguments
        for seed in range(arguments.seeds):
            for size in self.sizes:
                for contender in arguments.contenders:
                    generations = "population_size" in self.kind(contender).setting_names()
                    yield Search(contender, size, seed, arguments.generations if generations else arguments.epochs)
                if size == self.sizes[0] and arguments.long:
                    for contender in LONG:
                        yield Search(contender, size, seed, arguments.long, long=True)

    def kind(self, contender: str) -> Any:
        return method_spec(CONTENDERS[contender]).load_strategy()

    def settings(self, wanted: Search) -> Settings:
        """Return the settings of a search."""
        arguments, size = self.arguments, wanted.size
        steps = arguments.epochs * (len(self.data[size.side].x_train) // 2 // arguments.batch)
        kind = self.kind(wanted.contender)
        values = {
            "arch_learning_rate": float(f"{arguments.path / steps:.3g}"),
            "population_size": arguments.population,
            "ranked_by": str(arguments.table),
            "ranked_cells": arguments.ranked,
        }
        values = {name: value for name, value in values.items() if name in kind.setting_names()}
        if "hessian" not in kind.unused_settings:
            values["hessian"] = arguments.hessian
        values |= {"epochs": wanted.epochs, "batch_size": arguments.batch, "lr": arguments.lr}
        values |= {"space.channels": size.channels, "space.cells": size.cells}
        code = CONTENDERS[wanted.contender]
        return Settings.of(strategy=code, space="nasbench201", data=arguments.data, seed=wanted.seed, overrides=values)

    def name(self, wanted: Search) -> str:
        """Return the name of a search's file, with a hash of all that its outcome depends on."""
        sha256, size = self.data_sha256[wanted.size.side], wanted.size
        depends_on = Stage.of_search(self.settings(wanted), sha256).depends_on
        text = strict_json([sha256, self.arguments.ranked, {**depends_on, "data": ""}], indent=None)
        sizes = f"C{size.channels}_N{size.cells}_{size.side}px_{wanted.epochs}_{wanted.seed}"
        return f"{wanted.contender}_{sizes}_{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    def run(self) -> None:
        """Do what is not done yet, one search after the other.

        Raises
        ------
        TimeIsUp
            When the hours are over; the search that was at work resumes next time.
        """
        for wanted in self.searches():
            settings, data = self.settings(wanted), self.data[wanted.size.side]
            self.done.do(self.name(wanted), functools.partial(do_search, settings, data))

    def outcomes(self) -> dict[Search, dict[str, Any]]:
        """Return what came out of the searches that are done, with what the table says of every epoch's cell."""
        found = {wanted: self.done.outcome(self.name(wanted)) for wanted in self.searches()}
        known = {wanted: outcome for wanted, outcome in found.items() if outcome is not None}
        score_all({"all": list(known.values())}, self.table)
        return known


# Results

Outcomes = Mapping[Search, Mapping[str, Any]]
Groups = Mapping[tuple[Size, str], Sequence[Mapping[str, Any]]]
"""Outcomes of all seeds, by size and contender."""


def grouped(outcomes: Outcomes, *, long: bool = False) -> dict[tuple[Size, str], list[Mapping[str, Any]]]:
    """Return the outcomes of the long searches, or of the others, by size and contender."""
    groups: dict[tuple[Size, str], list[Mapping[str, Any]]] = {}
    for wanted, outcome in outcomes.items():
        if wanted.long == long:
            groups.setdefault((wanted.size, wanted.contender), []).append(outcome)
    return groups


def title(contender: str) -> str:
    return method_spec(CONTENDERS[contender]).summary


def accuracies(outcomes: Sequence[Mapping[str, Any]], name: str = "cifar10") -> np.ndarray:
    """Return the cells' test accuracies in the table, (seeds, epochs)."""
    return np.array([outcome["accuracy"][name] for outcome in outcomes])


def metric(outcomes: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """Return a metric, (seeds, epochs); NaN where it was not measured."""
    return np.array([[epoch.get(name, np.nan) for epoch in outcome["history"]] for outcome in outcomes])


def accuracy_table(groups: Groups) -> list[str]:
    """Return lines of Markdown: the last epoch's cell of every size and contender."""
    columns = ["size", "search", *DATASETS.values(), "best epoch", "drops", "skips", "without convolutions", "CPU min"]
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    for (size, contender), outcomes in groups.items():
        if contender in DERIVES_NOTHING:
            continue
        values = [mean_and_spread(accuracies(outcomes, name)[:, -1].tolist()) for name in DATASETS]
        drops = [drop for row in accuracies(outcomes) if (drop := warning_signs.drop_epoch(row)) is not None]
        at = f" (epoch {', '.join(str(drop + 1) for drop in drops)})" if drops else ""
        others = [
            mean_and_spread(accuracies(outcomes).max(axis=1).tolist()),
            f"{len(drops)} of {len(outcomes)}{at}",
            *(
                mean_and_spread(metric(outcomes, name.name)[:, -1].tolist(), 1)
                for name in (SKIP_CONNECT, PARAMETER_FREE)
            ),
            f"{np.mean([outcome['seconds'] for outcome in outcomes]) / 60:.0f}",
        ]
        lines.append(f"| {size} | {title(contender)} | {' | '.join([*values, *others])} |")
    return lines


def lead_table(groups: Groups) -> list[str]:
    """Return lines of Markdown: by how much RF-DARTS is ahead of DARTS at every size that has both."""
    lines = ["| size | RF-DARTS minus DARTS, last epoch | mean over the epochs | seeds |", "| --- | --- | --- | --- |"]
    for (size, contender), outcomes in groups.items():
        others = groups.get((size, "darts"), ())
        seeds = min(len(outcomes), len(others))
        if contender == "rf_darts" and seeds:
            lead = accuracies(outcomes)[:seeds] - accuracies(others)[:seeds]
            columns = [mean_and_spread(values.tolist()) for values in (lead[:, -1], lead.mean(axis=1))]
            lines.append(f"| {size} | {' | '.join(columns)} | {seeds} |")
    return lines


def long_section(groups: Groups, epochs: int) -> list[str]:
    """Return lines of Markdown on the long searches; nothing as long as none is done."""
    if not groups:
        return []
    sentence = f"{epochs} epochs at the same architecture learning rate."
    return ["## Long searches", "", sentence, "", *accuracy_table(groups), ""]


def signs_table(outcomes: Outcomes) -> list[str]:
    """Return lines of Markdown: how every sign did over the bilevel searches of ours."""
    searches = [
        (outcome["history"], outcome["accuracy"]["cifar10"])
        for outcome in outcomes.values()
        if ALPHA_GAP.name in outcome["history"][0] and CONSISTENCY_GAP.name in outcome["history"][0]
    ]
    lines = [
        "| sign | warned no later than the drop | epochs ahead | warned without a drop |",
        "| --- | --- | --- | --- |",
    ]
    for name, record in warning_signs.records(searches).items():
        ahead = f"{np.mean(record.ahead):.1f} ({min(record.ahead)} to {max(record.ahead)})" if record.ahead else ""
        lines.append(
            f"| {name} | {len(record.ahead)} of {record.dropped} | {ahead} | {record.false_alarms} of {record.sound} |"
        )
    return lines


def ranking_table(groups: Groups) -> list[str]:
    """Return lines of Markdown: Kendall's tau of every size and contender that is ranked."""
    lines = [
        "| size | supernet | tau, last epoch | tau, mean of all epochs | tau of a generation's losses |",
        "| --- | --- | --- | --- | --- |",
    ]
    for (size, contender), outcomes in groups.items():
        one_shot = metric(outcomes, ONE_SHOT_TAU.name)
        if np.isnan(one_shot).all():
            continue
        generation = metric(outcomes, GENERATION_TAU.name)
        known = generation[~np.isnan(generation)]
        columns = [
            mean_and_spread(one_shot[:, -1].tolist()),
            mean_and_spread(np.nanmean(one_shot, axis=1).tolist()),
            f"{mean_and_spread(known.tolist())} ({known.size} populations)" if known.size else "",
        ]
        lines.append(f"| {size} | {title(contender)} | {' | '.join(columns)} |")
    return lines


def markdown(growth: Growth, outcomes: Outcomes) -> str:
    """Return the figures as a page of Markdown."""
    arguments, table = growth.arguments, growth.table
    groups, long = grouped(outcomes), grouped(outcomes, long=True)
    images = len(growth.data[arguments.size[0]].x_train)
    machines = sorted({f" {outcome['machine']}." for outcome in outcomes.values()})
    lines = [
        "# NAS-Bench-201 as the supernet grows",
        "",
        f"{Path(arguments.data).name}, {images:,} training images; {arguments.epochs} epochs, batch {arguments.batch}, "
        f"weights' learning rate {arguments.lr:g}, path of alpha {arguments.path:g}; RelativeNAS: "
        f"{arguments.generations} generations of {arguments.population}.{''.join(machines)}",
        "",
        f"{len(outcomes)} of {sum(1 for _ in growth.searches())} searches are done; the same command resumes.",
        "",
        "Test accuracy of the last epoch's cell in the table, percent; mean ± standard deviation over seeds. A cell at "
        f"random has {table.accuracy['cifar10'].mean():.2f}, the best one {table.accuracy['cifar10'].max():.2f} on "
        "CIFAR-10. *Best epoch*: the best cell of any epoch, chosen by the table, an optimistic figure. *Drops*: the "
        f"cell stays {warning_signs.DROP:g} points below the best one before, from the epoch in brackets on. Of "
        f"{len(EDGES)} connections.",
        "",
        *accuracy_table(groups),
        "",
        "## RF-DARTS beside DARTS",
        "",
        *lead_table(groups),
        "",
        *long_section(long, arguments.long),
        "## Which sign warned",
        "",
        "Over all DARTS, RF-DARTS, CLR and EnTranNAS searches above, the long ones included.",
        "",
        *signs_table(outcomes),
        "",
        "## Ranking",
        "",
        f"Kendall's tau against the table's CIFAR-10 test accuracy, {arguments.ranked} cells drawn at random; of a "
        "generation, over its candidates.",
        "",
        *ranking_table(groups),
    ]
    return "\n".join(lines) + "\n"


def colour(contender: str) -> str:
    return f"C{list(CONTENDERS).index(contender)}"


def draw(panel: Any, values: np.ndarray, contender: str, *, label: str = "", style: str = "-") -> None:
    """Draw mean and range over seeds, (seeds, epochs), by epoch."""
    epochs = np.arange(1, values.shape[1] + 1)
    name = label or title(contender)
    panel.plot(epochs, values.mean(0), style, color=colour(contender), label=f"{name} ({len(values)})")
    panel.fill_between(epochs, values.min(0), values.max(0), color=colour(contender), alpha=0.12, linewidth=0)


def published_lines(panel: Any) -> None:
    for (name, value), style in zip(PUBLISHED.items(), ("--", ":"), strict=True):
        panel.axhline(value, color="grey", linewidth=0.9, linestyle=style, label=name)


def panels_of(number: int) -> tuple[Any, list[Any]]:
    """Return a figure with so many panels, up to three in a row."""
    columns = min(3, number)
    rows = -(-number // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(5 * columns, 4 * rows), squeeze=False)
    for panel in grid.flat[number:]:
        panel.axis("off")
    return figure, list(grid.flat[:number])


def save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def growth_picture(groups: Groups, path: Path) -> None:
    """Draw accuracy by epoch, a panel for each size, and the last epoch's accuracy against size."""
    sizes = list(dict.fromkeys(size for size, contender in groups if contender in GROWING))
    figure, (*panels, last) = panels_of(len(sizes) + 1)
    for panel, size in zip(panels, sizes, strict=True):
        for contender in GROWING:
            if outcomes := groups.get((size, contender)):
                draw(panel, accuracies(outcomes), contender)
        panel.set(title=str(size), xlabel="epoch", ylabel="CIFAR-10 test, table, %")
        published_lines(panel)
        panel.legend(frameon=False, fontsize=7)
    for contender in GROWING:
        known = {n: groups[size, contender] for n, size in enumerate(sizes) if (size, contender) in groups}
        ends = [accuracies(outcomes)[:, -1] for outcomes in known.values()]
        # no line: sizes grow in depth and in width
        last.plot(list(known), [values.mean() for values in ends], "o", color=colour(contender))
        for n, values in zip(known, ends, strict=True):
            last.plot([n] * len(values), values, ".", color=colour(contender), alpha=0.5)
    published_lines(last)
    last.set_xticks(range(len(sizes)), [str(size).replace(" ", "\n") for size in sizes])
    last.set(title="last epoch against size", ylabel="CIFAR-10 test, table, %")
    save(figure, path)


def collapse_picture(groups: Groups, path: Path) -> None:
    """Draw accuracy and signs of the long searches by epoch, a line for each seed.

    A dot marks where the accuracy drops, and where a sign first warns.
    """
    signs = warning_signs.SIGNS
    rows, columns = len(signs) + 1, len(groups)
    figure, grid = plt.subplots(rows, columns, figsize=(6 * columns, 1.9 * rows), squeeze=False, sharex="col")
    for (top, *others), ((size, contender), outcomes) in zip(grid.T, groups.items(), strict=True):
        published_lines(top)
        for seed, row in enumerate(accuracies(outcomes)):
            _curve(top, row, seed, warning_signs.drop_epoch(row))
        top.set(title=f"{title(contender)}, {size}", ylabel="CIFAR-10 test, %")
        first = [warning_signs.first_warnings(outcome["history"]) for outcome in outcomes]
        for panel, (name, sign) in zip(others, signs.items(), strict=True):
            for seed, row in enumerate(metric(outcomes, sign.metric)):
                _curve(panel, row, seed, first[seed].get(name))
            panel.set_ylabel(name)
        others[-1].set_xlabel("epoch")
    save(figure, path)


def _curve(panel: Any, values: np.ndarray, seed: int, marked: int | None) -> None:
    panel.plot(range(1, len(values) + 1), values, color=f"C{seed}", linewidth=1)
    if marked is not None:
        panel.plot([marked + 1], [values[marked]], "o", color=f"C{seed}")


def ranking_picture(groups: Groups, path: Path) -> None:
    """Draw Kendall's tau by epoch, or by generation, a panel for each size."""
    ranked = {key: found for key, found in groups.items() if not np.isnan(metric(found, ONE_SHOT_TAU.name)).all()}
    sizes = list(dict.fromkeys(size for size, _ in ranked))
    figure, panels = panels_of(max(1, len(sizes)))
    for panel, size in zip(panels, sizes, strict=False):
        for contender in CONTENDERS:
            if outcomes := ranked.get((size, contender)):
                draw(panel, metric(outcomes, ONE_SHOT_TAU.name), contender)
                generation = metric(outcomes, GENERATION_TAU.name)
                if not np.isnan(generation).all():
                    draw(panel, generation, contender, label="RelativeNAS, a generation's losses", style="--")
        panel.axhline(0, color="grey", linewidth=0.8)
        panel.set(title=str(size), xlabel="epoch or generation", ylabel="Kendall's tau", ylim=(-0.6, 1))
        panel.legend(frameon=False, fontsize=7, loc="upper left")
    save(figure, path)


def write_results(growth: Growth) -> Path:
    """Write figures, table and pictures of what there is; return the table's file."""
    outcomes, arguments = growth.outcomes(), growth.arguments
    target = arguments.output / arguments.name
    kept = (
        "epoch",
        *(sign.metric for sign in warning_signs.SIGNS.values()),
        ONE_SHOT_TAU.name,
        GENERATION_TAU.name,
        "validation_accuracy",
    )
    content = [
        {
            **wanted._asdict(),
            "size": wanted.size._asdict(),
            "cells": outcome["cells"],
            "cifar10": outcome["accuracy"]["cifar10"],
            "seconds": outcome["seconds"],
            "history": [{name: epoch[name] for name in kept if name in epoch} for epoch in outcome["history"]],
        }
        for wanted, outcome in outcomes.items()
    ]
    atomic_write(target.with_suffix(".json"), strict_json(content, indent=None) + "\n")
    groups = grouped(outcomes)
    growth_picture(groups, target.with_suffix(".png"))
    ranking_picture(groups, target.with_name(f"{target.name}_ranking.png"))
    if long := grouped(outcomes, long=True):
        collapse_picture(long, target.with_name(f"{target.name}_collapse.png"))
    return atomic_write(target.with_suffix(".md"), markdown(growth, outcomes))


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = search_arguments(
        __doc__.split("\n\n")[0], several=("size", "channels"), size=[16], channels=[4, 8, 16], epochs=12, lr=0.025
    )
    parser.add_argument("table", type=Path, help="NAS-Bench-201 table (.npz)")
    parser.add_argument("--cells", type=int, nargs="+", default=[1, 3, 5], help="N, cells of each stage")
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--path", type=float, default=6.0, help="architecture learning rate times steps")
    parser.add_argument("--long", type=int, default=60, help="epochs of the long searches; 0 for none")
    parser.add_argument("--hessian", action=argparse.BooleanOptionalAction, default=True, help="measure its eigenvalue")
    parser.add_argument("--ranked", type=int, default=64, help="cells that are ranked")
    parser.add_argument("--generations", type=int, default=6, help="of RelativeNAS")
    parser.add_argument("--population", type=int, default=20, help="of RelativeNAS")
    parser.add_argument("--hours", type=float, help="stop after that long")
    parser.add_argument("--name", default="nasbench201_growth", help="name of the result files")
    arguments = parser.parse_args(argv)
    if arguments.long and arguments.long <= arguments.epochs:
        parser.error(f"--long must be above --epochs {arguments.epochs}, or 0 for no long search, not {arguments.long}")
    return arguments


def main() -> int:
    arguments = parse()
    prepare(*CONTENDERS.values())
    return run_to_results(lambda: Growth(arguments), write_results)


if __name__ == "__main__":
    sys.exit(main())
