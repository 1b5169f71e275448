"""Mistakes of ``nni-plugins run`` and ``nni-plugins follow`` that end before NNI is asked for anything."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from nni_plugins.cli import main
from nni_plugins.experiment.running import epochs_of, is_remote

ROOT = Path(__file__).parents[3]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    yield tmp_path
    assert {path.name for path in tmp_path.glob("nni-experiments/*")} <= {".experiment"}  # no experiment


def known(home: Path, *names: str) -> None:
    (home / "nni-experiments").mkdir()
    (home / "nni-experiments" / ".experiment").write_text(json.dumps({name: {} for name in names}))


def test_an_unknown_experiment_and_the_known_ones(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["follow", "nobody"]) == 2
    assert capsys.readouterr().err == (
        "nni-plugins: There is no experiment 'nobody' on this machine; NNI knows none: nni-plugins run CONFIG.yml "
        "starts one.\n"
    )
    known(home, *(f"e{number}" for number in range(12)))
    assert main(["follow", "nobody"]) == 2
    newest = ", ".join(f"e{number}" for number in range(11, 1, -1))
    assert capsys.readouterr().err.endswith(f"NNI knows {newest}.\n")


@pytest.mark.usefixtures("home")
def test_a_mistake_in_the_file_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "missing.yml"]) == 2
    assert capsys.readouterr().err.startswith("nni-plugins: There is no missing.yml;")
    path = tmp_path / "wrong.yml"
    path.write_text((ROOT / "examples/bnas_v2.yml").read_text().replace("..", str(ROOT)).replace("bnas_d", "bnas_x"))
    assert main(["run", str(path)]) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"nni-plugins: {path}: a trial with strategy=bnas_x, seed=1 would fail: ")
    assert output.err.count("\n") == 1


@pytest.mark.usefixtures("home")
def test_a_port_that_is_taken_is_found_with_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert main(["run", "examples/bnas_v2.yml", "--port", str(port)]) == 1
    assert f"port {port}: taken by " in capsys.readouterr().out


def test_the_epochs_of_a_trial() -> None:
    of_search = epochs_of({"trialCommand": "python -m nni_plugins.trial --set retrain.epochs=7"})
    assert of_search({"strategy": "bnas_d", "epochs": 3}) == (3, 7)
    assert of_search({"strategy": "unknown"}) == ()
    evaluated = epochs_of({"trialCommand": "python -m nni_plugins.trial --evaluate --space nasbench201"})
    assert len(evaluated({"cell/0_1": "none"})) == 1
    retrained = epochs_of({"trialCommand": "python -m nni_plugins.trial --retrain bnas_v2_clr_v1"})
    assert retrained({"seed": 3, "retrain.epochs": 5}) == (5,)
    for command in ("bash own.sh", "python -m nni_plugins.trial --wrong"):
        assert epochs_of({"trialCommand": command})({}) == ()


def test_where_trials_run() -> None:
    assert is_remote({"trainingService": {"platform": "remote"}})
    assert not is_remote({"trainingService": {"platform": "local"}})
