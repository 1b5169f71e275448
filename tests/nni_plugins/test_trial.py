"""A trial's command line, as far as it goes without NNI's manager."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from nni_plugins.trial import build_parser, evaluate_cell, main, retrain_cell


@pytest.mark.parametrize("threads", [0, -3])
def test_a_trial_computes_with_at_least_one_thread(threads: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--threads", str(threads)]) == 2
    assert capsys.readouterr().err == f"nni-plugins: --threads must be at least 1, got {threads}.\n"


def test_a_trial_that_evaluates_a_cell_refuses_settings_of_a_search() -> None:
    arguments = build_parser().parse_args(["--evaluate", "--space", "nasbench201", "--set", "epochs=3"])
    message = "A trial that evaluates one cell has no setting 'epochs'; expected one of weights_fraction, "
    with pytest.raises(ValueError, match=message):
        evaluate_cell({}, arguments)


def test_a_retraining_takes_seeds_and_settings_of_the_retraining_alone() -> None:
    arguments = build_parser().parse_args(["--retrain", "bnas_v2_clr_v1"])
    for parameters, message in (
        (
            {"epochs": 3},
            "There is no setting 'epochs' here; expected the prefix retrain. or net., such as retrain.epochs",
        ),
        ({"strategy": "darts"}, "There is no setting 'strategy' here"),
        ({"data": "npz:/etc/passwd"}, "There is no setting 'data' here"),
        ({"seed": "one"}, "seed must be a whole number of at least 0, got 'one'."),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            retrain_cell(parameters, arguments)


def test_a_trial_retrains_a_cell_with_the_seed_of_its_parameters(tiny_data: str, tmp_path: Path) -> None:
    sizes = ["net.channels=4", "net.deep_cells=0", "net.enhancement_cells=1", "retrain.epochs=1", "retrain.cutout=0"]
    words = ["--retrain", "bnas_v2_clr_v1", "--data", tiny_data, "--exported", str(tmp_path)]
    arguments = build_parser().parse_args([*words, *(word for size in sizes for word in ("--set", size))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NNI_OUTPUT_DIR", str(tmp_path / "work"))
        final = retrain_cell({"seed": 7, "retrain.batch_size": 32}, arguments)
    report = json.loads((Path(final["folder"]) / "report.json").read_text())
    assert final["seed"] == report["seed"] == 7 and report["settings"]["retrain"]["batch_size"] == 32
    assert final["default"] == final["test_accuracy"] == report["test_accuracy"]
    assert "search_accuracy" not in final and len(report["retrain_history"]) == 1
