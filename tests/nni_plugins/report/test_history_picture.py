"""The picture of a search's cells over the epochs."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from nni_plugins.report.history_picture import draw_history
from search_spaces import Genotype, from_architecture_string, published

FIRST = "|nor_conv_3x3~0|+|nor_conv_1x1~0|none~1|+|skip_connect~0|avg_pool_3x3~1|nor_conv_1x1~2|"
SECOND = FIRST.replace("none", "skip_connect")


def texts(svg: str) -> list[str]:
    return [
        "".join(element.itertext()) for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    ]


def test_rows_operations_and_title() -> None:
    svg = draw_history([from_architecture_string(name) for name in (FIRST, SECOND)], title="Two epochs")
    found = texts(svg)
    assert "Two epochs" in found
    for row in ("0 → 1", "0 → 2", "1 → 2", "0 → 3", "1 → 3", "2 → 3"):
        assert row in found
    for operation in ("conv_1x1", "conv_3x3", "none", "skip_connect", "avg_pool_3x3"):
        assert operation in found


def test_every_kind_of_cell_is_drawn() -> None:
    found = texts(draw_history([published("darts_v2"), published("pc_darts_cifar")]))
    assert {"normal cell", "reduce cell"} <= set(found)
    assert found.count("4 → 5") == 2
    assert found.count("skips") == 2


def test_colours_differ_between_operations_and_bars_change_with_them() -> None:
    one = draw_history([from_architecture_string(FIRST)])
    assert one != draw_history([from_architecture_string(SECOND)])
    for colour in ("#17807b", "#c26a12", "#3b8a36", "#8a8a8a"):  # convolution, pooling, skip connection, none
        assert colour in one


def test_curves_have_a_panel_with_their_names() -> None:
    history = [from_architecture_string(name) for name in (FIRST, SECOND)]
    found = texts(draw_history(history, curves={"decided": [float("nan"), 0.5], "alpha_gap": [0.1, 0.2]}))
    assert {"decided", "alpha_gap", "how far the search has decided"} <= set(found)
    assert "share" not in texts(draw_history(history))
    with pytest.raises(ValueError, match="The curve decided has 1 numbers for 2 epochs"):
        draw_history(history, curves={"decided": [0.1]})


def test_two_operations_on_one_edge() -> None:
    nodes: Any = [(("sep_conv_3x3", 0), ("max_pool_3x3", 0))] * 4
    assert draw_history([Genotype("darts", {"normal": nodes, "reduce": nodes})])


def test_same_history_same_file(tmp_path: Path) -> None:
    history = [from_architecture_string(name) for name in (FIRST, SECOND, SECOND)]
    svg = draw_history(history, tmp_path / "history.svg")
    assert (tmp_path / "history.svg").read_text() == svg == draw_history(history)


def test_wrong_histories() -> None:
    with pytest.raises(ValueError, match="at least one epoch, got none"):
        draw_history([])
    with pytest.raises(ValueError, match="one space, got darts and bcnn"):
        draw_history([published("darts_v2"), published("bnas_v2_pc_v1")])
