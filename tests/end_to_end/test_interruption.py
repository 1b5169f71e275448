"""A search that is killed and started again ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = """
import sys
from pathlib import Path
from nni_plugins.data import load_data
from nni_plugins.run.search import search
from nni_plugins.run.settings import Settings

OVERRIDES = {
    "bnas_v2_pc": {"epochs": 4, "warmup_epochs": 1},
    "relative_nas": {"epochs": 3, "population_size": 2, "cutout": 2},
}
settings = Settings.of(strategy=sys.argv[3], data=sys.argv[2], seed=3,
                       overrides={"space.channels": 4, "batch_size": 16, **OVERRIDES[sys.argv[3]]})
result = search(settings, load_data(sys.argv[2]), Path(sys.argv[1]))
print(result.genotype.to_json())
"""


def start(folder: Path, data: str, strategy: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(folder), data, strategy]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 400
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def final_state(folder: Path) -> dict:
    return torch.load(folder / "search" / "epoch-0004.ckpt", weights_only=True)


def assert_identical(left: Any, right: Any, path: str = "checkpoint") -> None:
    assert type(left) is type(right), path
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right), path
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), path
        for key in left:
            if key not in ("seconds", "memory_mb"):
                assert_identical(left[key], right[key], f"{path}.{key}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), path
        for index, pair in enumerate(zip(left, right, strict=True)):
            assert_identical(*pair, f"{path}[{index}]")
    else:
        assert left == right, path


@pytest.fixture(scope="module", params=["bnas_v2_pc", "relative_nas"])
def strategy(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, tiny_data: str, strategy: str) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    process = start(folder, tiny_data, strategy)
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0
    return folder, output


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, tiny_data: str, strategy: str) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    process = start(folder, tiny_data, strategy)
    wait_for(folder / "search" / "epoch-0002.ckpt", process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (folder / "search" / "epoch-0004.ckpt").exists(), "the search ended before it was killed"
    return folder


def test_killed_search_ends_bit_identical(
    uninterrupted: tuple[Path, str], killed: Path, tiny_data: str, strategy: str
) -> None:
    folder, genotype = uninterrupted
    again = start(killed, tiny_data, strategy)
    output, _ = again.communicate(timeout=500)
    assert again.returncode == 0
    lines = [line for line in output.splitlines() if line.startswith("search epoch")]
    assert len(lines) < 4, "the rerun started from the beginning"
    assert output[output.index("{") :] == genotype[genotype.index("{") :]
    expected, found = final_state(folder), final_state(killed)
    architecture = [name for name in expected["state_dict"] if "tables" in name]
    assert architecture, "the checkpoint holds the architecture parameters"
    assert_identical(found["state_dict"], expected["state_dict"])
    assert_identical(found["optimizer_states"], expected["optimizer_states"])
    assert_identical(found["callbacks"], expected["callbacks"])
    assert_identical(found.get("relative_nas"), expected.get("relative_nas"))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("stage", ["search", "retrain"])
def test_a_run_that_is_asked_to_end_says_how_to_resume(
    stage: str, number: int, status: int, tmp_path: Path, tiny_data: str
) -> None:
    out, long = tmp_path / "out", {"search": ["epochs=5000"], "retrain": ["epochs=2", "retrain.epochs=5000"]}[stage]
    settings = [
        *long, "warmup_epochs=1", "batch_size=16", "space.channels=4", "retrain.batch_size=16", "retrain.cutout=0",
        "net.channels=4", "net.deep_cells=0", "net.enhancement_cells=1",
    ]  # fmt: skip
    words = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "nni_plugins.cli", "search", "--data", tiny_data, "--out", str(out), *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(Path(f"{out}.run") / stage / "epoch-0001.ckpt", process)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == status
    cause = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    advice = "run the same command again to resume after the last finished epoch."
    assert error.splitlines()[-1] == f"nni-plugins: stopped by {cause}; {advice}" and "Traceback" not in error
    again = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert again.stdout is not None
        first = next(line for line in again.stdout if " epoch " in line)
        assert first.startswith(f"{stage} epoch ") and not first.startswith(f"{stage} epoch 1/")
    finally:
        again.kill()
        again.communicate()


def test_a_trial_orphaned_by_a_killed_manager_keeps_its_folder_to_itself(tmp_path: Path, tiny_data: str) -> None:
    """The manager here is a process that starts a trial, as NNI's does, and is killed; its trial lives on."""
    trial = [
        sys.executable, "-W", "ignore", "-m", "nni_plugins.trial", "--data", tiny_data,
        "--exported", str(tmp_path / "exported"), "--set", "epochs=5000", "--set", "batch_size=16",
        "--set", "space.channels=4",
    ]  # fmt: skip
    work = tmp_path / "trial"
    environment = {**os.environ, "NNI_OUTPUT_DIR": str(work)}
    manage = (
        "import subprocess, sys; "
        "print(subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL).pid, flush=True); input()"
    )
    manager = subprocess.Popen(
        [sys.executable, "-c", manage, *trial],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert manager.stdout is not None
    orphan = int(manager.stdout.readline())
    try:
        wait_for(work / "search" / "epoch-0001.ckpt", manager)
        manager.kill()
        resumed = subprocess.run(trial, env=environment, capture_output=True, text=True, check=False, timeout=300)
        assert resumed.returncode == 2
        assert resumed.stderr.splitlines()[-1].startswith(f"nni-plugins: {work} is in use by process {orphan} on ")
        os.kill(orphan, 0)
    finally:
        os.kill(orphan, signal.SIGKILL)
        manager.kill()
    again = subprocess.Popen(trial, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert again.stdout is not None
        first = next(line for line in again.stdout if line.startswith("search epoch"))
        assert not first.startswith("search epoch 1/"), "the trial resumed where the orphan was"
    finally:
        again.kill()
        again.communicate()
