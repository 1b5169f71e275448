"""A real experiment of RelativeNAS's tuner on two machines over SSH, one of which is lost and comes back."""

from __future__ import annotations

import ipaddress
import json
import os
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


def config(folder: Path, data: str, two: list[TestMachine]) -> Path:
    """The example, with tiny trials that wait while there is a file ``hold``."""
    content = yaml.safe_load((ROOT / "examples" / "relative_nas_tuner_remote.yml").read_text())
    settings = " ".join(f"--set {setting}" for setting in SETTINGS)
    content["trialCommand"] = (
        f"while [ -e {folder}/hold ]; do sleep 0.2; done; "
        f"python -W ignore -m nni_plugins.trial --evaluate --space nasbench201 --data {data} --threads 1 {settings}"
    )
    content["trialCodeDirectory"] = content["tuner"]["codeDirectory"] = str(ROOT)
    content["tuner"]["classArgs"] = {"optimize_mode": "maximize", "population_size": 4, "seed": 0}
    content["trialConcurrency"], content["maxTrialNumber"] = 2, 4
    content["trainingService"]["trialGpuNumber"] = 0
    for machine, entry in zip(two, content["trainingService"]["machineList"], strict=True):
        entry.clear()
        entry.update(machine.entry())
    path = folder / "experiment.yml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def experiment(tmp_path: Path, person: Path, tiny_data: str, two: list[TestMachine]) -> Iterator[Experiment]:
    (tmp_path / "hold").touch()
    environment = {**ENVIRONMENT, "HOME": str(person)}
    words = ("create", "--config", str(config(tmp_path, tiny_data, two)))
    experiment = nnictl.start(*words, port=any_port(), environment=environment, folder=ROOT)
    try:
        yield experiment
    finally:
        nnictl.stop(experiment, environment)


def until(condition: Callable[[], Any], log: Path, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log.read_text()[-5000:]
        time.sleep(0.5)


def listening(processes: list[psutil.Process]) -> dict[tuple[str, int], int]:
    ids = {process.pid for process in processes}
    return {
        (one.laddr.ip, one.laddr.port): one.pid
        for one in psutil.net_connections("inet")
        if one.pid in ids and one.status == psutil.CONN_LISTEN
    }


def test_an_experiment_on_two_machines_loses_nothing_with_one_of_them(
    experiment: Experiment, person: Path, two: list[TestMachine], tmp_path: Path
) -> None:
    log = person / "nni-experiments" / experiment.id / "log" / "nnimanager.log"

    def hosts() -> dict[str, str]:
        return {trial["trialJobId"]: trial.get("logPath", "").partition(":")[0] for trial in experiment.trials()}

    def running() -> list[dict[str, Any]]:
        return [trial for trial in experiment.trials() if trial["status"] == "RUNNING"]

    until(lambda: len(running()) == 2, log)
    places = hosts()
    assert sorted(places.values()) == ["127.0.0.1", "127.0.0.2"]

    # What listens: the manager, what keeps the trials of each machine, and sshd's ways back to the manager.
    manager = next(process for process, name in managers() if name == experiment.id)
    found = listening([manager, *manager.children(recursive=True)])
    assert {port for _, port in found} == {experiment.port}
    for machine in two:
        found |= listening(machine.processes())
        opened = {address for address in listening(machine.processes()) if address != (machine.host, machine.port)}
        assert len(opened) == 2  # the keeper of its trials, and the way back
        assert all(ipaddress.ip_address(ip).is_loopback for ip, _ in opened), opened
    assert all(ipaddress.ip_address(ip).is_loopback for ip, _ in found)

    # The way back leads to the machine's own channel alone, and only with its key.
    settings = two[0].home.glob("nni-experiments/*/environments/*/trial_keeper/launcher_config.json")
    channel = json.loads(next(settings).read_text())["managerCommandChannel"]
    address = channel.partition("/platform/")[0]
    for path in ("/platform/remote/1", "/platform/remote/1?key=guessed", "/tuner", "/api/v1/nni/experiment"):
        with pytest.raises(websockets.InvalidStatus) as refusal, websockets.sync.client.connect(address + path):
            pass
        assert refusal.value.response.status_code == 403

    # The power of one machine fails in mid-trial: the other does its trial again.
    lost = next(trial for trial, host in places.items() if host == two[1].host)
    two[1].kill()
    until(lambda: hosts()[lost] == two[0].host and len(running()) == 2, log)
    # It comes back, and is used again.
    two[1].start()
    until(lambda: f"{two[1].host} is back" in log.read_text(), log)
    (tmp_path / "hold").unlink()
    until(lambda: sum(trial["status"] in ENDED for trial in experiment.trials()) == 4, log, 400)
    trials = experiment.trials()
    assert [trial["status"] for trial in trials] == ["SUCCEEDED"] * 4
    assert {trial for trial in places} <= {trial["trialJobId"] for trial in trials}
    assert set(hosts().values()) == {two[0].host, two[1].host}

    # Each candidate of the tuner was done once.
    finals = [
        m for trial in trials for m in experiment.get(f"metric-data/{trial['trialJobId']}") if m["type"] == "FINAL"
    ]
    assert sorted(metric["parameterId"] for metric in finals) == ["0", "1", "2", "3"]

    collected = collect(read_experiment(experiment.id), tmp_path / "exported")
    assert [one.problem for one in collected] == [""] * 4
    by_trial = {m["trialJobId"]: json.loads(json.loads(m["data"])) for m in finals}
    for one in collected:
        assert one.result is not None and one.work is not None
        assert json.loads((one.result / "genotype.json").read_text())["space"] == "nasbench201"
        assert by_trial[one.trial.id]["folder"].endswith(one.result.name)
        assert "trial.stdout" in os.listdir(one.work)
