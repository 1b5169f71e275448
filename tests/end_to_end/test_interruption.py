"""A search that is killed goes on as if nothing had happened; damaged checkpoints and bad losses are named."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from nni_plugins.run.checkpoint import checkpoints, newest_intact

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
    deadline = time.monotonic() + 400
    while not (folder / "search" / "epoch-0002.ckpt").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
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


def test_damaged_checkpoint_is_named_and_the_one_before_it_used(
    uninterrupted: tuple[Path, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    newest, previous = checkpoints(uninterrupted[0] / "search")
    for path in (newest, previous):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    damaged = tmp_path / newest.name
    damaged.write_bytes(damaged.read_bytes()[:-5000])
    with caplog.at_level(logging.WARNING):
        assert newest_intact(tmp_path) == tmp_path / previous.name
    assert newest.name in caplog.text


def test_a_checkpoint_that_carries_code_is_not_executed(tmp_path: Path) -> None:
    marker = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> tuple:
            return (Path.touch, (marker,))

    torch.save({"state_dict": Evil()}, tmp_path / "epoch-0001.ckpt")
    assert newest_intact(tmp_path) is None
    assert not marker.exists()
