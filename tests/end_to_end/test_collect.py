"""``nni-plugins collect`` and ``doctor --remote`` over real SSH connections; NNI's part is only its files."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nni_plugins.experiment.remote import collect, listing
from nni_plugins.experiment.remote.checkup import diagnose_remote
from nni_plugins.experiment.remote.machine import Machine, UnreachableError
from nni_plugins.experiment.remote.records import RemoteExperiment, read_experiment
from nni_plugins.run.trial_record import TrialRecord
from tests.end_to_end.experiment import BIN, ENVIRONMENT
from tests.end_to_end.machines import TestMachine, accept, machines, make_key, needs_sshd

pytestmark = needs_sshd
NAME = "abcd1234"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[TestMachine]]:
    with machines(tmp_path_factory.mktemp("machines"), 2) as started:
        yield started


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two: list[TestMachine]) -> Path:
    """The home folder of a person who has accepted both machines."""
    home = tmp_path / "person"
    accept(home, *two)
    monkeypatch.setenv("HOME", str(home))
    return home


class Recorded:
    """An experiment of which there are only files: NNI's here, and its trials' there."""

    def __init__(self, home: Path, two: list[TestMachine]) -> None:
        self.home, self.machines = home, two
        folder = home / "nni-experiments" / NAME / "db"
        folder.mkdir(parents=True)
        self.database = sqlite3.connect(folder / "nni.sqlite")
        self.database.execute("create table ExperimentProfile (params text, revision integer)")
        self.database.execute("create table TrialJobEvent (trialJobId text, event text, logPath text)")
        service = {"platform": "remote", "machineList": [machine.entry() for machine in two]}
        params = json.dumps({"trainingService": service})
        self.database.execute("insert into ExperimentProfile values (?, 1)", [params])
        self.database.commit()

    def trial(self, name: str, machine: TestMachine, status: str) -> Path:
        """A trial's ``NNI_OUTPUT_DIR``, still empty."""
        below = f"nni-experiments/{NAME}/environments/remote-worker1/trials/{name}"
        for event in ("WAITING", "RUNNING", status):
            self.database.execute(
                "insert into TrialJobEvent values (?, ?, ?)", [name, event, f"{machine.host}:~/{below}"]
            )
        self.database.commit()
        work = machine.home / below
        work.mkdir(parents=True)
        return work

    def read(self) -> RemoteExperiment:
        return read_experiment(NAME)


@pytest.fixture
def recorded(home: Path, two: list[TestMachine]) -> Iterator[Recorded]:
    recorded = Recorded(home, two)
    yield recorded
    recorded.database.close()
    for machine in two:
        subprocess.run(["rm", "-rf", str(machine.home / "nni-experiments"), str(machine.home / "results")], check=True)


def finished(recorded: Recorded, name: str, machine: TestMachine, *, size: int = 1000) -> Path:
    """A finished trial with a result folder, event files and a log; returns the result folder."""
    work = recorded.trial(name, machine, "SUCCEEDED")
    result = machine.home / "results" / f"{NAME}-{name}"
    TrialRecord(result.name, {"seed": 1}, ("python", "-m", "nni_plugins.trial"), str(result)).write(work)
    (work / "tensorboard").mkdir()
    (work / "tensorboard" / "events.out.tfevents.1.host").write_bytes(b"events of " + name.encode())
    (work / "trial.stdout").write_text("searched\n")
    (work / "run.lock").touch()
    result.mkdir(parents=True)
    (result / "report.json").write_text(json.dumps({"trial": name}))
    (result / "model.onnx").write_bytes(hashlib.sha256(name.encode()).digest() * (size // 32))
    return result


def unfinished(recorded: Recorded, name: str, machine: TestMachine) -> Path:
    """A trial that was killed in its third epoch; returns its work folder."""
    work = recorded.trial(name, machine, "FAILED")
    command = ("python", "-m", "nni_plugins.trial", "--data", "npz:my data.npz")
    TrialRecord(f"{NAME}-{name}", {"seed": 1}, command, str(machine.home / "results" / name)).write(work)
    (work / "search").mkdir()
    for epoch in (1, 2):
        checkpoint = work / "search" / f"epoch-000{epoch}.ckpt"
        checkpoint.write_bytes(f"epoch {epoch}".encode() * 100)
        digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
        checkpoint.with_name(f"{checkpoint.name}.sha256").write_text(f"{digest}  {checkpoint.name}\n")
    (work / "search" / "settings.json").write_text("{}")
    return work


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def command(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    words = (sys.executable, "-W", "ignore", "-m", "nni_plugins.cli", *words)
    environment = {**ENVIRONMENT, "HOME": str(home), "COLUMNS": "200"}
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


def test_results_logs_and_the_last_checkpoint_come_home_from_both_machines(
    recorded: Recorded, two: list[TestMachine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = [finished(recorded, f"done{index}", machine) for index, machine in enumerate(two)]
    work = unfinished(recorded, "cut", two[1])
    (work / "search" / "link").symlink_to("/etc/passwd")
    out = tmp_path / "exported"

    first = collect.collect(recorded.read(), out)
    assert [(one.trial.id, one.problem) for one in first] == [("done0", ""), ("done1", ""), ("cut", "")]
    for one, result in zip(first, results, strict=False):
        assert one.result == out / result.name and contents(one.result) == contents(result)
        assert one.work is not None
        assert contents(one.work).keys() - {"run.lock"} == {
            "tensorboard/events.out.tfevents.1.host", "trial.stdout", "trial.json",
        }  # fmt: skip
    cut = first[2].work
    assert cut is not None and first[2].result is None
    kept = {"search/epoch-0002.ckpt", "search/epoch-0002.ckpt.sha256", "search/settings.json", "trial.json"}
    assert contents(cut).keys() - {"run.lock"} == kept
    assert all((cut / name).read_bytes() == (work / name).read_bytes() for name in kept)
    assert collect.resume_line(first[2]) == f"NNI_OUTPUT_DIR={cut} python -m nni_plugins.trial --data 'npz:my data.npz'"
    assert collect.resume_line(first[0]) == ""
    assert not list(out.glob(".*.partial"))

    again = collect.collect(recorded.read(), out)
    assert [one.fetched for one in again] == [0, 0, 0]
    assert [one.files for one in again] == [one.files for one in first]

    # A file that was damaged here is fetched again, and no other.
    model = out / results[0].name / "model.onnx"
    model.write_bytes(b"\0" * model.stat().st_size)
    one = collect.collect_trial(recorded.read(), "done0", out)
    assert one.fetched == 1 and contents(out / results[0].name) == contents(results[0])


def test_what_a_person_has_resumed_here_is_left_as_it_is(
    recorded: Recorded, two: list[TestMachine], tmp_path: Path
) -> None:
    unfinished(recorded, "cut", two[0])
    collected = collect.collect_trial(recorded.read(), "cut", tmp_path)
    assert collected.work is not None
    newer = collected.work / "search" / "epoch-0007.ckpt"
    newer.write_bytes(b"trained here")
    (collected.work / "search" / "settings.json").write_text('{"here": true}')
    before = contents(collected.work)
    assert collect.collect_trial(recorded.read(), "cut", tmp_path).problem == ""
    assert contents(collected.work) == before


def test_a_checkpoint_gives_way_to_a_newer_one_and_goes_when_the_trial_has_its_result(
    recorded: Recorded, two: list[TestMachine], tmp_path: Path
) -> None:
    work = unfinished(recorded, "cut", two[0])
    collected = collect.collect_trial(recorded.read(), "cut", tmp_path)
    assert collected.work is not None
    (work / "search" / "epoch-0003.ckpt").write_bytes(b"epoch 3")
    collect.collect_trial(recorded.read(), "cut", tmp_path)
    assert [path.name for path in collected.work.rglob("*.ckpt")] == ["epoch-0003.ckpt"]

    subprocess.run(["rm", "-r", str(work / "search")], check=True)
    result = two[0].home / "results" / "cut"
    result.mkdir(parents=True)
    (result / "report.json").write_text("{}")
    ended = collect.collect_trial(recorded.read(), "cut", tmp_path)
    assert ended.result == tmp_path / f"{NAME}-cut" and not list(collected.work.rglob("*.ckpt*"))


def test_a_link_cut_while_collecting_loses_nothing(recorded: Recorded, two: list[TestMachine], tmp_path: Path) -> None:
    result = finished(recorded, "large", two[0], size=80 << 20)
    partial = tmp_path / f".{NAME}-large.partial" / f"{NAME}-large" / "model.onnx"
    seen = []

    def cut() -> None:
        deadline = time.monotonic() + 120
        while not (partial.exists() and partial.stat().st_size > 8 << 20):
            if time.monotonic() > deadline:
                return
            time.sleep(0.005)
        two[0].cut()
        seen.append(partial.stat().st_size)

    cutting = threading.Thread(target=cut)
    cutting.start()
    first = collect.collect(recorded.read(), tmp_path)[0]
    cutting.join()
    assert seen and "broke" in first.problem and "same command again" in first.problem
    assert not (tmp_path / result.name).exists()
    size = partial.stat().st_size
    assert 0 < size < 80 << 20

    again = collect.collect(recorded.read(), tmp_path)[0]
    assert again.problem == "" and contents(tmp_path / result.name) == contents(result)
    assert not partial.exists()


def test_a_partial_file_of_another_content_is_copied_anew(
    recorded: Recorded, two: list[TestMachine], tmp_path: Path
) -> None:
    result = finished(recorded, "done", two[0])
    partial = tmp_path / f".{NAME}-done.partial" / result.name / "model.onnx"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"of an earlier attempt")
    assert collect.collect_trial(recorded.read(), "done", tmp_path).problem == ""
    assert contents(tmp_path / result.name) == contents(result)


def test_a_machine_that_is_away_keeps_only_its_own(recorded: Recorded, two: list[TestMachine], tmp_path: Path) -> None:
    finished(recorded, "here", two[0])
    finished(recorded, "away", two[1])
    experiment = recorded.read()
    gone = Machine.of_nni({**two[1].entry(), "port": 1})
    here, away = collect.collect(RemoteExperiment(NAME, (experiment.machines[0], gone), experiment.trials), tmp_path)
    assert here.problem == "" and here.result is not None
    assert f"{gone} cannot be reached" in away.problem and away.result is None


def test_the_command_tells_what_is_home_and_what_is_not(
    recorded: Recorded, two: list[TestMachine], tmp_path: Path
) -> None:
    finished(recorded, "done", two[0])
    unfinished(recorded, "cut", two[1])
    done = command(recorded.home, "collect", NAME, "--out", str(tmp_path / "exported"))
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/exported/{NAME}-done" in done.stdout and "none yet" in done.stdout
    assert f"  NNI_OUTPUT_DIR={tmp_path}/exported/{NAME}-cut.run python -m nni_plugins.trial" in done.stdout

    unknown = command(recorded.home, "collect", "nothing", "--out", str(tmp_path / "exported"))
    assert unknown.returncode == 2
    assert unknown.stderr.startswith("nni-plugins: NNI knows of no experiment 'nothing' on this machine;")


def test_doctor_tells_what_a_machine_lacks_over_a_real_connection(two: list[TestMachine], home: Path) -> None:
    machine = Machine.of_nni(two[0].entry())
    findings = {finding.name: finding for finding in diagnose_remote(machine)}
    assert all(finding.ok for name, finding in findings.items() if name != "disk"), findings
    assert findings["Python"].detail.endswith(str(BIN / "python3"))
    assert findings["experiment folder"].detail == str(two[0].home / "nni-experiments")


def problem_of(recorded: Recorded, machine: TestMachine, tmp_path: Path, **changes: Any) -> str:
    finished(recorded, "done", machine)
    experiment = recorded.read()
    changed = Machine.of_nni({**machine.entry(), **changes})
    return collect.collect(RemoteExperiment(NAME, (changed,), experiment.trials), tmp_path / "out")[0].problem


def test_an_unknown_host_key_is_refused_with_the_command_that_accepts_it(
    recorded: Recorded, two: list[TestMachine], home: Path, tmp_path: Path
) -> None:
    accept(home, two[1])
    port = two[0].port
    assert f"ssh-keyscan -p {port} 127.0.0.1 >> {home}/.ssh/known_hosts" in problem_of(recorded, two[0], tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_changed_host_key_is_refused(recorded: Recorded, two: list[TestMachine], home: Path, tmp_path: Path) -> None:
    key = two[1].known_hosts_line.split(" ", 1)[1]
    (home / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{two[0].port} {key}")
    problem = problem_of(recorded, two[0], tmp_path)
    assert "shows another host key than" in problem
    assert f"ssh-keygen -R '[127.0.0.1]:{two[0].port}'" in problem


def test_a_wrong_key_is_refused_and_no_secret_is_shown(
    recorded: Recorded, two: list[TestMachine], tmp_path: Path
) -> None:
    other = make_key(tmp_path / "other_key")
    problem = problem_of(recorded, two[0], tmp_path, sshKeyFile=str(other), sshPassphrase="secret phrase")
    assert "does not let you in" in problem and "ssh-copy-id" in problem and "secret" not in problem
    machine = Machine.of_nni({**two[0].entry(), "password": "secret word"})
    assert "secret" not in repr(machine) + str(machine) and machine.key_file is None


def test_a_wrong_python_is_named(recorded: Recorded, two: list[TestMachine], tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho 'no such library' >&2; exit 3\n")
    python.chmod(0o755)
    problem = problem_of(recorded, two[0], tmp_path, pythonPath=str(python.parent))
    assert problem.startswith(f"python3 in {python.parent} of {two[0].name} fails: no such library;")


def test_a_machine_cannot_write_outside_the_trials_folder(
    recorded: Recorded, two: list[TestMachine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lying = tmp_path / "lying.py"
    entry = {"path": "../../person/.ssh/authorized_keys", "size": 1, "sha256": "0" * 64}
    lying.write_text(f"print({json.dumps(json.dumps({'work': {'folder': '/', 'files': [entry]}, 'result': None}))})")
    monkeypatch.setattr(listing, "__file__", str(lying))
    finished(recorded, "done", two[0])
    assert "outside of the trial's folder" in collect.collect(recorded.read(), tmp_path / "out")[0].problem
    assert not (tmp_path / "out").exists()


def trial(work: Path, exported: Path, data: str) -> subprocess.Popen[str]:
    settings = (
        "epochs=4", "batch_size=16", "space.channels=4", "retrain.epochs=1", "retrain.batch_size=16",
        "retrain.cutout=0", "net.channels=4", "net.deep_cells=0", "net.enhancement_cells=1",
    )  # fmt: skip
    words = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-W", "ignore", "-m", "nni_plugins.trial", "--data", data, *words]
    environment = {**ENVIRONMENT, "NNI_OUTPUT_DIR": str(work)}
    return subprocess.Popen([*command, "--exported", str(exported)], env=environment, text=True)


def test_a_search_interrupted_on_one_machine_ends_on_another_with_the_same_result(
    recorded: Recorded, two: list[TestMachine], tmp_path: Path, tiny_data: str
) -> None:
    # What NNI gave the trial is not on its command line.
    asked = {"strategy": "bnas_d", "seed": 5}
    away, home = recorded.trial("cut", two[0], "FAILED"), tmp_path / "exported"
    TrialRecord(f"{NAME}-cut", asked, ("python",), str(two[0].home / "results" / "cut")).write(away)
    killed = trial(away, two[0].home / "results", tiny_data)
    deadline = time.monotonic() + 300
    while not (away / "search" / "epoch-0002.ckpt").exists():
        assert time.monotonic() < deadline and killed.poll() is None
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    assert not (away / "search" / "epoch-0004.ckpt").exists(), "the search ended before it was killed"

    collected = collect.collect_trial(recorded.read(), "cut", home)
    assert collected.problem == "" and collected.work is not None and collected.result is None
    assert trial(collected.work, home, tiny_data).wait(300) == 0

    whole = tmp_path / "whole.run"
    TrialRecord("whole", asked, ("python",), "").write(whole)
    assert trial(whole, home, tiny_data).wait(300) == 0
    resumed, uninterrupted = home / f"{NAME}-cut", home / "whole"
    report = json.loads((resumed / "report.json").read_text())
    assert (report["settings"]["strategy"], report["seed"]) == ("bnas_d", 5)
    for name in ("genotype.json", "weights.safetensors"):
        assert (resumed / name).read_bytes() == (uninterrupted / name).read_bytes()


def test_unreachable_is_an_operating_systems_error() -> None:
    assert issubclass(UnreachableError, OSError)
