"""What a quick search on the embedded digits finds."""

from __future__ import annotations

from pathlib import Path

from nni_plugins.data import load_data
from nni_plugins.report.collapse import skip_warning
from nni_plugins.run.search import search
from nni_plugins.run.settings import Settings


def test_a_learnable_topology_is_pruned(tmp_path: Path) -> None:
    settings = Settings.of(strategy="entrannas_dst", space="darts_any", data="digits", seed=1)
    found = search(settings, load_data("digits"), tmp_path)
    kept = [sum(map(len, nodes)) for nodes in found.genotype.cells.values()]
    assert all(4 <= connections <= 40 for connections in kept)  # of 98 in each cell, and at least one for each node
    assert found.history[-1]["validation_accuracy"] > 40
    assert skip_warning(found.genotype) is None
