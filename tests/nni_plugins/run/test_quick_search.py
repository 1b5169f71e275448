"""The quick settings of digits let a search decide; for every other strategy see tests/end_to_end."""

from __future__ import annotations

from pathlib import Path

import pytest

from nni_plugins.data import load_data
from nni_plugins.report.decision import DECIDED_GAP
from nni_plugins.run.search import search
from nni_plugins.run.settings import Settings


@pytest.mark.parametrize("strategy", ["darts", "rf_darts"])
def test_quick_settings_decide_and_learn(strategy: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings.of(strategy=strategy, space="nasbench201", data="digits", seed=1)
    last = search(settings, load_data("digits"), tmp_path).history[-1]
    assert last["alpha_gap"] >= DECIDED_GAP and last["validation_accuracy"] > 60
    assert "has not decided" not in caplog.text
