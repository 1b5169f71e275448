"""``nni-plugins run`` on a real experiment: opened, attacked at its port, interrupted, and followed to its end."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import websockets
import websockets.sync.client

from nni_plugins.experiment import nnictl
from nni_plugins.experiment.client import Experiment
from nni_plugins.experiment.known import running_managers
from tests.end_to_end.experiment import ENVIRONMENT, ROOT, any_port, write_config

COMMAND = [sys.executable, "-W", "ignore", "-m", "nni_plugins.cli"]
SIZES = ("net.channels=4", "net.deep_cells=0", "net.enhancement_cells=1", "retrain.epochs=1", "retrain.cutout=0")


@pytest.fixture
def config(tmp_path: Path, tiny_data: str) -> Path:
    """One trial, which waits for the file ``go`` and then retrains a cell."""
    sizes = " ".join(f"--set {size}" for size in SIZES)
    trial = f"python -m nni_plugins.trial --retrain bnas_v2_clr_v1 --data {tiny_data} --exported {tmp_path}/out {sizes}"
    content = {
        "searchSpace": {"seed": {"_type": "choice", "_value": [7]}},
        "trialCommand": f"while [ ! -e {tmp_path}/go ]; do sleep 0.2; done; {trial}",
        "trialCodeDirectory": str(ROOT),
        "trialConcurrency": 1,
        "maxTrialNumber": 1,
        "tuner": {"name": "GridSearch"},
        "trainingService": {"platform": "local"},
    }
    return write_config(tmp_path, content)


@pytest.fixture
def opened(config: Path) -> Iterator[tuple[subprocess.Popen[str], Experiment]]:
    """A running ``nni-plugins run --open``, alone in its process group as on a terminal, and its experiment."""
    port = any_port()
    words = ["run", str(config), "--open", "--port", str(port)]
    process = subprocess.Popen(
        [*COMMAND, *words],
        env=ENVIRONMENT,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    experiment = Experiment(port)
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Experiment "):
                break
        assert any(line.startswith("Warning: --open") and f"ssh -L {port}:localhost:{port}" in line for line in lines)
        experiment.wait_until_up()
        yield process, experiment
    finally:
        process.kill()
        process.wait()
        nnictl.stop(experiment, ENVIRONMENT)


def follow(name: str) -> subprocess.CompletedProcess[str]:
    words = [*COMMAND, "follow", name]
    return subprocess.run(words, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=500)


def status(address: str, port: int, **headers: str) -> int:
    connection = http.client.HTTPConnection(address, port, timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", "/api/v1/nni/version", headers=headers)
        return connection.getresponse().status


def own_address() -> str:
    """An address of this machine that another one could use."""
    found = [each.address for addresses in psutil.net_if_addrs().values() for each in addresses
             if each.family == socket.AF_INET and not ipaddress.ip_address(each.address).is_loopback]  # fmt: skip
    if not found:
        pytest.skip("this machine has no address but 127.0.0.1")
    return found[0]


def test_an_open_page_and_an_interrupted_run(opened: tuple[subprocess.Popen[str], Experiment], config: Path) -> None:
    process, experiment = opened
    port, name = experiment.port, experiment.id

    # The page, and nothing else, listens to other machines.
    manager = running_managers()[name].process
    ids = {manager.pid, *(child.pid for child in manager.children(recursive=True))}
    listening = {
        one.laddr.port: one.laddr.ip
        for one in psutil.net_connections("inet")
        if one.pid in ids and one.status == psutil.CONN_LISTEN
    }
    assert not ipaddress.ip_address(listening.pop(port)).is_loopback
    assert all(ipaddress.ip_address(address).is_loopback for address in listening.values()), listening

    # Other pages are refused as ever, and so is whoever plays a tuner or a trial from elsewhere.
    address = own_address()
    assert status(address, port) == status("127.0.0.1", port) == 200
    assert status(address, port, Host=f"{socket.gethostname()}:{port}") == 200
    assert status(address, port, Origin=f"http://{address}:{port}") == 200
    for host in ("evil.example", f"evil.example:{port}", f"{address}.evil.example"):
        assert status(address, port, Host=host) == 403
    assert status(address, port, Origin="http://evil.example") == 403
    with pytest.raises(websockets.InvalidStatus) as refusal:
        websockets.sync.client.connect(f"ws://{address}:{port}/platform/x")
    assert refusal.value.response.status_code == 403

    # Ctrl-C, which a terminal sends to all processes of the group, leaves the experiment as it is.
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.startswith("nni-plugins: stopped by Ctrl-C; ") and f"nni-plugins follow {name} shows it" in errors
    assert [trial["status"] for trial in experiment.trials()] == ["RUNNING"]

    # `follow` sees it to its end, and shows it again.
    (config.parent / "go").touch()
    done = follow(name)
    assert done.returncode == 0, done.stderr
    assert f"http://localhost:{port}" in done.stdout and "(1 of 1 trials ended)" in done.stdout
    assert f"The best result lies in {config.parent}/out/{name}-" in done.stdout
    page = config.parent / "out" / f"{name}.html"
    assert f"A page of all results: {page}" in done.stdout and name in page.read_text()
    assert name not in running_managers()
    again = follow(name)
    assert again.returncode == 0, again.stderr
    table = done.stdout.index("Trials (accuracies")
    assert (
        again.stdout[again.stdout.index("Trials (accuracies") :].split("To see")[0]
        == (done.stdout[table:].split("To see")[0])
    )
    assert name not in running_managers()
