"""Exact sizes of every published cell's network, at every size at which its paper evaluates it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nni_plugins.cli import main
from search_spaces.published import published_names

COUNTS = json.loads(Path(__file__).with_name("published_counts.json").read_text())
"""By cell and data set; as published: 3.34 and 3.68 M (BNAS-v2), 3.3 M (DARTS), 3.6 M (PC-DARTS), 3.93 and 5.05 M
(RelativeNAS on CIFAR-10 and ImageNet), all without the auxiliary head."""


def test_every_published_cell_is_counted() -> None:
    assert list(COUNTS) == published_names()
    assert COUNTS["relative_nas"]["imagenet"]["parameters"] == 5_050_029


@pytest.mark.parametrize(("name", "dataset"), [(name, dataset) for name in COUNTS for dataset in COUNTS[name]])
def test_counts(name: str, dataset: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", name, "--dataset", dataset, "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert {figure: described[figure] for figure in COUNTS[name][dataset]} == COUNTS[name][dataset]
