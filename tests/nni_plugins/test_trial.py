"""A trial's command line, as far as it goes without NNI's manager."""

from __future__ import annotations

import pytest

from nni_plugins.trial import build_parser, evaluate_cell, main


@pytest.mark.parametrize("threads", [0, -3])
def test_a_trial_computes_with_at_least_one_thread(threads: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--threads", str(threads)]) == 2
    assert capsys.readouterr().err == f"nni-plugins: --threads must be at least 1, got {threads}.\n"


def test_a_trial_that_evaluates_a_cell_refuses_settings_of_a_search() -> None:
    arguments = build_parser().parse_args(["--evaluate", "--space", "nasbench201", "--set", "epochs=3"])
    message = "A trial that evaluates one cell has no setting 'epochs'; expected one of weights_fraction, "
    with pytest.raises(ValueError, match=message):
        evaluate_cell({}, arguments)
