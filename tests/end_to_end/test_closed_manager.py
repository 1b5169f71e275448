"""A real NNI manager, attacked as a web page elsewhere or another machine would, and killed."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import websockets
import websockets.sync.client

from nni_plugins.experiment.client import Experiment
from nni_plugins.experiment.leftovers import find_leftovers, managers
from tests.end_to_end.experiment import ENVIRONMENT, all_ended, resume, running, wait, write_config

API = "/api/v1/nni"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Two trials, each of which waits for the file ``go``."""
    content = {
        "searchSpace": {"x": {"_type": "choice", "_value": [0, 1]}},
        "trialCommand": f"while [ ! -e {tmp_path}/go ]; do sleep 0.1; done; echo done",
        "trialConcurrency": 1,
        "maxTrialNumber": 2,
        "tuner": {"name": "Random"},
        "trainingService": {"platform": "local"},
    }
    return write_config(tmp_path, content)


@pytest.fixture
def experiment(config: Path) -> Iterator[Experiment]:
    with running(config) as experiment:
        wait(experiment, lambda trials: trials[0]["status"] == "RUNNING")
        yield experiment


def finish(experiment: Experiment, config: Path) -> None:
    (config.parent / "go").touch()
    trials = wait(experiment, all_ended(2), seconds=120)
    assert [trial["status"] for trial in trials] == ["SUCCEEDED"] * 2


def manager_of(experiment: Experiment) -> psutil.Process:
    return next(process for process, name in managers() if name == experiment.id)


def request(
    experiment: Experiment, path: str, method: str = "GET", body: str | None = None, **headers: str
) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", experiment.port, timeout=20)
    with contextlib.closing(connection):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.putrequest(method, path, skip_host="Host" in named)
        for name, value in named.items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(None if body is None else body.encode())
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_manager_is_closed_to_all_but_this_machine_and_does_its_work(experiment: Experiment, config: Path) -> None:
    port, trial = experiment.port, experiment.trials()[0]["trialJobId"]

    for own in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "localhost:9000"):
        assert request(experiment, "/", Host=own)[0] == 200
        assert request(experiment, f"{API}/version", Host=own, Origin=f"http://{own}")[0] == 200
    assert request(experiment, "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Dest="document")[0] == 200

    for foreign in ("evil.example", f"evil.example:{port}", f"localhost.evil.example:{port}", f"192.0.2.1:{port}", ""):
        assert request(experiment, "/", Host=foreign)[0] == 403
        assert request(experiment, f"{API}/experiment", Host=foreign)[0] == 403
    for origin in ("http://evil.example", "null", "http://localhost:3000", f"https://localhost:{port}"):
        assert request(experiment, f"{API}/experiment", Origin=origin)[0] == 403
    assert request(experiment, f"{API}/experiment", Sec_Fetch_Site="cross-site", Sec_Fetch_Dest="image")[0] == 403
    assert request(experiment, f"{API}/experiment", Sec_Fetch_Site="same-site", Sec_Fetch_Dest="empty")[0] == 403

    for method, path in (
        ("POST", "experiment"),
        ("POST", "trial-jobs"),
        ("PUT", "experiment?update_type=SEARCH_SPACE"),
    ):
        for headers in ({"Content-Type": "text/plain"}, {"Content-Type": "text/plain; application/json"}, {}):
            assert request(experiment, f"{API}/{path}", method, "{}", **headers)[0] == 415
    assert request(experiment, f"{API}/experiment", "DELETE", Origin="http://evil.example")[0] == 403

    (config.parent / "secret").write_text("secret")
    for up in ("..%2F" * 6, "..%2f" * 6, "%2E%2E%2F" * 6, "..%5C..%2F" + "..%2F" * 6):
        status, content = request(experiment, f"{API}/trial-file/{trial}/{up}secret")
        assert (status, "secret" in content) == (403, False)
    assert request(experiment, f"{API}/trial-file/..%2F../stdout")[0] == 403
    assert request(experiment, "/logs/..%2F..%2F..%2Fsecret")[0] == 403
    assert request(experiment, f"{API}/trial-file/{trial}/stdout")[0] == 200

    # A trial's TensorBoard, which NNI would open to all interfaces, may start.
    status, board = request(experiment, f"{API}/tensorboard", "POST", json.dumps({"trials": trial}), **JSON)
    assert status == 200
    manager = manager_of(experiment)
    ids = {manager.pid, json.loads(board)["pid"]}

    def listening() -> dict[int, str]:
        ids.update(child.pid for child in manager.children(recursive=True))
        connections = [one for one in psutil.net_connections("inet") if one.pid in ids]
        return {one.laddr.port: one.laddr.ip for one in connections if one.status == psutil.CONN_LISTEN}

    until(lambda: {port, int(json.loads(board)["port"])} <= listening().keys())
    assert all(ipaddress.ip_address(address).is_loopback for address in listening().values()), listening()
    assert request(experiment, f"{API}/tensorboard-tasks", "DELETE")[0] == 200

    assert experiment.get("check-status") == {"status": "RUNNING", "errors": []}
    finish(experiment, config)


def test_nobody_takes_the_place_of_the_tuner(experiment: Experiment, config: Path) -> None:
    for path in ("/tuner", "/TUNER", "/tuner/other", "/%74uner", "/tuner?key=guessed"):
        for origin in (None, websockets.Origin("http://evil.example")):
            with (
                pytest.raises(websockets.InvalidStatus) as refusal,
                websockets.sync.client.connect(f"ws://localhost:{experiment.port}{path}", origin=origin),
            ):
                pass
            assert refusal.value.response.status_code == 403
    finish(experiment, config)


def test_what_a_killed_manager_leaves_does_not_break_the_resumed_experiment(
    experiment: Experiment, config: Path
) -> None:
    trial = experiment.trials()[0]["trialJobId"]
    assert find_leftovers(experiment.id) == []
    manager = manager_of(experiment)
    manager.send_signal(signal.SIGKILL)
    manager.wait(30)

    left = find_leftovers(experiment.id)
    assert {leftover.role for leftover in left} == {"tuner", f"trial {trial}"}
    # The tuner tries for a while to reach its manager again, at the port that the new one gets.
    again = resume(experiment, config)
    found = find_leftovers(experiment.id)
    assert found, "they are told from those of the new manager"
    assert {leftover.process.pid for leftover in found} <= {leftover.process.pid for leftover in left}

    command = [sys.executable, "-W", "ignore", "-m", "nni_plugins.cli", "leftovers", experiment.id]
    asked = subprocess.run(command, env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert asked.returncode == 1 and f"trial {trial} of experiment {experiment.id}" in asked.stdout
    assert find_leftovers(experiment.id)
    assert subprocess.run([*command, "--yes"], env=ENVIRONMENT, check=False).returncode == 0
    assert find_leftovers(experiment.id) == []
    finish(again, config)
    assert again.get("check-status")["errors"] == []


def test_a_leftover_of_another_experiment_is_left_alone(experiment: Experiment) -> None:
    variables = {**os.environ, "NNI_PLATFORM": "local", "NNI_EXP_ID": "gone", "NNI_TRIAL_JOB_ID": "t1"}
    orphan = subprocess.Popen(["sleep", "60"], env=variables)
    remote = subprocess.Popen(["sleep", "60"], env={**variables, "NNI_PLATFORM": "remote"})
    try:
        until(
            lambda: [str(each) for each in find_leftovers()] == [f"trial t1 of experiment gone (process {orphan.pid})"]
        )
        assert find_leftovers(experiment.id) == []
    finally:
        orphan.kill()
        remote.kill()
        orphan.wait()
        remote.wait()
