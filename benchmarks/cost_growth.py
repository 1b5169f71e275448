"""How the cost of a search grows: time and memory of a step by cells, channels and batch, a tuner's time by its trials.

    python benchmarks/cost_growth.py

Each point is a process of its own and kept in the JSON file as soon as it is done, so that the same command resumes.
One size at a time changes: hub DARTS space, 8 cells, C = 16, batch 16, 16x16 images otherwise. Time (the CPU's, as
others may use the machine) and memory should be straight lines; the table says how far points lie from the best one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from nni_plugins.tools.atomic_files import atomic_write, strict_json

ROOT = Path(__file__).parents[1]
STRATEGIES = ("FirstOrderDARTS", "EnTranNAS", "PCDARTS")
BASE = {"cells": 8, "channels": 16, "batch": 16}
SIDE = 16
SIZES = {"cells": (4, 8, 12, 16, 20), "channels": (8, 16, 32, 48, 64), "batch": (8, 16, 32, 64, 128)}
TUNER = "RelativeNASTuner"
TRIALS = "trials"
FEWEST = 3
"""Points that make a series worth showing."""
BLOCK = 500
"""Trials whose time makes one point."""
COSTS = {"cpu_seconds": "CPU seconds a step", "peak_mb": "peak memory, MB"}
TUNER_COSTS = {"ms": "ms a trial", "resident_mb": "memory of the process, MB"}


class Point(NamedTuple):
    """What is measured: a strategy where one size differs from the base, or the tuner up to a number of trials."""

    strategy: str
    axis: str
    size: int


def all_points(strategies: Sequence[str], trials: int) -> list[Point]:
    steps = [Point(name, axis, size) for name in strategies for axis, sizes in SIZES.items() for size in sizes]
    return [Point(TUNER, TRIALS, trials), *steps]


def measured(point: Point, steps: int) -> dict[str, Any]:
    """Measure one point in this process."""
    return tuner_cost(point.size) if point.axis == TRIALS else step_cost(point, steps)


def step_cost(point: Point, steps: int) -> dict[str, Any]:
    """Return seconds and MB of a search step."""
    from search_step import Variant, measure

    sizes = {**BASE, point.axis: point.size}

    def make_space() -> Any:
        from nni.nas.hub.pytorch import DARTS

        return DARTS(width=sizes["channels"], num_cells=sizes["cells"], dataset="cifar")

    return measure(Variant(point.strategy), make_space, batch=sizes["batch"], side=SIDE, steps=steps)


def tuner_cost(trials: int) -> dict[str, Any]:
    """Return, for every block of trials, ms of the tuner per trial and MB of the process at its end."""
    from memory import resident_mb
    from slow_fast_speed import SPACE, accuracy, ours

    tuner, blocks = ours(), []
    tuner.update_search_space(SPACE)
    for first in range(0, trials, BLOCK):
        started = time.perf_counter()
        for number in range(first, first + BLOCK):
            parameters = tuner.generate_parameters(number)
            tuner.receive_trial_result(number, parameters, accuracy(tuple(parameters.values())))
            tuner.trial_end(number, True)
        ms = 1000 * (time.perf_counter() - started) / BLOCK
        blocks.append({"trials": first + BLOCK, "ms": ms, "resident_mb": resident_mb()})
    return {"blocks": blocks}


def measure_missing(points: Sequence[Point], path: Path, steps: int) -> dict[Point, dict[str, Any]]:
    """Measure what ``path`` does not have yet, each point in a process of its own, and return all."""
    done = {Point(*each.pop("point")): each for each in json.loads(path.read_text())} if path.is_file() else {}
    for point in points:
        if point in done:
            continue
        command = [sys.executable, __file__, "--one", json.dumps(point), "--steps", str(steps)]
        run = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        if run.returncode:
            raise RuntimeError(f"{point} failed:\n{run.stderr}")
        done[point] = json.loads(run.stdout.splitlines()[-1])
        atomic_write(path, strict_json([{"point": each, **costs} for each, costs in done.items()]) + "\n")
        print(*point, flush=True)
    return done


Series = tuple[list[float], list[float]]


def series_of(done: dict[Point, dict[str, Any]], strategy: str, axis: str, cost: str) -> Series:
    """Return sizes and costs along an axis."""
    if axis == TRIALS:
        (blocks,) = (costs["blocks"] for point, costs in done.items() if point.axis == TRIALS)
        return [block["trials"] for block in blocks], [block[cost] for block in blocks]
    found = sorted((point.size, costs[cost]) for point, costs in done.items() if point[:2] == (strategy, axis))
    return [size for size, _ in found], [value for _, value in found]


def growth(sizes: Sequence[float], costs: Sequence[float]) -> tuple[float, float]:
    """Return the largest distance from the best straight line, as a share of the largest cost, and the exponent.

    The exponent is that between the last two points: 1 for twice the cost at twice the size.
    """
    line = np.polynomial.Polynomial.fit(sizes, costs, 1)
    distance = float(np.abs(line(np.asarray(sizes)) - costs).max() / max(costs))
    return distance, float(np.log(costs[-1] / costs[-2]) / np.log(sizes[-1] / sizes[-2]))


def table(done: dict[Point, dict[str, Any]], strategies: Sequence[str]) -> str:
    """Return every series with its distance from a straight line, as Markdown."""
    machine = next(costs for point, costs in done.items() if point.axis != TRIALS)
    lines = [
        f"Hub DARTS space, one size at a time; otherwise {BASE['cells']} cells, C={BASE['channels']}, batch "
        f"{BASE['batch']}, {SIDE}x{SIDE} images; {machine['device']}; torch {machine['torch']}, NNI 3.0, Python "
        f"{platform.python_version()}",
        "",
        "| strategy | by | cost | values | off a straight line | exponent at the end |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for strategy in strategies:
        for axis in SIZES:
            for cost, meaning in COSTS.items():
                sizes, costs = series_of(done, strategy, axis, cost)
                if len(sizes) < FEWEST:
                    continue
                digits = 2 if cost == "cpu_seconds" else 0
                values = ", ".join(f"{size}: {value:.{digits}f}" for size, value in zip(sizes, costs, strict=True))
                distance, exponent = growth(sizes, costs)
                lines.append(f"| {strategy} | {axis} | {meaning} | {values} | {distance:.0%} | {exponent:.2f} |")
    for cost, meaning in TUNER_COSTS.items():
        sizes, costs = series_of(done, TUNER, TRIALS, cost)
        values = ", ".join(f"{sizes[number]:.0f}: {costs[number]:.3g}" for number in (0, len(sizes) // 2, -1))
        distance, exponent = growth(sizes, costs)
        lines.append(f"| {TUNER} | {TRIALS} | {meaning} | {values} | {distance:.0%} | {exponent:.2f} |")
    return "\n".join(lines) + "\n"


def picture(done: dict[Point, dict[str, Any]], strategies: Sequence[str], path: Path) -> None:
    """Draw all series as small multiples: a column for each size, time above memory."""
    figure, panels = plt.subplots(2, len(SIZES) + 1, figsize=(15, 6), layout="constrained")
    for column, axis in enumerate([*SIZES, TRIALS]):
        names, costs = ((TUNER,), TUNER_COSTS) if axis == TRIALS else (strategies, COSTS)
        for row, (cost, meaning) in enumerate(costs.items()):
            panel = panels[row, column]
            for name in names:
                sizes, values = series_of(done, name, axis, cost)
                if len(sizes) >= FEWEST:
                    panel.plot(sizes, values, marker=".", label=name)
            panel.set(xlabel=axis, ylabel=meaning)
            panel.grid(alpha=0.3)
            if panel.lines:
                panel.set(xlim=(0, None), ylim=(0, 1.05 * panel.dataLim.y1))
                if row == 0 and axis in (next(iter(SIZES)), TRIALS):
                    panel.legend()
            else:
                panel.set(xticks=[], yticks=[])
                panel.text(0.5, 0.5, "not measured", ha="center", va="center")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a point, after two of warm-up")
    parser.add_argument("--trials", type=int, default=10_000, help=f"trials of the tuner, a multiple of {BLOCK}")
    parser.add_argument("--draw", action="store_true", help="show what is measured, and measure nothing")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the results")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measured(Point(*json.loads(arguments.one)), arguments.steps)))
        return
    points = [] if arguments.draw else all_points(arguments.strategies, arguments.trials)
    done = measure_missing(points, arguments.out / "cost_growth.json", arguments.steps)
    text = table(done, arguments.strategies)
    print(text)
    atomic_write(arguments.out / "cost_growth.md", text)
    picture(done, arguments.strategies, arguments.out / "cost_growth.png")


if __name__ == "__main__":
    main()
