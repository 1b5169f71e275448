"""Real ``nnictl`` experiments with the RelativeNAS tuner, on this machine."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

from nni_plugins.experiment import nnictl
from nni_plugins.experiment.client import Experiment
from nni_plugins.experiment.leftovers import managers
from nni_plugins.methods.relative_nas.tuner import RelativeNASTuner
from tests.end_to_end.experiment import any_port

REPOSITORY = Path(__file__).parents[2]
SPACE = {name: {"_type": "choice", "_value": [0, 1, 2, 3, 4]} for name in "abcd"}
SETTINGS: dict[str, Any] = {"population_size": 6, "seed": 3, "generations": 4, "optimize_mode": "maximize"}

# Speaks to NNI's trial channel in its own words, as importing nni takes a trial seconds. Of three that start together
# the last asks for its parameters first.
TRIAL = """
import json, os, sys, time
from urllib.error import HTTPError
from urllib.request import Request, urlopen

def put(command):
    header = {"Content-Type": "application/json"}
    urlopen(Request(channel, data=json.dumps(command).encode(), method="PUT", headers=header))

channel = os.environ["NNI_TRIAL_COMMAND_CHANNEL"]
time.sleep(0.3 * (2 - int(os.environ["NNI_TRIAL_SEQ_ID"]) % 3))
put({"type": "request_parameter"})
reply = None
while reply is None:
    try:
        reply = json.load(urlopen(channel))
    except HTTPError as error:
        if error.code != 408:
            raise
record = json.loads(reply["parameter"])
digits = [record["parameters"][name] for name in "abcd"]
go_on, scored = sys.argv[1:]
while record["parameter_id"] >= 8 and not os.path.exists(go_on):
    time.sleep(0.1)
if sum(digits) % 4 == 0:
    sys.exit("this candidate always fails")
value = {"default": -sum((digit - 3) ** 2 for digit in digits) + digits[0] / 10, "digits": 4}
metric = {"parameter_id": record["parameter_id"], "trial_job_id": os.environ["NNI_TRIAL_JOB_ID"],
          "type": "FINAL", "sequence": 0, "value": json.dumps(value)}
put({"type": "metric", "metric": json.dumps(metric)})
with open(scored, "a") as file:
    print(os.environ["NNI_TRIAL_JOB_ID"], *digits, file=file)
"""

RECORDING_TUNER = '''
import json
from pathlib import Path
from nni_plugins.methods.relative_nas.tuner import RelativeNASTuner

class RecordingTuner(RelativeNASTuner):
    """Leaves its population behind when the experiment is stopped."""

    def __init__(self, record, **settings):
        super().__init__(**settings)
        self._record = Path(record)

    def _on_exit(self):
        if self._search_space is None:  # stopped before it began
            return
        record = {"generation": self.state.generation, "population": self.state.population.tolist(),
                  "velocity": self.state.velocity.tolist()}
        self._record.write_text(json.dumps(record))
'''


def score(parameters: dict[str, int]) -> float | None:
    digits = [parameters[name] for name in "abcd"]
    return None if sum(digits) % 4 == 0 else -sum((digit - 3) ** 2 for digit in digits) + digits[0] / 10


def uninterrupted() -> RelativeNASTuner:
    tuner = RelativeNASTuner(**SETTINGS)
    tuner.update_search_space(SPACE)
    parameter_id = 0
    while not tuner.finished:
        parameters = tuner.generate_parameters(parameter_id)
        value = score(parameters)
        if value is not None:
            tuner.receive_trial_result(parameter_id, parameters, value)
        tuner.trial_end(parameter_id, value is not None)
        parameter_id += 1
    return tuner


class Workplace:
    """A folder with an experiment of its own, driven as a user would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._experiment: Experiment | None = None
        self.environment = {
            **os.environ,
            "NNI_CONFIG_DIR": str(folder / "config"),
            "HOME": str(folder),
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONWARNINGS": "ignore",
            "OMP_NUM_THREADS": "1",
        }
        (folder / "trial.py").write_text(TRIAL)
        (folder / "recording_tuner.py").write_text(RECORDING_TUNER)

    @property
    def experiment(self) -> Experiment:
        assert self._experiment is not None, "none was started"
        return self._experiment

    def nnictl(self, *words: str) -> str:
        return nnictl.nnictl(*words, environment=self.environment, folder=self.folder)

    def create(self, tuner: dict[str, Any]) -> None:
        config = {
            "experimentName": "relative_nas",
            "experimentWorkingDirectory": str(self.folder / "experiments"),
            "searchSpace": SPACE,
            "trialCommand": f"{sys.executable} -S trial.py {self.folder / 'go_on'} {self.folder / 'scored'}",
            "trialConcurrency": 3,
            "maxTrialNumber": 60,
            "tuner": tuner,
            "trainingService": {"platform": "local"},
        }
        (self.folder / "config.yml").write_text(yaml.safe_dump(config))
        self.start("create", "--config", "config.yml")

    def start(self, *words: str) -> None:
        port = self._experiment.port if self._experiment else any_port()
        self._experiment = nnictl.start(*words, port=port, environment=self.environment, folder=self.folder)

    def resume(self) -> None:
        self.start("resume", self.experiment.id)

    def stop(self) -> None:
        if self._experiment:
            nnictl.stop(self.experiment, self.environment)

    def trials(self, *statuses: str) -> list[dict[str, Any]]:
        return [trial for trial in self.experiment.trials() if not statuses or trial["status"] in statuses]

    def wait(self, condition: Callable[[], Any], seconds: float = 90) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.logs()
            time.sleep(0.3)

    def scored(self) -> list[tuple[str, str]]:
        """Trials that have found a score, by their own account, and of which candidate."""
        lines = (self.folder / "scored").read_text().splitlines()
        return [(trial, candidate) for trial, candidate in (line.split(maxsplit=1) for line in lines)]

    def logs(self) -> str:
        folder = self.folder / "experiments" / self.experiment.id / "log"
        return "\n".join(path.read_text(errors="replace") for path in sorted(folder.glob("*.log")))


@pytest.fixture
def workplace(tmp_path: Path) -> Iterator[Workplace]:
    workplace = Workplace(tmp_path)
    try:
        yield workplace
    finally:
        workplace.stop()


def kill(workplace: Workplace, role: str) -> None:
    """Kill the experiment's manager, or the process of its tuner."""
    manager = next(process for process, name in managers() if name == workplace.experiment.id)
    tuners = [each for each in manager.children(recursive=True) if each.environ().get("SDK_PROCESS") == "dispatcher"]
    assert tuners
    for victim in {"manager": [manager], "tuner": tuners}[role]:
        victim.kill()
        victim.wait(30)
    if role == "tuner":  # the manager says so, and is stopped as any other
        workplace.wait(lambda: workplace.experiment.get("check-status")["status"] == "ERROR")
        workplace.stop()


def orphans(folder: Path) -> list[psutil.Process]:
    """Trials of the workplace that run, be it without a manager."""
    return [each for each in psutil.process_iter(["cmdline"]) if str(folder / "go_on") in (each.info["cmdline"] or [])]


@pytest.mark.parametrize("end", ["stop", "kill the manager", "kill the tuner"])
def test_an_ended_and_resumed_experiment_ends_with_the_population_of_an_uninterrupted_one(
    end: str, workplace: Workplace, tmp_path: Path
) -> None:
    record = tmp_path / "record.json"
    tuner = {
        "className": "recording_tuner.RecordingTuner",
        "codeDirectory": str(tmp_path),
        "classArgs": {**SETTINGS, "record": str(record)},
    }
    workplace.create(tuner)
    # The trials from parameter id 8 on, in the second generation, wait to be let go; one before has failed there.
    workplace.wait(lambda: len(workplace.trials("SUCCEEDED", "FAILED")) == 8 and workplace.trials("RUNNING"))
    done = {trial["trialJobId"]: trial["status"] for trial in workplace.trials("SUCCEEDED", "FAILED")}
    if end == "stop":
        workplace.stop()
        assert json.loads(record.read_text())["generation"] == 1
        record.unlink()
    else:
        kill(workplace, end.removeprefix("kill the "))
        record.unlink(missing_ok=True)

    (tmp_path / "go_on").touch()
    workplace.wait(lambda: not orphans(tmp_path))
    workplace.resume()
    workplace.wait(lambda: "The search has ended after 4 generations." in workplace.logs())
    trials = workplace.trials()
    workplace.stop()
    assert done.items() <= {trial["trialJobId"]: trial["status"] for trial in trials}.items(), "nothing is lost"
    candidates = [candidate for _, candidate in workplace.scored()]
    assert len(candidates) == len(set(candidates)), "nothing is done twice"
    noted = {trial["trialJobId"]: trial["hyperParameters"][-1] for trial in trials}
    for trial, candidate in workplace.scored():
        parameters = json.loads(noted[trial])["parameters"]
        assert candidate == " ".join(str(parameters[name]) for name in "abcd"), "NNI shows what a trial has done"

    reference = uninterrupted().state
    resumed = json.loads(record.read_text())
    assert resumed["generation"] == reference.generation
    np.testing.assert_array_equal(resumed["population"], reference.population)
    np.testing.assert_array_equal(resumed["velocity"], reference.velocity)


def test_an_experiment_whose_trials_all_fail_ends_with_the_reason(workplace: Workplace) -> None:
    workplace.nnictl("algo", "register", "--meta", str(REPOSITORY / "nni_plugins" / "algorithms.yml"))
    (workplace.folder / "trial.py").write_text("import sys; sys.exit('nothing runs here')")
    workplace.create({"name": "RelativeNAS", "classArgs": {"population_size": 4}})
    workplace.wait(lambda: workplace.experiment.get("check-status")["status"] == "ERROR")
    assert "Every trial of generation 1 failed" in workplace.logs()


def test_a_wrong_setting_ends_the_experiment_with_the_reason(workplace: Workplace, tmp_path: Path) -> None:
    tuner = {
        "className": "nni_plugins.methods.relative_nas.tuner.RelativeNASTuner",
        "codeDirectory": str(tmp_path),
        "classArgs": {"population_size": 5},
    }
    with pytest.raises(OSError, match="population_size must be an even number of at least 2"):
        workplace.create(tuner)
