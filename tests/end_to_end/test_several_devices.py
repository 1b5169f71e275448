"""Searches on two devices by the program's doors: an experiment of NNI, the command line, a script."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from nni_plugins.data.streamed import available_cpus
from nni_plugins.deploy import check
from tests.end_to_end.experiment import ENVIRONMENT, ROOT, all_ended, running, wait, write_config
from tests.end_to_end.test_trial import TINY, trial_command

pytestmark = pytest.mark.skipif(available_cpus() < 2, reason="two processes need two cores")


def test_a_trial_on_two_devices_is_one_trial(tmp_path: Path, tiny_data: str) -> None:
    content = yaml.safe_load((ROOT / "examples" / "bnas_v2_two_gpus.yml").read_text())
    content["trialCommand"] = f"{trial_command(tmp_path, tiny_data)} --set devices=2"
    content["trialGpuNumber"] = 0  # processes on the CPU
    del content["trainingService"]["maxTrialNumberPerGpu"], content["trainingService"]["useActiveGpu"]
    with running(write_config(tmp_path, {**content, "trialCodeDirectory": str(ROOT)})) as experiment:
        (trial,) = wait(experiment, all_ended(1))
        assert trial["status"] == "SUCCEEDED"
        metrics = experiment.get(f"metric-data/{trial['trialJobId']}")
    (path,) = (tmp_path / "exported").glob("*/report.json")
    report = json.loads(path.read_text())
    epochs = [json.loads(json.loads(metric["data"])) for metric in metrics if metric["type"] == "PERIODICAL"]
    assert [epoch["default"] for epoch in epochs] == [epoch["default"] for epoch in report["search_history"]]
    assert [metric["type"] for metric in metrics].count("FINAL") == 1
    assert report["settings"]["search"]["devices"] == report["settings"]["retrain"]["devices"] == 2
    assert report["deployment"]["passed"] and check.main([str(path.parent)]) == 0


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_ranks_end_with_the_process_that_started_them(
    number: signal.Signals, status: int, tmp_path: Path, tiny_data: str
) -> None:
    command = [
        sys.executable, "-m", "nni_plugins.cli", "search", "--data", tiny_data, "--out", str(tmp_path / "out"),
        *TINY.split(), "--set", "epochs=500", "--set", "devices=2",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, env=ENVIRONMENT, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("arch_learning_rate=0.0006 moves alpha by 0.84")
        assert process.stdout.readline().startswith("search epoch 1/500")
        ranks = [each for each in psutil.Process(process.pid).children() if "nni_plugins.run.rank" in each.cmdline()]
        assert len(ranks) == 2
        os.kill(process.pid, number)
        _, told = process.communicate(timeout=120)
        assert process.returncode == status
        if number != signal.SIGKILL:
            assert told.count("\n") == 1 and "run the same command again to resume" in told
    finally:
        process.kill()
    deadline = time.monotonic() + 60
    while any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in ranks):
        assert time.monotonic() < deadline, "a rank has outlived the run"
        time.sleep(0.1)


def test_a_script_without_a_main_guard_searches_on_two_devices(tmp_path: Path, tiny_data: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"""
from pathlib import Path
from nni_plugins.data import load_data
from nni_plugins.run.search import search
from nni_plugins.run.settings import Settings

sizes = {{"epochs": 2, "batch_size": 16, "space.channels": 4, "space.cells": 1}}
settings = Settings.of(strategy="darts", space="nasbench201", data="{tiny_data}", overrides={{**sizes, "devices": 2}})
found = search(settings, load_data(settings.data), Path("{tmp_path}/work"))
print("found", len(found.history))
""")
    process = subprocess.run(
        [sys.executable, str(script)], env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)}, cwd=tmp_path, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("search epoch") == 2 and process.stdout.endswith("found 2\n")
