"""A search in the background: started, asked about, and started again where it was interrupted."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from published_search import LOG, PROGRESS, RESULT, Progress, main

from nni_plugins.methods.metric import SECONDS
from nni_plugins.run.epoch_report import EpochRecord
from search_spaces import Genotype


def ask(out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    # at the lowest priority it would wait for every other test of the machine
    arguments = ["--set", "epochs=3", "--set", "consistency_batches=0", "--nice", str(os.nice(0) + 1)]
    arguments += ["--set", "space.channels=4", "--set", "weights_fraction=0.2", "--set", "architecture_fraction=0.2"]
    assert main(["digits", "--out", str(out), *arguments]) == 0
    return capsys.readouterr().out


def wait_for(path: Path, process: int, out: Path) -> None:
    while not path.is_file():
        ended = not psutil.pid_exists(process) or psutil.Process(process).status() == psutil.STATUS_ZOMBIE
        assert not ended or path.is_file(), (out / LOG).read_text()
        time.sleep(0.2)


@pytest.fixture
def started() -> Iterator[Callable[[str], int]]:
    """From what the script answers to the number of the process that it has started, which ends with the test."""
    processes: list[int] = []

    def number(answer: str) -> int:
        processes.append(int(answer.split("Started as process ")[1].split(";")[0]))
        return processes[-1]

    yield number
    for process in processes:
        if psutil.pid_exists(process):
            psutil.Process(process).kill()


def test_a_search_is_resumed_and_leaves_its_result_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], started: Callable[[str], int]
) -> None:
    answer = ask(tmp_path, capsys)
    assert answer.startswith("No epoch of 3 is done yet.")
    process = started(answer)
    wait_for(tmp_path / PROGRESS, process, tmp_path)
    assert psutil.Process(process).nice() == os.nice(0) + 1
    psutil.Process(process).kill()
    psutil.Process(process).wait(60)

    process = started(ask(tmp_path, capsys))
    wait_for(tmp_path / RESULT, process, tmp_path)
    result = json.loads((tmp_path / RESULT).read_text())
    assert [epoch["epoch"] for epoch in result["history"]] == [0, 1, 2]
    assert result["hours"] == sum(epoch["seconds"] for epoch in result["history"]) / 3600
    assert 0 < result["decided"] < 1
    assert result["settings"]["strategy"] == "bnas_v2_pc"
    assert result["versions"].keys() == {"python", "nni-plugins", "nni", "torch", "pytorch-lightning"}
    assert Genotype.load(tmp_path / "genotype.json").space == "bcnn"
    assert "<svg" in (tmp_path / "history.svg").read_text()
    assert "is complete" in ask(tmp_path, capsys)


def test_hours_left_follow_from_the_epochs_done(tmp_path: Path) -> None:
    progress = Progress(tmp_path)
    for epoch, seconds in ((0, 3600.0), (1, 9.0), (1, 1800.0)):  # the second one twice, as after a kill
        progress.keep(EpochRecord(epoch, {SECONDS: seconds}))
    assert progress.sentence(5) == "2 of 5 epochs done, 45.0 minutes each; 2.2 hours left."
