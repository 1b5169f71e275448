"""Real experiments of RelativeNAS's tuner on two machines over SSH, which break in several ways."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import websockets
import websockets.sync.client
import yaml

from nni_plugins.experiment import nnictl
from nni_plugins.experiment.client import ENDED, Experiment
from nni_plugins.experiment.leftovers import managers
from nni_plugins.experiment.remote.collect import collect
from nni_plugins.experiment.remote.records import read_experiment
from tests.end_to_end.experiment import ENVIRONMENT, ROOT, any_port
from tests.end_to_end.machines import TestMachine, accept, machines, needs_sshd

pytestmark = needs_sshd

SETTINGS = (
    "retrain.epochs=1", "retrain.batch_size=64", "retrain.cutout=0", "net.channels=2", "net.cells=1",
)  # fmt: skip


@pytest.fixture
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder of who runs the experiment."""
    home = tmp_path / "person"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return home


@pytest.fixture
def two(tmp_path: Path, person: Path) -> Iterator[list[TestMachine]]:
    with machines(tmp_path / "machines", 2) as started:
        accept(person, *started)
        yield started


class Remote:
    """A person with two machines, and the example's experiment in small on them."""

    def __init__(self, folder: Path, person: Path, two: list[TestMachine]) -> None:
        self.folder, self.two = folder, two
        self.environment = {**ENVIRONMENT, "HOME": str(person)}
        self.hold = folder / "hold"
        self.experiment = Experiment(any_port())
        self._nni = person / "nni-experiments"

    def create(self, trial: str, trials: int) -> Experiment:
        """Start an experiment whose trials wait, before they do their work, while there is a file ``hold``."""
        content = yaml.safe_load((ROOT / "examples" / "relative_nas_tuner_remote.yml").read_text())
        content["trialCommand"] = trial.replace("WAIT", f"while [ -e {self.hold} ]; do sleep 0.2; done")
        content["trialCodeDirectory"] = content["tuner"]["codeDirectory"] = str(ROOT)
        content["tuner"]["classArgs"] = {"optimize_mode": "maximize", "population_size": 4, "seed": 0}
        content["trialConcurrency"], content["maxTrialNumber"], content["trialGpuNumber"] = 2, trials, 0
        content["trainingService"]["machineList"] = [machine.entry() for machine in self.two]
        config = self.folder / "experiment.yml"
        config.write_text(yaml.safe_dump(content))
        self.hold.touch()
        return self.start("create", "--config", str(config))

    def start(self, *words: str) -> Experiment:
        self.experiment = nnictl.start(*words, port=self.experiment.port, environment=self.environment, folder=ROOT)
        return self.experiment

    @property
    def log(self) -> str:
        return (self._nni / self.experiment.id / "log" / "nnimanager.log").read_text()

    @property
    def manager(self) -> psutil.Process:
        return next(process for process, name in managers() if name == self.experiment.id)

    def places(self) -> dict[str, str]:
        """The host of each trial that runs."""
        running = [trial for trial in self.experiment.trials() if trial["status"] == "RUNNING"]
        return {trial["trialJobId"]: trial["logPath"].partition(":")[0] for trial in running}

    def until(self, condition: Callable[[], Any], seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.log[-5000:]
            time.sleep(0.5)


@pytest.fixture
def remote(tmp_path: Path, person: Path, two: list[TestMachine]) -> Iterator[Remote]:
    remote = Remote(tmp_path, person, two)
    try:
        yield remote
    finally:
        nnictl.stop(remote.experiment, remote.environment)


def listening(processes: list[psutil.Process]) -> set[tuple[str, int]]:
    ids = {process.pid for process in processes}
    connections = [one for one in psutil.net_connections("inet") if one.pid in ids]
    return {(one.laddr.ip, one.laddr.port) for one in connections if one.status == psutil.CONN_LISTEN}


def test_an_experiment_on_two_machines_loses_nothing_with_one_of_them(
    remote: Remote, two: list[TestMachine], tmp_path: Path, tiny_data: str
) -> None:
    settings = " ".join(f"--set {setting}" for setting in SETTINGS)
    trial = "python -W ignore -m nni_plugins.trial --evaluate --space nasbench201 --threads 1"
    experiment = remote.create(f"WAIT; {trial} --data {tiny_data} {settings}", trials=4)
    remote.until(lambda: len(remote.places()) == 2)
    places = remote.places()
    assert sorted(places.values()) == ["127.0.0.1", "127.0.0.2"]

    # What listens: the manager, what keeps the trials of each machine, and sshd's ways back to the manager.
    found = listening([remote.manager, *remote.manager.children(recursive=True)])
    assert found == {("127.0.0.1", experiment.port)}
    for machine in two:
        opened = listening(machine.processes()) - {(machine.host, machine.port)}
        assert len(opened) == 2 and {address for address, _ in opened} == {"127.0.0.1"}, opened

    # The way back leads to the machine's own channel alone, and only with its key.
    settings_file = next(two[0].home.glob("nni-experiments/*/environments/*/trial_keeper/launcher_config.json"))
    address = json.loads(settings_file.read_text())["managerCommandChannel"].partition("/platform/")[0]
    for path in ("/platform/remote/1", "/platform/remote/1?key=guessed", "/tuner", "/api/v1/nni/experiment"):
        with pytest.raises(websockets.InvalidStatus) as refusal, websockets.sync.client.connect(address + path):
            pass
        assert refusal.value.response.status_code == 403

    # The power of one machine fails in mid-trial: the other does its trial again.
    lost = next(trial for trial, host in places.items() if host == two[1].host)
    two[1].kill()
    remote.until(lambda: remote.places() == dict.fromkeys(places, two[0].host))
    assert lost in remote.places()
    # It comes back, and is used again.
    two[1].start()
    remote.until(lambda: f"{two[1].host} is back" in remote.log)
    remote.hold.unlink()
    remote.until(lambda: sum(trial["status"] in ENDED for trial in experiment.trials()) == 4, 400)
    trials = experiment.trials()
    assert [trial["status"] for trial in trials] == ["SUCCEEDED"] * 4
    assert {trial["logPath"].partition(":")[0] for trial in trials} == {two[0].host, two[1].host}

    # Each candidate of the tuner was done once.
    metrics = [metric for trial in trials for metric in experiment.get(f"metric-data/{trial['trialJobId']}")]
    finals = {metric["trialJobId"]: metric for metric in metrics if metric["type"] == "FINAL"}
    assert sorted(metric["parameterId"] for metric in metrics if metric["type"] == "FINAL") == ["0", "1", "2", "3"]

    # Following it brings the results home and shows them; what is home is not fetched again.
    words = ("-W", "ignore", "-m", "nni_plugins.cli", "follow", experiment.id, "--out", str(tmp_path / "exported"))
    shown = subprocess.run(
        [sys.executable, *words], env=remote.environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    home = [path.name for path in (tmp_path / "exported").iterdir() if (path / "genotype.json").is_file()]
    assert sorted(home) == sorted(f"{experiment.id}-{trial['trialJobId']}" for trial in trials)
    collected = collect(read_experiment(experiment.id), tmp_path / "exported")
    assert [one.problem for one in collected] == [""] * 4
    for one in collected:
        assert one.result is not None and one.work is not None
        assert json.loads((one.result / "genotype.json").read_text())["space"] == "nasbench201"
        sent = json.loads(json.loads(finals[one.trial.id]["data"]))
        assert sent["folder"].endswith(one.result.name)
        assert "trial.stdout" in os.listdir(one.work)


def test_trials_outlive_a_broken_connection_and_resume_after_a_killed_manager(
    remote: Remote, two: list[TestMachine]
) -> None:
    remote.create("echo started >> $NNI_OUTPUT_DIR/starts; WAIT", trials=2)
    remote.until(lambda: len(remote.places()) == 2)
    places = remote.places()

    def starts() -> list[str]:
        files = [file for machine in two for file in sorted(machine.home.glob("nni-experiments/*/*/*/trials/*/starts"))]
        assert {file.parent.name for file in files} == places.keys()
        return [file.read_text() for file in files]

    for machine in two:
        machine.cut()
    remote.until(lambda: remote.log.count("is connected again") == 2)
    assert remote.places() == places and starts() == ["started\n"] * 2

    remote.manager.kill()
    assert set.union(*(machine.trials() for machine in two)) == places.keys()
    remote.until(lambda: not any(machine.trials() for machine in two))
    remote.start("resume", remote.experiment.id)
    remote.until(lambda: remote.places() == places)
    assert starts() == ["started\n" * 2] * 2
    remote.hold.unlink()
    remote.until(lambda: [trial["status"] for trial in remote.experiment.trials()] == ["SUCCEEDED"] * 2)
