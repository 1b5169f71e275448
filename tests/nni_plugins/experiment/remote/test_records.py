from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest

from nni_plugins.experiment.remote.records import RemoteTrial, read_experiment

MACHINES = [{"host": "gpu1", "user": "alice", "sshKeyFile": "/key"}, {"host": "gpu2", "user": "alice", "port": 2222}]


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "elsewhere" / "abc" / "db" / "nni.sqlite"
    path.parent.mkdir(parents=True)
    (tmp_path / "nni-experiments").mkdir()
    listed = {"abc": {"logDir": str(tmp_path / "elsewhere")}}
    (tmp_path / "nni-experiments" / ".experiment").write_text(json.dumps(listed))
    return path


def write(database: Path, service: dict[str, object], events: Sequence[tuple[str, str, str]]) -> None:
    connection = sqlite3.connect(database)
    connection.execute("create table ExperimentProfile (params text, revision integer)")
    connection.execute("create table TrialJobEvent (trialJobId text, event text, logPath text)")
    profiles: list[tuple[dict[str, object], int]] = [(service, 2), ({"machineList": []}, 1)]
    connection.executemany(
        "insert into ExperimentProfile values (?, ?)",
        [(json.dumps({"trainingService": each}), revision) for each, revision in profiles],
    )
    connection.executemany("insert into TrialJobEvent values (?, ?, ?)", events)
    connection.commit()
    connection.close()


def test_machines_and_the_last_place_of_each_trial(database: Path) -> None:
    first = "gpu1:~/nni-experiments/abc/environments/remote-worker1/trials/T1"
    moved = "gpu2:~/nni-experiments/abc/environments/remote-worker2/trials/T1"
    events = [
        ("T1", "WAITING", first),
        ("T1", "RUNNING", first),
        ("T1", "RUNNING", moved),
        ("T1", "SUCCEEDED", moved),
        ("T2", "WAITING", ""),
        ("T3", "RUNNING", "file://gpu1:/tmp/nni-experiments/abc/envs/E1"),
    ]
    write(database, {"platform": "remote", "machineList": MACHINES}, events)
    experiment = read_experiment("abc")
    assert [str(machine) for machine in experiment.machines] == ["alice@gpu1:22", "alice@gpu2:2222"]
    assert experiment.trials == (
        RemoteTrial("abc", "T1", "SUCCEEDED", "gpu2", moved.partition(":")[2]),
        RemoteTrial("abc", "T3", "RUNNING", "gpu1", "/tmp/nni-experiments/abc/trials/T3/nnioutput"),
    )
    assert [trial.has_ended for trial in experiment.trials] == [True, False]
    assert experiment.trials[0].name == "abc-T1"


def test_machines_of_a_file_take_the_place_of_those_that_were(database: Path, tmp_path: Path) -> None:
    write(database, {"platform": "remote", "machineList": MACHINES}, [])
    config = tmp_path / "new.yml"
    config.write_text("trainingService: {platform: remote, machineList: [{host: gpu1, user: bob, port: 2200}]}")
    assert [str(machine) for machine in read_experiment("abc", config).machines] == ["bob@gpu1:2200"]


def test_a_local_experiment_has_nothing_to_collect(database: Path) -> None:
    write(database, {"platform": "local"}, [])
    with pytest.raises(ValueError, match="Experiment abc has no machineList: its trials ran on this machine"):
        read_experiment("abc")


@pytest.mark.parametrize("name", ["unknown", "../elsewhere/abc", ""])
def test_an_unknown_experiment(name: str, database: Path) -> None:
    with pytest.raises(FileNotFoundError, match="NNI knows of no experiment"):
        read_experiment(name)
