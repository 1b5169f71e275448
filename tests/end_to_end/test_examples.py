"""Every example is valid; the first one, which ``make demo`` runs, is run for real."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from nni.experiment.config import ExperimentConfig

from nni_plugins import trial
from nni_plugins.cli import main
from nni_plugins.data import load_data
from nni_plugins.report.decision import DECIDED_GAP
from nni_plugins.run.candidate import sample_of
from tests.end_to_end.experiment import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.yml"))
TRIAL = "nni_plugins.trial"


def combinations(space: dict[str, Any]) -> list[dict[str, Any]]:
    """One parameter dict for every value of every choice, the other choices at their first."""
    first = {name: each["_value"][0] for name, each in space.items()}
    return [first | {name: value} for name, each in space.items() for value in each["_value"]]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_accepted_by_nni(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id_ed25519").touch()  # NNI looks for the key that the examples for remote machines name
    config = ExperimentConfig.load(path).canonical_copy()
    assert config.max_trial_number, "without maxTrialNumber NNI never ends"
    assert Path(config.trial_code_directory) == ROOT


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_trial_of_an_example_has_valid_settings(path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    words = shlex.split(content["trialCommand"])
    if TRIAL not in words:
        pytest.skip("not a search trial")
    arguments = trial.build_parser().parse_args(words[words.index(TRIAL) + 1 :])
    if arguments.evaluate:  # a trial is one cell
        settings = trial.settings_of({}, arguments)
        for parameters in combinations(content["searchSpace"]):
            assert set(sample_of(parameters, settings, load_data(settings.data))) == set(content["searchSpace"])
        return
    for parameters in combinations(content["searchSpace"]):
        settings = trial.settings_of(parameters, arguments)
        assert settings.strategy == parameters.get("strategy", arguments.strategy)


@pytest.mark.timeout(1500)  # minutes for its user, and more beside other tests
def test_the_demo_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["run", "examples/bnas_v2.yml"]) == 0
    output = capsys.readouterr().out
    for strategy in ("bnas_d", "bnas_v2_clr", "bnas_v2_pc"):
        assert strategy in output
    assert output.count("passed") == 3 and "decided" in output
    assert "nnictl view" in output

    page = Path(output.split("A page of all results: ")[1].splitlines()[0])
    reports = [json.loads(path.read_text()) for path in page.parent.glob(f"{page.stem}-*/report.json")]
    assert len(reports) == 3
    for report in reports:
        last = report["search_history"][-1]
        assert last["alpha_gap"] >= DECIDED_GAP and last["validation_accuracy"] > 60
        assert report["test_accuracy"] > 97
