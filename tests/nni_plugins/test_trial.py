"""A trial's command line, as far as it goes without NNI's manager."""

from __future__ import annotations

import pytest

from nni_plugins.trial import main


@pytest.mark.parametrize("threads", [0, -3])
def test_a_trial_computes_with_at_least_one_thread(threads: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--threads", str(threads)]) == 2
    assert capsys.readouterr().err == f"nni-plugins: --threads must be at least 1, got {threads}.\n"
