"""Pieces of a long measurement: done once, in processes of their own, and started again after a failure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pieces import Clock, Pieces, TimeIsUp


def outcome(folder: Path, clock: Clock) -> Mapping[str, Any]:
    clock.keep()
    return {"process": os.getpid(), "checkpoints": sorted(path.name for path in folder.iterdir())}


def fails(folder: Path, clock: Clock) -> Mapping[str, Any]:
    clock.keep()
    os._exit(3)


def test_a_piece_is_done_once_and_in_a_process_of_its_own(tmp_path: Path) -> None:
    Pieces(tmp_path).do("one", outcome)
    first = Pieces(tmp_path).outcome("one")
    assert first is not None
    assert first["process"] != os.getpid()
    Pieces(tmp_path).do("one", fails)
    assert Pieces(tmp_path).outcome("one") == first
    assert list((tmp_path / "work").iterdir()) == []


def test_a_failed_piece_is_left_alone_and_resumes_next_time(tmp_path: Path) -> None:
    pieces = Pieces(tmp_path)
    pieces.do("one", fails)
    pieces.do("one", outcome)
    pieces.do("two", outcome)
    assert pieces.failed == ["one"]
    assert pieces.outcome("one") is None
    assert pieces.outcome("two") is not None
    pieces = Pieces(tmp_path)
    pieces.do("one", outcome)
    assert pieces.failed == []
    assert pieces.outcome("one") is not None


def test_nothing_begins_once_the_hours_are_over(tmp_path: Path) -> None:
    pieces = Pieces(tmp_path, hours=0)
    with pytest.raises(TimeIsUp):
        pieces.do("one", outcome)
    assert list(tmp_path.iterdir()) == []


def test_a_clock_knows_the_seconds_before_an_interruption(tmp_path: Path) -> None:
    (tmp_path / "cpu_seconds").write_text("100.0")
    clock = Clock(tmp_path)
    assert 100 <= clock.seconds() < 200
    clock.keep()
    assert Clock(tmp_path).seconds() >= float((tmp_path / "cpu_seconds").read_text()) >= 100
