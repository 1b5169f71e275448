"""What a person looks at first in a result folder: ``history.svg`` and ``report.html``, from ``report.json``."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nni_plugins.deploy.result_folder import (
    GENOTYPE_FILE,
    HISTORY_FILE,
    PAGE_FILE,
    REPORT_FILE,
    VARIANTS_FILE,
    VARIANTS_FOLDER,
)
from nni_plugins.methods.metric import ALPHA_GAP, CHANGED_SINCE_FIRST, DECIDED
from nni_plugins.report.experiment_page import Trial, experiment_page
from nni_plugins.report.figures import Figures
from nni_plugins.report.history_picture import draw_history
from nni_plugins.report.result_page import result_page
from nni_plugins.run.genotypes import read_report
from nni_plugins.run.settings import Settings
from search_spaces import Genotype
from search_spaces.image_shapes import stem_of

_DRAWN = (DECIDED.name, ALPHA_GAP.name, CHANGED_SINCE_FIRST.name)
"""Shares that ``history.svg`` draws as curves."""


def pages(report: Mapping[str, Any], genotype: Genotype) -> dict[str, str]:
    """Return the texts of a result folder's pictures and pages, by file name.

    Parameters
    ----------
    report
        The content of its ``report.json``.
    genotype
        Its cell.
    """
    history = _history_picture(report)
    page = result_page(report, Figures.of(report), genotype, history=history, usual=_usual_settings(report))
    return {**({HISTORY_FILE: history} if history else {}), PAGE_FILE: page}


def page_of(folder: Path) -> str:
    """Return the page of a result folder, made anew from what lies there, its variants included.

    Raises
    ------
    FileNotFoundError
        If it has no report, or no genotype.
    ValueError
        If one of its files is damaged.
    """
    report, figures = _read(folder)
    if not (folder / GENOTYPE_FILE).is_file():
        raise FileNotFoundError(f"{folder} has no {GENOTYPE_FILE}; give a folder that search or retrain has made.")
    genotype = Genotype.load(folder / GENOTYPE_FILE)
    variants = _read_variants(folder / VARIANTS_FOLDER / VARIANTS_FILE)
    try:
        history, usual = _history_picture(report), _usual_settings(report)
        return result_page(report, figures, genotype, history=history, usual=usual, variants=variants)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder / REPORT_FILE}, or a file beside it, is damaged ({error}); restore it, or make the folder anew."
        ) from None


def experiment_page_of(title: str, folders: Sequence[Path], *, beside: Path) -> str:
    """Return the page that compares result folders.

    Parameters
    ----------
    title
        Its heading.
    folders
        The results.
    beside
        Where the page is to lie; its links to the results' own pages are relative to that.

    Raises
    ------
    FileNotFoundError
        If a folder has no report.
    ValueError
        If a report is damaged.
    """
    trials = []
    for folder in folders:
        report, figures = _read(folder)
        page = folder / PAGE_FILE
        link = quote(os.path.relpath(page, beside.parent)) if page.is_file() else None
        trials.append(Trial(folder.resolve().name, link, report, figures))
    return experiment_page(title, trials)


def _read(folder: Path) -> tuple[dict[str, Any], Figures]:
    report = read_report(folder)
    return report, Figures.of(report, source=folder / REPORT_FILE)


def _read_variants(file: Path) -> dict[str, Any] | None:
    """Return what ``nni-plugins variants`` has measured; None if it has not."""
    if not file.is_file():
        return None
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{file} is damaged ({error}); measure again with nni-plugins variants --force.") from None


def _history_picture(report: Mapping[str, Any]) -> str | None:
    """Return the picture of how the cells changed; None where there was no search, or its space has no cells."""
    history = report.get("search_history") or []
    genotypes = [Genotype.from_json(metrics["genotype"]) for metrics in history]
    if not genotypes or not genotypes[0].cells:
        return None
    curves = {
        name: [math.nan if (value := metrics.get(name)) is None else value for metrics in history]
        for name in _DRAWN
        if any(name in metrics for metrics in history)
    }
    return draw_history(genotypes, curves=curves)


def _usual_settings(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the settings of the same run with nothing set; None for a method whose code may not be imported."""
    try:
        names = {name: report["settings"][name] for name in ("strategy", "space", "data", "seed")}
        return Settings.of(**names, stem=stem_of(report["data"]["image_size"])).to_dict()
    except (KeyError, TypeError, ValueError):
        return None
