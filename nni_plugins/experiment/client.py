"""A running NNI experiment, seen through its manager's REST interface."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENDED = {"SUCCEEDED", "FAILED", "USER_CANCELED", "SYS_CANCELED", "EARLY_STOPPED"}
"""States of a trial that has ended."""

VIEWED = "VIEWED"
"""State of an ended experiment that is only looked at."""

OVER = {"DONE", "ERROR", "STOPPED", VIEWED}
"""States of an experiment that starts no more trials."""

_SECONDS_TO_START = 120


class NoAnswer(OSError):
    """NNI's manager does not answer: it starts too slowly, or it has gone."""


@dataclass(frozen=True)
class Metric:
    """What a trial has reported once.

    Attributes
    ----------
    kind
        ``PERIODICAL`` or ``FINAL``.
    parameters
        NNI's number of the parameters that the trial runs with.
    values
        The values by name; a single number is called ``default``.
    """

    kind: str
    parameters: str
    values: dict[str, Any]


class Experiment:
    """A running NNI experiment.

    Parameters
    ----------
    port
        Port of its manager on this machine.

    Attributes
    ----------
    id
        NNI's name of the experiment, known as soon as its manager has answered :meth:`wait_until_up`.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.id = ""

    def get(self, path: str) -> Any:
        """Return the content of ``/api/v1/nni/PATH``."""
        with urllib.request.urlopen(f"http://localhost:{self.port}/api/v1/nni/{path}", timeout=20) as answer:
            return json.load(answer)

    def wait_until_up(self) -> dict[str, Any]:
        """Return the experiment's profile, as soon as its manager answers.

        Raises
        ------
        NoAnswer
            If it does not answer in time.
        """
        deadline = time.monotonic() + _SECONDS_TO_START
        while True:
            try:
                profile = dict(self.get("experiment"))
                self.id = profile["id"]
                return profile
            except (OSError, ValueError):
                if time.monotonic() > deadline:
                    raise NoAnswer(
                        f"NNI's manager does not answer on port {self.port}; run nni-plugins doctor to see why."
                    ) from None
                time.sleep(1)

    def wait_until_begun(self) -> None:
        """Wait for the first trial.

        Raises
        ------
        NoAnswer
            If the manager has gone.
        OSError
            If there will be no trial; the message holds the manager's reason and the last line of the tuner's log.
        """
        log = Path(self.wait_until_up()["logDir"], "log", "dispatcher.log")
        while not self._answer("trial-jobs"):
            status = self._answer("check-status")
            if status["status"] in OVER:
                reasons = [*status["errors"], *_last_line(log)] or [f"see {log}"]
                raise OSError(f"Experiment {self.id} ended before its first trial: {' '.join(reasons)}")
            time.sleep(1)

    def _answer(self, path: str) -> Any:
        try:
            return self.get(path)
        except OSError as error:
            raise NoAnswer(f"The manager of experiment {self.id} has gone before its first trial.") from error

    def trials(self) -> list[dict[str, Any]]:
        """Return all trials so far, in the order in which they started."""
        return sorted(self.get("trial-jobs"), key=lambda trial: trial["sequenceId"])

    def metrics(self, trial: Mapping[str, Any]) -> list[Metric]:
        """Return all that the trial has reported, the oldest first and what is final at the end."""
        reported = self.get(f"metric-data/{trial['trialJobId']}")
        reported.sort(key=lambda each: (each["type"] == "FINAL", each["sequence"]))
        return [Metric(each["type"], str(each["parameterId"]), _values(each["data"])) for each in reported]

    def last_metrics(self, trial: Mapping[str, Any], kind: str) -> dict[str, Any]:
        """Return the trial's newest metrics of ``kind``, ``PERIODICAL`` or ``FINAL``; empty if there are none."""
        return next((metric.values for metric in reversed(self.metrics(trial)) if metric.kind == kind), {})


def _values(data: str) -> dict[str, Any]:
    values = json.loads(json.loads(data))
    return dict(values) if isinstance(values, Mapping) else {"default": values}


def _last_line(log: Path) -> list[str]:
    lines = log.read_text(errors="replace").split("\n") if log.is_file() else []
    return [line.strip() for line in lines if line.strip()][-1:]
