"""The page of an experiment: its trials, the best first, over seeds, and accuracy against latency."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nni_plugins.report.curves import Point, draw_accuracy_latency, pareto_front
from nni_plugins.report.figures import Figures, differing_settings
from nni_plugins.report.html import percent, render
from nni_plugins.report.seeds import CONFIDENCE, OverSeeds, over_seeds


@dataclass(frozen=True)
class Trial:
    """A result of an experiment.

    Parameters
    ----------
    name
        What the page calls it.
    link
        Where its own page lies, relative to that of the experiment; None if there is none.
    report
        The content of its ``report.json``.
    figures
        Those of ``report``.
    """

    name: str
    link: str | None
    report: Mapping[str, Any]
    figures: Figures


def experiment_page(title: str, trials: Sequence[Trial]) -> str:
    """Return the page of an experiment as HTML that needs neither a network nor a script.

    Raises
    ------
    ValueError
        If there is no trial.
    """
    if not trials:
        raise ValueError("The page of an experiment needs at least one result, got none.")
    trials = sorted(trials, key=lambda trial: -_accuracy(trial))
    points = [
        Point(str(place), trial.figures.strategy, trial.figures.latency_ms, trial.figures.test_accuracy)
        for place, trial in enumerate(trials, start=1)
        if trial.figures.latency_ms is not None and trial.figures.test_accuracy is not None
    ]
    differing = differing_settings([trial.report["settings"] for trial in trials])
    return render(
        "experiment.html",
        title=title,
        verdict=_verdict(trials),
        trials=trials,
        runs=_over_seeds(trials),
        confidence=CONFIDENCE,
        scatter=draw_accuracy_latency(points) if points else None,
        front={point.label for point in pareto_front(points)},
        differing=differing,
    )


def _over_seeds(trials: Sequence[Trial]) -> list[tuple[Figures, list[int], OverSeeds]]:
    """Return the trials that differ in their seed alone as one of them, their seeds and their test accuracy."""
    runs: dict[str, list[Figures]] = {}
    for trial in trials:
        if trial.figures.test_accuracy is not None:
            runs.setdefault(json.dumps({**trial.report["settings"], "seed": None}, sort_keys=True), []).append(
                trial.figures
            )
    found = [
        (
            run[0],
            sorted(figures.seed for figures in run),
            over_seeds([figures.test_accuracy for figures in run if figures.test_accuracy is not None]),
        )
        for run in runs.values()
    ]
    return sorted(found, key=lambda run: -run[2].mean)


def _accuracy(trial: Trial) -> float:
    return -1.0 if trial.figures.test_accuracy is None else trial.figures.test_accuracy


def _verdict(trials: Sequence[Trial]) -> str:
    best, failed = trials[0].figures, sum(not trial.figures.deployment_passed for trial in trials)
    check = (
        f"{failed} of {len(trials)} ONNX models failed the deployment check"
        if failed
        else "every ONNX model passed the deployment check"
    )
    return (
        f"The best of {len(trials)} result{'s' * (len(trials) > 1)} is {best.strategy} with seed {best.seed}, "
        f"{percent(best.test_accuracy)} on the test set of {best.data}; {check}."
    )
