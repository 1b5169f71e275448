"""Real experiments over ``python -m nni_plugins.trial``: credit, metrics, stop and resume."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from nni_plugins.deploy import check
from nni_plugins.experiment.client import ENDED, Experiment
from search_spaces import Genotype
from tests.end_to_end.experiment import ENVIRONMENT, ROOT, all_ended, resume, running, stop, wait, write_config

TRIAL = f"{sys.executable} -W ignore -m nni_plugins.trial"
TINY = (
    "--set epochs=3 --set batch_size=16 --set space.channels=4 --set retrain.epochs=1 --set retrain.batch_size=16 "
    "--set retrain.cutout=0 --set net.channels=4 --set net.deep_cells=0 --set net.enhancement_cells=1"
)


def trial_command(folder: Path, data: str) -> str:
    return f"{TRIAL} --data {data} --exported {folder}/exported {TINY}"


def config(folder: Path, data: str, concurrency: int) -> Path:
    """The first example, with two of its strategies, on tiny data."""
    content = yaml.safe_load((ROOT / "examples" / "bnas_v2.yml").read_text())
    content["searchSpace"]["strategy"]["_value"] = ["bnas_d", "bnas_v2_pc"]
    content["trialCommand"] = trial_command(folder, data)
    return write_config(
        folder, {**content, "trialCodeDirectory": str(ROOT), "trialConcurrency": concurrency, "maxTrialNumber": 2}
    )


def wait_for_an_epoch(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """Return the first trial once it has told NNI of an epoch and, which comes after it, has written its checkpoint."""
    written = "trials/*/search/epoch-*.ckpt"
    (trial, *_) = wait(
        experiment,
        lambda trials: (
            bool(trials)
            and bool(experiment.last_metrics(trials[0], "PERIODICAL"))
            and any((folder / "nni").rglob(written))
        ),
    )
    return trial


def test_two_trials_at_once_each_get_their_own_credit(tmp_path: Path, tiny_data: str) -> None:
    with running(config(tmp_path, tiny_data, concurrency=2)) as experiment:
        trials = wait(experiment, all_ended(2))
        assert [trial["status"] for trial in trials] == ["SUCCEEDED"] * 2
        sent = [json.loads(trial["hyperParameters"][0]) for trial in trials]
        parameters = {str(each["parameter_id"]): each["parameters"] for each in sent}
        assert set(parameters) == {"0", "1"}
        credited = []
        for trial in trials:
            metrics = experiment.get(f"metric-data/{trial['trialJobId']}")
            # NNI gives parameters to whichever trial asks first, so the id that counts is the one sent with a metric
            (parameter_id,) = {str(m["parameterId"]) for m in metrics}
            credited.append(parameter_id)
            folder = tmp_path / "exported" / f"{experiment.id}-{trial['trialJobId']}"
            report = json.loads((folder / "report.json").read_text())
            assert report["settings"]["strategy"] == parameters[parameter_id]["strategy"]
            assert report["seed"] == parameters[parameter_id]["seed"] == 1

            epochs = [json.loads(json.loads(m["data"])) for m in metrics if m["type"] == "PERIODICAL"]
            assert [e["default"] for e in epochs] == [e["default"] for e in report["search_history"]]
            assert all(set(e) == set(epochs[0]) for e in epochs)
            final = experiment.last_metrics(trial, "FINAL")
            assert final["default"] == report["test_accuracy"] == pytest.approx(report["deployment"]["test_accuracy"])
            assert Genotype.from_json(final["genotype"]) == Genotype.load(folder / "genotype.json")
            assert (final["strategy"], final["seed"]) == (parameters[parameter_id]["strategy"], 1)
            assert final["parameters"] == report["parameters"] and final["deployment_passed"] == 1
            assert check.main([str(folder)]) == 0
            events = list((tmp_path / "nni").rglob(f"trials/{trial['trialJobId']}/tensorboard/**/events.*"))
            assert events, "TensorBoard logs lie where NNI looks for them"
        assert sorted(credited) == ["0", "1"]


def test_a_trial_evaluates_the_cell_that_the_tuner_sampled(tmp_path: Path, tiny_data: str) -> None:
    content = yaml.safe_load((ROOT / "examples" / "relative_nas_tuner.yml").read_text())
    content["trialCommand"] = (
        f"{TRIAL} --evaluate --space nasbench201 --data {tiny_data} --exported {tmp_path}/exported "
        "--set retrain.epochs=2 --set retrain.batch_size=16 --set net.channels=4 --set net.cells=1"
    )
    content["tuner"]["codeDirectory"] = str(ROOT)
    path = write_config(tmp_path, {**content, "trialCodeDirectory": str(ROOT), "maxTrialNumber": 2})
    with running(path) as experiment:
        trials = wait(experiment, all_ended(2))
        assert [trial["status"] for trial in trials] == ["SUCCEEDED"] * 2
        sent = [json.loads(trial["hyperParameters"][0])["parameters"] for trial in trials]
        evaluated = []
        for trial in trials:
            metrics = experiment.get(f"metric-data/{trial['trialJobId']}")
            epochs = [json.loads(json.loads(m["data"])) for m in metrics if m["type"] == "PERIODICAL"]
            final = experiment.last_metrics(trial, "FINAL")
            assert len(epochs) == 2 and final["default"] == epochs[-1]["default"]
            found = Genotype.load(tmp_path / "exported" / f"{experiment.id}-{trial['trialJobId']}" / "genotype.json")
            assert found == Genotype.from_json(final["genotype"])
            evaluated.append(found.to_sample())
        assert sorted(evaluated, key=str) == sorted(sent, key=str)


def test_a_stopped_experiment_resumes_its_search(tmp_path: Path, tiny_data: str) -> None:
    path = config(tmp_path, tiny_data, concurrency=1)
    with running(path) as experiment:
        trial = wait_for_an_epoch(experiment, tmp_path)["trialJobId"]
        stop(experiment)
        left = list((tmp_path / "nni").rglob(f"trials/{trial}/search/epoch-*.ckpt"))
        assert left, "the interrupted trial left a checkpoint"
        resume(experiment, path)
        trials = wait(experiment, all_ended(2))
        assert [t["status"] for t in trials] == ["SUCCEEDED"] * 2
    report = json.loads((tmp_path / "exported" / f"{experiment.id}-{trial}" / "report.json").read_text())
    assert [epoch["epoch"] for epoch in report["search_history"]] == [0, 1, 2]


def test_a_trial_that_was_killed_is_finished_by_hand_from_its_checkpoint(tmp_path: Path, tiny_data: str) -> None:
    with running(config(tmp_path, tiny_data, concurrency=1)) as experiment:
        trial = wait_for_an_epoch(experiment, tmp_path)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("NNI_TRIAL_JOB_ID") == trial["trialJobId"]:
                    process.kill()
        (killed, *_) = wait(experiment, lambda trials: trials[0]["status"] in ENDED)
        assert killed["status"] != "SUCCEEDED"
        metrics = experiment.get(f"metric-data/{trial['trialJobId']}")
        before = [json.loads(json.loads(metric["data"])) for metric in metrics]
    assert 1 <= len(before) < 3, "it was killed in mid-search"

    by_hand = f"NNI_OUTPUT_DIR={killed['logPath']} {trial_command(tmp_path, tiny_data)}"
    subprocess.run(["sh", "-c", by_hand], env=ENVIRONMENT, cwd=ROOT, check=True, capture_output=True)

    parameters = json.loads(killed["hyperParameters"][0])["parameters"]
    report = json.loads((tmp_path / "exported" / f"{experiment.id}-{trial['trialJobId']}" / "report.json").read_text())
    assert (report["settings"]["strategy"], report["seed"]) == (parameters["strategy"], parameters["seed"])
    history = report["search_history"]
    assert [epoch["epoch"] for epoch in history] == [0, 1, 2]
    assert history[0]["seconds"] == before[0]["seconds"], "the first epoch was not searched again"
