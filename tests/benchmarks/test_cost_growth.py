"""Growth of costs: what is done stays done, and lines are told from curves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cost_growth import (
    BLOCK,
    SIZES,
    STRATEGIES,
    TRIALS,
    TUNER,
    Point,
    all_points,
    growth,
    measure_missing,
    picture,
    table,
)
from cost_growth import measured as measured_here

STEP = {"cpu_seconds": 1.0, "peak_mb": 10.0, "device": "a machine", "torch": "2"}


def test_lines_and_curves() -> None:
    assert growth([1, 2, 4], [3.0, 5.0, 9.0])[0] == pytest.approx(0, abs=1e-12)
    assert growth([1, 2, 4], [1.0, 2.0, 4.0])[1] == pytest.approx(1)
    distance, exponent = growth([0, 1, 2], [0.0, 1.0, 4.0])  # the best line is 2 x - 1/3
    assert distance == pytest.approx(2 / 3 / 4)
    assert exponent == pytest.approx(2)


def test_only_what_is_missing_is_measured(tmp_path: Path) -> None:
    points, path = all_points(STRATEGIES, 2 * BLOCK), tmp_path / "costs.json"
    path.write_text(json.dumps([{"point": point, **STEP} for point in points[1:]]))
    done = measure_missing(points, path, steps=1)
    assert set(done) == set(points)
    assert done[points[1]] == STEP
    blocks = done[Point(TUNER, TRIALS, 2 * BLOCK)]["blocks"]
    assert [block["trials"] for block in blocks] == [BLOCK, 2 * BLOCK]
    assert measure_missing(points, path, steps=1) == done
    text = table(done, STRATEGIES)
    assert text.count("\n| ") == 2 + len(STRATEGIES) * len(SIZES) * 2 + 2  # the heading, time and memory of each
    picture(done, STRATEGIES, tmp_path / "costs.png")
    assert (tmp_path / "costs.png").stat().st_size > 10_000


def test_a_step_is_measured() -> None:
    costs = measured_here(Point("PCDARTS", "channels", 4), steps=1)
    assert costs["cpu_seconds"] > 0
    assert costs["peak_mb"] > 0
