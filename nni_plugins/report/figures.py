"""The figures by which results are compared, read from ``report.json``. Imports neither torch nor NNI."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_PREFIXES = {"choices": "", "search": "", "retrain": "retrain.", "space_arguments": "space.", "net_arguments": "net."}


@dataclass(frozen=True)
class Figures:
    """What a run found, in figures; None where it was not measured.

    Parameters
    ----------
    strategy, space, data, seed
        What was run.
    test_accuracy
        Of the trained network after its last epoch, percent.
    parameters, multiply_adds
        Of the network, for one image.
    latency_ms
        Median time of the ONNX model for one image on one thread, as the deployment check measured it.
    file_bytes
        Size of the ONNX model.
    parity
        Largest difference of a logit from PyTorch's, relative to the largest logit.
    deployment_passed
        Whether the deployment check passed.
    decided
        How far the search has decided, from 0 to 1.
    """

    strategy: str
    space: str
    data: str
    seed: int
    test_accuracy: float | None
    parameters: int | None
    multiply_adds: int | None
    latency_ms: float | None
    file_bytes: int | None
    parity: float | None
    deployment_passed: bool
    decided: float | None

    @classmethod
    def of(cls, report: Mapping[str, Any], *, source: str | Path = "report.json") -> Figures:
        """Return the figures of a run's ``report.json``.

        Parameters
        ----------
        report
            Its content.
        source
            The file that it comes from.

        Raises
        ------
        ValueError
            If it is not the report of a run that has ended; the message names the file.
        """
        try:
            settings, deployment = report["settings"], report["deployment"]
            checks = [*deployment["parity"], *filter(None, [deployment.get("test_parity")])]
            differences = [check["max_rel_difference"] for check in checks]
            return cls(
                strategy=settings["strategy"],
                space=settings["space"],
                data=settings["data"],
                seed=settings["seed"],
                test_accuracy=report["test_accuracy"],
                parameters=report["parameters"],
                multiply_adds=report["multiply_adds"],
                latency_ms=(deployment["latency"] or {}).get("p50_ms"),
                file_bytes=deployment["file_bytes"],
                parity=max(differences) if differences and None not in differences else None,
                deployment_passed=bool(deployment["passed"]),
                decided=(report.get("search") or {}).get("decided"),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{source} is damaged: it lacks a figure of a run that has ended ({type(error).__name__}: {error}); "
                "restore it, or make the folder anew."
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """Return the figures by name."""
        return asdict(self)


def flat_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a report by the names that ``--set`` takes, as JSON has them."""
    flat = {
        f"{prefix}{name}": value
        for section, prefix in _PREFIXES.items()
        for name, value in (settings.get(section) or {}).items()
    }
    return json.loads(json.dumps(flat))


def differing_settings(several: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the settings in which reports differ: by name, the value of each; None where one has none.

    Parameters
    ----------
    several
        The ``settings`` of each report.
    """
    flat = [flat_settings(settings) for settings in several]
    names = dict.fromkeys(name for settings in flat for name in settings)
    values = {name: [settings.get(name) for settings in flat] for name in names}
    return {name: found for name, found in values.items() if any(each != found[0] for each in found)}
