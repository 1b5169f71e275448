"""The page of one result: ``report.html`` in its folder, drawn from ``report.json`` and the genotype alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nni_plugins.report.cell_picture import draw_cells
from nni_plugins.report.curves import draw_curves
from nni_plugins.report.decision import DECIDED_GAP, SETTLED
from nni_plugins.report.figures import Figures, flat_settings
from nni_plugins.report.html import NONE, amount, percent, render
from search_spaces import Genotype

_DECISION = {
    "decided": "how far the search has decided, from 0 to 1",
    "alpha_gap": "lead of an edge's best operation in weight, a mean",
    "alpha_entropy": "entropy of an edge's operation weights, a mean, nats",
    "changed_since_initial": "share of the connections that the initial cell has not",
    "changed_since_first": "share of the connections that the first epoch's cell has not",
    "epochs_unchanged": "epochs since the cell last changed",
    "loss_signal": "spread of the candidates' losses over that of chance",
    "parameter_free": "connections without convolutions",
    "skip_connect": "skip connections",
    "derived_accuracy": "accuracy of the cell alone, with the supernet's weights, percent",
}
"""What a search's last epoch says of its decision."""

_CHARTS: Sequence[tuple[str, str, str, Mapping[str, str]]] = (
    ("Search: accuracy", "%", "search_history", {"validation_accuracy": "validation"}),
    (
        "Search: loss",
        "nats",
        "search_history",
        {"validation_loss": "validation", "weights_loss": "training of the weights"},
    ),
    ("Search: entropy of the operation weights", "nats", "search_history", {"alpha_entropy": "mean over the edges"}),
    ("Retraining: loss", "nats", "retrain_history", {"training_loss": "training"}),
    ("Retraining: accuracy", "%", "retrain_history", {"training_accuracy": "training", "test_accuracy": "test"}),
)
"""Heading, unit, which history, and what its curves are called."""


def result_page(
    report: Mapping[str, Any],
    figures: Figures,
    genotype: Genotype,
    *,
    history: str | None = None,
    usual: Mapping[str, Any] | None = None,
    variants: Mapping[str, Any] | None = None,
) -> str:
    """Return the page of a result as HTML that needs neither a network nor a script.

    Parameters
    ----------
    report
        The content of ``report.json``.
    figures
        Those of ``report``.
    genotype
        The cell that was found.
    history
        Picture of how the cells changed, as SVG.
    usual
        Settings that the run would have had if none had been given, in the form of ``report["settings"]``; the page
        shows first where it differs.
    variants
        The content of ``variants/variants.json``.

    Raises
    ------
    ValueError
        If a field of ``report`` or of ``variants`` has not the form that a run gives it.
    """
    search = report.get("search") or {}
    try:
        return render(
            "result.html",
            report=report,
            figures=figures,
            verdict=verdict(report, figures),
            decision=[(meaning, name, search[name]) for name, meaning in _DECISION.items() if name in search],
            cells=draw_cells(genotype),
            history=history,
            charts=_charts(report),
            settings=_settings(report["settings"], usual),
            variants=None if variants is None else _variants(variants),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"a field has not the form that a run gives it ({type(error).__name__}: {error})") from None


def verdict(report: Mapping[str, Any], figures: Figures) -> str:
    """Return in one sentence what was found, how good it is, whether it can be deployed, and how decided it is."""
    found = f"{figures.strategy} found this cell" if report.get("search") else "A given cell"
    network = "; its network" if report.get("search") else ", as a network"
    failures = len(report["deployment"].get("failures", ()))
    check = (
        "passed the deployment check"
        if figures.deployment_passed
        else f"failed the deployment check for {failures} reason{'s' * (failures != 1)}, named below"
    )
    parts = [
        f"{found} of the {figures.space} space{network} of {amount(figures.parameters)} parameters classifies "
        f"{percent(figures.test_accuracy)} of the test images of {figures.data} correctly",
        f"its ONNX model {check}",
    ]
    if words := decision_in_words(report.get("search") or {}):
        parts.append(words)
    return "; ".join(parts) + "."


def decision_in_words(search: Mapping[str, Any]) -> str:
    """Return how decided a search was at its end; nothing if it does not say."""
    gap, decided = search.get("alpha_gap"), search.get("decided")
    if isinstance(gap, (int, float)):
        how = "has decided" if gap >= DECIDED_GAP else "has hardly decided"
        return f"the search {how}: an edge's best operation leads by {gap:.2g} in weight"
    if isinstance(decided, (int, float)):
        how = "has come together" if decided >= SETTLED else "has not come together"
        return f"the population {how}: {decided:.2f} on a scale from 0 to 1"
    return ""


def _charts(report: Mapping[str, Any]) -> list[str]:
    drawn = []
    for title, unit, source, names in _CHARTS:
        epochs = report.get(source) or []
        curves = {
            label: [_finite(epoch.get(name)) for epoch in epochs]
            for name, label in names.items()
            if any(isinstance(epoch.get(name), (int, float)) for epoch in epochs)
        }
        if curves and len(epochs) > 1:
            drawn.append(draw_curves(title, curves, unit=unit))
    return drawn


def _finite(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _variants(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``variants.json`` as columns (threads, batch size) and rows of a table."""
    columns = list(
        dict.fromkeys((t["threads"], t["batch_size"]) for each in found["variants"] for t in each["timings"])
    )
    return {
        "provider": found["provider"],
        "columns": columns,
        "rows": [_variant(each, columns) for each in found["variants"]],
    }


def _variant(variant: Mapping[str, Any], columns: Sequence[tuple[int, int]]) -> dict[str, Any]:
    medians = {(time["threads"], time["batch_size"]): time["p50_ms"] for time in variant["timings"]}
    notes = [f"not run: {variant['not_run']}"] if variant.get("not_run") else []
    notes += variant.get("notes") or []
    if slower := variant.get("slower_operators"):
        notes.append(f"slower than in float32: {', '.join(slower)}")
    return {**variant, "times": [medians.get(column) for column in columns], "notes": notes}


def _settings(settings: Mapping[str, Any], usual: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what differs from the usual as name, value and usual value, and the others as name and value."""
    here = flat_settings(settings)
    there = here if usual is None else flat_settings(usual)
    # A setting that only the usual ones have is younger than the report.
    changed = [
        (name, value, there.get(name, NONE))
        for name, value in here.items()
        if name not in there or there[name] != value
    ]
    names = {name for name, _, _ in changed}
    return {
        "compared": usual is not None,
        "changed": changed,
        "others": [(name, value) for name, value in here.items() if name not in names],
    }
