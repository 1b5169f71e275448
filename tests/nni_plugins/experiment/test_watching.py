"""What a person sees of an experiment, of states that are written down by hand."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import pytest
from rich.console import Console

from nni_plugins.experiment.client import Experiment, Metric, NoAnswer
from nni_plugins.experiment.watching import TrialView, View, Watcher, in_words, picture, watch

PLAN = (2, 3)


def trial(status: str, *seconds: float, accuracy: float | None = None, planned: tuple[int, ...] = PLAN) -> TrialView:
    return TrialView("T", status, "0: bnas_d, seed 1", planned, seconds, accuracy)


class TestTimeLeft:
    def test_stages_last_as_long_as_they_were_seen_to(self) -> None:
        ended = trial("SUCCEEDED", 10, 12, 1, 2, 3)
        begun = trial("RUNNING", 10)  # one more of the search, three of the retraining
        search, retraining = (10 + 12 + 10) / 3, 2
        one = View((ended, begun), 2, 1).seconds_left()
        assert one == pytest.approx(search + 3 * retraining)
        # a trial to come is a whole one
        assert View((ended, begun), 3, 1).seconds_left() == pytest.approx((search + 6) + (2 * search + 6))
        # side by side, the longest decides
        assert View((ended, begun), 3, 2).seconds_left() == pytest.approx(2 * search + 6)

    def test_a_stage_that_nobody_has_seen_lasts_as_the_other_one(self) -> None:
        assert View((trial("RUNNING", 10, 20),), 1, 1).seconds_left() == pytest.approx(3 * 15)

    def test_it_is_unknown_before_the_first_epoch_without_a_plan_and_without_a_number_of_trials(self) -> None:
        assert View((), 1, 1).seconds_left() is None
        assert View((trial("RUNNING"),), 1, 1).seconds_left() is None
        assert View((trial("RUNNING", 10, planned=()),), 1, 1).seconds_left() is None
        assert View((trial("RUNNING", 10),), None, 1).seconds_left() is None

    def test_nothing_is_left_at_the_end(self) -> None:
        assert View((trial("SUCCEEDED", 1, 1, 1, 1, 1),), 1, 1).seconds_left() == 0
        assert View((trial("FAILED", 1),), 1, 1).seconds_left() == 0

    def test_in_words(self) -> None:
        assert [in_words(each) for each in (None, 20, 100, 3 * 3600)] == [
            "time left unknown yet", "less than a minute left", "about 2 min left", "about 3.0 h left",
        ]  # fmt: skip


def shown(view: View) -> str:
    console = Console(file=io.StringIO(), width=120, record=True)
    console.print(picture(view))
    return console.export_text()


def test_the_picture() -> None:
    running = TrialView("R", "RUNNING", "2: darts, seed 3", PLAN, (60, 60), 71.5)
    best = TrialView("B", "SUCCEEDED", "1: bnas_d, seed 2", PLAN, (60,) * 5, 91.25)
    worse = TrialView("W", "SUCCEEDED", "0: bnas_d, seed 1", PLAN, (60,) * 5, 90)
    failed = TrialView("F", "FAILED", "3: darts, seed 4", PLAN, (), 99)
    first, second = shown(View((worse, best, running, failed), 4, 2)).splitlines()
    assert first == "3/4 trials, best 91.25 % (1: bnas_d, seed 2), about 3 min left"
    assert second.startswith("2: darts, seed 3") and second.split("epoch")[1].split() == ["2/5", "71.50", "%"]
    assert shown(View((), None, 1)).strip() == "0 trials, no result yet, time left unknown yet"


class Scripted(Experiment):
    """An experiment whose manager says at each look what the script says."""

    def __init__(self, *looks: list[dict[str, Any]]) -> None:
        super().__init__(port=0)
        self.id = "none"
        self.looks = list(looks)
        self.asked: list[str] = []

    def get(self, path: str) -> Any:
        if path == "experiment":
            return {"params": {"maxTrialNumber": 2, "trialConcurrency": 2}}
        if path == "check-status":
            return {"status": "RUNNING"}
        if not self.looks:
            raise ConnectionRefusedError
        return self.looks.pop(0) if len(self.looks) > 1 or path == "trial-jobs" else self.looks[0]

    def metrics(self, trial: Any) -> list[Metric]:
        self.asked.append(trial["trialJobId"])
        number = {"A": "1", "B": "0"}[trial["trialJobId"]]  # exchanged
        return [
            Metric("PERIODICAL", number, {"default": 50.0, "seconds": 1.5}),
            Metric("FINAL", number, {"default": 80.0 + int(number)}),
        ]


def job(name: str, number: int, status: str) -> dict[str, Any]:
    parameters = {"parameter_id": number, "parameters": {"strategy": f"s{number}", "seed": number}}
    return {"trialJobId": name, "sequenceId": number, "status": status, "hyperParameters": [json.dumps(parameters)]}


def test_trials_are_called_by_the_parameters_that_they_have_reported() -> None:
    experiment = Scripted([job("A", 0, "SUCCEEDED"), job("B", 1, "RUNNING")])
    view = Watcher(experiment, lambda parameters: (int(parameters["seed"]) + 1,)).look()
    assert [each.title for each in view.trials] == ["0: s1, seed 1", "1: s0, seed 0"]
    assert [each.planned for each in view.trials] == [(2,), (1,)]
    assert [each.accuracy for each in view.trials] == [81.0, 80.0]
    assert view.trials[0].seconds == (1.5,)


def test_each_ending_is_told_once_and_ended_trials_are_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nni_plugins.experiment.watching._SECONDS_BETWEEN_LOOKS", 0)
    ended = [job("A", 0, "SUCCEEDED"), job("B", 1, "FAILED")]
    experiment = Scripted([job("A", 0, "SUCCEEDED"), job("B", 1, "RUNNING")], ended, ended)
    told: list[str] = []
    console = Console(file=io.StringIO(), record=True)
    assert watch(Watcher(experiment, lambda parameters: ()), console, told.append) == ended
    assert told == ["A", "B"] and experiment.asked.count("A") == 1
    lines = console.export_text().splitlines()
    assert lines == [
        "0: s1, seed 1: succeeded, 81.00 % (1 of 2 trials ended)",
        "1: s0, seed 0: failed (2 of 2 trials ended)",
    ]


def test_a_manager_that_has_gone_is_one_sentence() -> None:
    experiment = Scripted([job("A", 0, "RUNNING")])
    watcher = Watcher(experiment, lambda parameters: ())
    experiment.looks.clear()
    with pytest.raises(NoAnswer, match="manager of experiment none has gone; nnictl resume none resumes it"):
        watch(watcher, Console(file=io.StringIO()))


def test_an_estimate_is_finite() -> None:
    left = View((trial("RUNNING", 0.0, 0.0),), 5, 4).seconds_left()
    assert left is not None and math.isfinite(left)
