"""A genotype by what a person writes on the command line. Imports neither torch nor NNI."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search_spaces.genotype import Genotype
from search_spaces.nasbench201.architecture_string import from_architecture_string
from search_spaces.published import published, published_names


def load_genotype(name: str, epoch: int | None = None) -> Genotype:
    """Return a genotype from a file or a result folder, a published one by name, or a NAS-Bench-201 string.

    Parameters
    ----------
    epoch
        Of a result folder, take the cell of this epoch of the search, counted from 1.

    Raises
    ------
    ValueError
        If it is none of these; the message lists the published names.
    """
    if epoch is not None:
        report = Path(name) / "report.json"
        if not report.is_file():
            raise ValueError(f"--epoch takes a cell from a search's result folder, but there is no {report}.")
        return genotype_of_epoch(read_report(name)["search_history"], epoch)
    if name in published_names():
        return published(name)
    if name.startswith("|"):
        return from_architecture_string(name)
    if Path(name).is_dir():
        return Genotype.load(Path(name) / "genotype.json")
    if not Path(name).is_file():
        raise ValueError(
            f"{name!r} is neither a genotype file nor a published genotype; the published ones are "
            f"{', '.join(published_names())}."
        )
    return Genotype.load(name)


def genotype_of_epoch(history: Sequence[Mapping[str, Any]], epoch: int) -> Genotype:
    """Return the cell that a search stood for after epoch ``epoch``, counted from 1.

    Raises
    ------
    ValueError
        If the search did not have that epoch.
    """
    if not history:
        raise ValueError("There was no search, so that there is no cell of an earlier epoch; leave --epoch out.")
    found = [metrics for metrics in history if metrics["epoch"] == epoch - 1]
    if not found:
        raise ValueError(f"The search has the epochs 1 to {len(history)}, not {epoch}.")
    return Genotype.from_json(found[0]["genotype"])


def read_report(folder: str | Path) -> dict[str, Any]:
    """Return the content of a result folder's ``report.json``.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is not a report; the message names the file.
    """
    path = Path(folder) / "report.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no report.json; give a folder that search or retrain has made.")
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); restore it, or make the folder anew.") from None
    if not isinstance(report, dict) or not {"settings", "search_history"} <= report.keys():
        raise ValueError(f"{path} is not the report of a run: expected an object with settings and search_history.")
    return report
