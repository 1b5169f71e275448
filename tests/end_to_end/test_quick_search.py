"""What a quick search on the embedded digits finds: its settings let every strategy decide."""

from __future__ import annotations

from pathlib import Path

import pytest

from nni_plugins.data import load_data
from nni_plugins.report.collapse import skip_warning
from nni_plugins.report.decision import DECIDED_GAP, SETTLED
from nni_plugins.run.search import search
from nni_plugins.run.settings import Settings

SEARCHES = [("entrannas", "darts"), ("darts", "s2"), ("relative_nas", "nasbench201")]
"""One of each kind and space; those on BCNN, partial channels among them, are of the demo."""


@pytest.mark.parametrize(("strategy", "space"), SEARCHES)
def test_quick_settings_let_a_search_decide(
    strategy: str, space: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    last = search(Settings.of(strategy=strategy, space=space, seed=1), load_data("digits"), tmp_path).history[-1]
    if "alpha_gap" in last:
        assert last["alpha_gap"] >= DECIDED_GAP
    else:
        assert last["decided"] >= SETTLED
    assert last["validation_accuracy"] > 60
    assert "has not" not in caplog.text, "no warning of an undecided search"


def test_a_learnable_topology_is_pruned(tmp_path: Path) -> None:
    settings = Settings.of(strategy="entrannas_dst", space="darts_any", data="digits", seed=1)
    found = search(settings, load_data("digits"), tmp_path)
    kept = [sum(map(len, nodes)) for nodes in found.genotype.cells.values()]
    assert all(4 <= connections <= 40 for connections in kept)  # of 98 in each cell, and at least one for each node
    assert found.history[-1]["validation_accuracy"] > 40
    assert skip_warning(found.genotype) is None
