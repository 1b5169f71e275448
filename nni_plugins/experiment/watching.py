"""What a person sees of an experiment while it runs: trials, epochs, the best so far, and the time that is left."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nni_plugins.experiment.client import ENDED, OVER, Experiment, NoAnswer
from nni_plugins.experiment.known import running_managers

_SECONDS_BETWEEN_LOOKS = 2
_MOST_ROWS = 16

Epochs = Callable[[Mapping[str, Any]], tuple[int, ...]]
"""From a trial's parameters to the epochs of each of its stages; empty where they are not known."""


@dataclass(frozen=True)
class TrialView:
    """What is known of one trial.

    Attributes
    ----------
    id, status
        NNI's name of the trial, and NNI's word for its state.
    title
        What the trial is, for people.
    planned
        Epochs of each of its stages, empty where they are not known.
    seconds
        Duration of each epoch that it has reported, in seconds.
    accuracy
        The newest that it has reported, in percent: of its network once it has ended; None before the first.
    """

    id: str
    status: str
    title: str
    planned: tuple[int, ...] = ()
    seconds: tuple[float, ...] = ()
    accuracy: float | None = None

    @property
    def has_ended(self) -> bool:
        """Whether it has ended, well or not."""
        return self.status in ENDED

    def epochs(self) -> str:
        """Return how far it is, in words."""
        total = f"/{sum(self.planned)}" if self.planned else ""
        return f"epoch {len(self.seconds)}{total}"


@dataclass(frozen=True)
class View:
    """What is known of an experiment at one moment.

    Attributes
    ----------
    trials
        All trials so far.
    expected
        Number of trials that there will be; None where only a duration limits them.
    side_by_side
        Number of trials that run at a time.
    """

    trials: tuple[TrialView, ...]
    expected: int | None
    side_by_side: int

    @property
    def ended(self) -> int:
        """Number of trials that have ended."""
        return sum(trial.has_ended for trial in self.trials)

    def best(self) -> TrialView | None:
        """Return the best of the trials that have succeeded; None if none has."""
        done = [trial for trial in self.trials if trial.status == "SUCCEEDED" and trial.accuracy is not None]
        return max(done, key=lambda trial: trial.accuracy or 0.0, default=None)

    def seconds_left(self) -> float | None:
        """Return an estimate of the seconds until the last trial has ended; None before there is one.

        Each epoch to come is taken to last as long as the mean of those that have been seen of its stage, or of all
        stages while its own has not been seen; trials to come are taken to be as long as the longest that is known.
        """
        per_stage: dict[int, list[float]] = {}
        for trial in self.trials:
            for stage, each in zip(_stages(trial.planned), trial.seconds, strict=False):
                per_stage.setdefault(stage, []).append(each)
        seen = list(itertools.chain.from_iterable(per_stage.values()))
        if not seen or self.expected is None:
            return None

        def lasting(stages: Sequence[int]) -> float:
            return sum(sum(times) / len(times) for times in (per_stage.get(stage, seen) for stage in stages))

        begun = [lasting(_stages(trial.planned)[len(trial.seconds) :]) for trial in self.trials if not trial.has_ended]
        longest = max(lasting(_stages(trial.planned)) for trial in self.trials)
        to_come = [longest] * (self.expected - len(self.trials))
        left = [*begun, *to_come]
        return max([sum(left) / self.side_by_side, *left], default=0.0)


def _stages(planned: Sequence[int]) -> list[int]:
    """Stage of each epoch."""
    return [stage for stage, epochs in enumerate(planned) for _ in range(epochs)]


def in_words(seconds: float | None) -> str:
    """Return a duration that is an estimate, in words."""
    if seconds is None:
        return "time left unknown yet"
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute left"
    return f"about {minutes} min left" if minutes < 120 else f"about {seconds / 3600:.1f} h left"


def parameters_of(trial: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return NNI's number of the parameters of a trial, and the parameters."""
    given = json.loads(trial["hyperParameters"][0])
    return str(given["parameter_id"]), dict(given["parameters"])


def title_of(number: int, parameters: Mapping[str, Any]) -> str:
    """Return what a trial is, for people: NNI's number of it, and what distinguishes it from others."""
    words = [f"{name} {parameters[name]}" if name == "seed" else str(parameters[name])
             for name in ("strategy", "space", "seed") if name in parameters]  # fmt: skip
    return f"{number}: {', '.join(words) or 'cell'}"


class Watcher:
    """Looks at an experiment through its manager.

    Parameters
    ----------
    experiment
        The experiment; its manager has to be up.
    epochs_of
        How long a trial is.
    """

    def __init__(self, experiment: Experiment, epochs_of: Epochs) -> None:
        self.experiment = experiment
        self._params = experiment.get("experiment")["params"]
        self._epochs_of = epochs_of
        self._ended: dict[str, TrialView] = {}  # nothing is asked of them again

    def look(self) -> View:
        """Return what is known now."""
        trials = self.experiment.trials()
        by_number = dict(parameters_of(trial) for trial in trials if trial.get("hyperParameters"))
        views = tuple(self._ended.get(trial["trialJobId"]) or self._view(trial, by_number) for trial in trials)
        self._ended |= {view.id: view for view in views if view.has_ended}
        return View(views, self._params.get("maxTrialNumber"), self._params["trialConcurrency"])

    def _view(self, trial: Mapping[str, Any], by_number: Mapping[str, Mapping[str, Any]]) -> TrialView:
        metrics = self.experiment.metrics(trial)
        periodical = [metric for metric in metrics if metric.kind == "PERIODICAL"]
        # NNI may exchange the parameters that it shows of trials started together: metrics say what is run
        number = metrics[-1].parameters if metrics else parameters_of(trial)[0] if trial.get("hyperParameters") else ""
        parameters = by_number.get(number, {})
        return TrialView(
            trial["trialJobId"],
            trial["status"],
            title_of(trial["sequenceId"], parameters),
            self._epochs_of(parameters),
            tuple(metric.values.get("seconds", 0.0) for metric in periodical),
            metrics[-1].values.get("default") if metrics else None,
        )


def watch(
    watcher: Watcher, console: Console, on_ended: Callable[[str], None] = lambda trial: None
) -> list[dict[str, Any]]:
    """Show an experiment until all of its trials have ended, or it starts no more.

    Parameters
    ----------
    watcher
        What looks at it.
    console
        Where to show it: live on a terminal, else a line as each trial ends.
    on_ended
        Is told the name of each trial that has ended.

    Returns
    -------
    list of dict
        All trials, as NNI's REST interface gives them.

    Raises
    ------
    NoAnswer
        If the manager has gone.
    """
    told: set[str] = set()
    experiment = watcher.experiment
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            try:
                view = watcher.look()
                is_over = experiment.get("check-status")["status"] in OVER
            except OSError:  # a manager that is busy may be late
                if experiment.id in running_managers():
                    time.sleep(_SECONDS_BETWEEN_LOOKS)
                    continue
                raise NoAnswer(
                    f"The manager of experiment {experiment.id} has gone; nnictl resume {experiment.id} resumes it, "
                    "each unfinished trial from its last checkpoint."
                ) from None
            live.update(picture(view), refresh=True)
            for trial in view.trials:
                if trial.has_ended and trial.id not in told:
                    told.add(trial.id)
                    console.print(_ending(trial, view), soft_wrap=True)
                    on_ended(trial.id)
            if is_over or (view.expected is not None and view.ended >= view.expected):
                return experiment.trials()
            time.sleep(_SECONDS_BETWEEN_LOOKS)


def _ending(trial: TrialView, view: View) -> Text:
    accuracy = "" if trial.accuracy is None or trial.status != "SUCCEEDED" else f", {trial.accuracy:.2f} %"
    of_all = f"{view.ended} of {view.expected}" if view.expected is not None else str(view.ended)
    return Text(f"{trial.title}: {trial.status.lower()}{accuracy} ({of_all} trials ended)")


def picture(view: View) -> RenderableType:
    """Return the view as rich shows it: a line of the whole, and one of each trial that runs."""
    best = view.best()
    words = [
        f"{view.ended}/{view.expected} trials" if view.expected is not None else f"{view.ended} trials",
        "no result yet" if best is None else f"best {best.accuracy:.2f} % ({best.title})",
        in_words(view.seconds_left()),
    ]
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    running = [trial for trial in view.trials if trial.status == "RUNNING"]
    for trial in running[:_MOST_ROWS]:
        accuracy = "starting" if trial.accuracy is None else f"{trial.accuracy:.2f} %"
        bar = ProgressBar(sum(trial.planned) or None, len(trial.seconds), width=20)
        table.add_row(trial.title, bar if trial.planned else "", trial.epochs(), accuracy)
    return Group(Text(", ".join(words)), table)
