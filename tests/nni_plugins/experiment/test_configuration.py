"""Mistakes in an experiment's file are found before anything is started."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from nni_plugins.experiment import configuration
from nni_plugins.experiment.configuration import combinations, read_configuration, trial_arguments, values_of

ROOT = Path(__file__).parents[3]
COMMAND = "python -m nni_plugins.trial --space bcnn --data digits"


def choice(*values: Any) -> dict[str, Any]:
    return {"_type": "choice", "_value": list(values)}


def write(folder: Path, **changes: Any) -> Path:
    """A valid file but for the changes; None leaves a field out."""
    content = {
        "searchSpace": {"strategy": choice("bnas_d", "bnas_v2_pc"), "seed": choice(1)},
        "trialCommand": COMMAND,
        "trialConcurrency": 1,
        "maxTrialNumber": 2,
        "tuner": {"name": "GridSearch"},
        "trainingService": {"platform": "local"},
    } | changes
    path = folder / "experiment.yml"
    given = {name: value for name, value in content.items() if value is not None}
    path.write_text(yaml.safe_dump(given, sort_keys=False))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ValueError, match=re.escape(str(path))) as error:
        read_configuration(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_a_valid_file_is_what_nni_makes_of_it(tmp_path: Path) -> None:
    params = read_configuration(write(tmp_path))
    assert params["maxTrialNumber"] == 2 and params["trialCodeDirectory"] == str(tmp_path)
    assert Path.cwd() != tmp_path


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"epoch": choice(3)}, "a trial with epoch=3 would fail: The strategy bnas_v2_pc has no setting 'epoch'"),
        (
            {"strategy": choice("bnas_d", "bnas_v2_pc"), "epochs": choice(4, 0)},
            "a trial with strategy=bnas_d, epochs=0 would fail: epochs must be a whole number of at least 1",
        ),
        # a setting of the one strategy that the other one has not
        (
            {"strategy": choice("relative_nas", "bnas_d"), "population_size": choice(8)},
            "a trial with strategy=bnas_d, population_size=8 would fail: The strategy bnas_d has no setting",
        ),
        ({"strategy": choice("bnas_d", "bnas_x")}, "a trial with strategy=bnas_x would fail: "),
        ({"seed": {"_type": "randint", "_value": [-1, 3]}}, "a trial with seed=-1 would fail: seed must be a whole"),
        ({"lr": {"_type": "uniform", "_value": [0.0, 0.1]}}, "a trial with lr=0.0 would fail: lr must be "),
        ({"data": choice("npz:secret.npz")}, "a trial with data=npz:secret.npz would fail: NNI's parameters name"),
        ({"lr": {"_type": "uniform", "_value": [0.1]}}, 'search space "lr" (uniform) must have 2 values'),
        ({"lr": {"_type": "choice", "_value": []}}, "searchSpace: the choice 'lr' needs a list of values"),
        ({"lr": 0.1}, 'search space "lr" is a float'),
        ([1], "searchSpace has to name parameters"),
    ],
)
def test_a_value_that_no_trial_can_have(space: Any, message: str, tmp_path: Path) -> None:
    assert refusal(write(tmp_path, searchSpace=space)).startswith(message)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            f"{COMMAND} --sead 1",
            "trialCommand: unrecognized arguments: --sead 1; see python -m nni_plugins.trial --",
        ),
        (f"{COMMAND} --set epochs=none > log", "a trial with strategy=bnas_d, seed=1 would fail: epochs must be "),
        (f"{COMMAND} --help", "trialCommand: it only prints its help"),
        (f"{COMMAND} 'open", "trialCommand: No closing quotation"),
        (
            COMMAND.replace("bcnn", "missing_module:Space"),
            "trialCommand: search space 'missing_module:Space': ",
        ),
        (
            "python -m nni_plugins.trial --retrain nothing",
            "a trial with strategy=bnas_d, seed=1 would fail: 'nothing' ",
        ),
    ],
)
def test_a_command_that_no_trial_can_have(command: str, message: str, tmp_path: Path) -> None:
    assert refusal(write(tmp_path, trialCommand=command)).startswith(message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trialConcurrency": 0}, "NNI refuses it: it expects trial_concurrency > 0."),
        ({"trialConcurency": 1}, "NNI refuses it: ExperimentConfig does not have field(s) trialconcurency."),
        ({"tuner": {"className": "a.B"}}, "NNI refuses it: it expects code_directory is not None."),
        ({"tuner": {"name": "Grid"}}, "NNI has no tuner 'Grid'; nnictl algo list names those that it has."),
        ({"trainingService": None}, "trainingService is missing;"),
        ({"trainingService": {"platform": "loca"}}, "NNI refuses it: "),
        ({"trialCodeDirectory": "nowhere"}, "NNI refuses it: LocalConfig: trial_code_directory"),
        ({"maxTrialNumber": None}, "without maxTrialNumber the experiment never ends"),
    ],
)
def test_a_file_that_nni_refuses(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert refusal(write(tmp_path, **changes)).startswith(message)
    read_configuration(write(tmp_path))  # a refusal leaves nothing behind in NNI


@pytest.mark.parametrize("text", ["a: [", "- 1", "", "a: b: c"])
def test_a_file_that_is_no_configuration(text: str, tmp_path: Path) -> None:
    path = tmp_path / "experiment.yml"
    path.write_text(text)
    assert refusal(path).startswith("this is n")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no .*missing.yml; name an experiment's YAML file"):
        read_configuration(tmp_path / "missing.yml")


def test_own_code_is_looked_for_in_the_folder_of_the_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_images.py").write_text("def images(): raise RuntimeError('only a trial loads its data')\n")
    monkeypatch.syspath_prepend("")
    read_configuration(write(tmp_path, trialCommand="python -m nni_plugins.trial --data own_images:images"))


def test_the_arguments_of_a_command() -> None:
    plain = trial_arguments(f"cd x && A=1 {COMMAND} --set 'channels=PartialChannels(fraction=2)' | tee log")
    assert plain is not None
    assert (plain.space, plain.set) == ("bcnn", ["channels=PartialChannels(fraction=2)"])
    assert trial_arguments("bash train.sh") is None
    assert trial_arguments(f"{COMMAND} --seed $SEED") is None


def test_every_combination_of_a_small_space_and_every_pair_of_a_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    space = {name: choice(0, 1, 2) for name in "abc"}
    assert len({tuple(each.values()) for each in combinations(space)}) == 27
    monkeypatch.setattr(configuration, "MOST_COMBINATIONS", 26)
    found = [tuple(each.values()) for each in combinations(space)]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert {(each[one], each[other]) for each in found} == {(x, y) for x in range(3) for y in range(3)}
    assert (1, 1, 1) not in found


@pytest.mark.parametrize(
    ("kind", "given", "ends"),
    [
        ("choice", ["a", 2], ["a", 2]),
        ("randint", [1, 4], [1, 3]),
        ("uniform", [0.5, 2], [0.5, 2]),
        ("quniform", [1, 10, 3], [1, 9]),
        ("loguniform", [0.01, 1], [0.01, 1]),
        ("normal", [3, 1], [3]),
    ],
)
def test_the_values_of_a_parameter(kind: str, given: list[Any], ends: list[Any]) -> None:
    found = values_of("x", {"_type": kind, "_value": given})
    assert found == ends if kind == "choice" else found == pytest.approx(ends)
