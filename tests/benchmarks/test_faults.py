"""The script of kills: how it tells phases and results apart, and one kill for real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from faults import PHASES, differences, fault, made_up_images, phase_of, table


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_the_phase_is_read_from_the_folders(tmp_path: Path) -> None:
    out, run = tmp_path / "out", tmp_path / "out.run"
    seen = [phase_of(out)]
    touch(run / "search" / "settings.json")
    seen.append(phase_of(out))
    touch(run / "search" / ".epoch-0001.ckpt.abcdefgh")
    seen.append(phase_of(out))
    (run / "search" / ".epoch-0001.ckpt.abcdefgh").rename(run / "search" / "epoch-0001.ckpt")
    seen.append(phase_of(out))
    touch(run / "retrain" / "settings.json")
    seen.append(phase_of(out))
    (tmp_path / ".out.abcdefgh.partial").mkdir()
    seen.append(phase_of(out))
    assert seen == [None, "search", "checkpoint write", "search", "retraining", "export"]


def result(folder: Path, **report: Any) -> Path:
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"a model")
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def test_results_differ_in_all_but_measured_times(tmp_path: Path) -> None:
    one = result(tmp_path / "one", search_history=[{"loss": 1.5, "seconds": 2.0}], deployment={"latency": {"p50": 1}})
    same = result(tmp_path / "same", search_history=[{"loss": 1.5, "seconds": 3.0}], deployment={"latency": {}})
    other = result(tmp_path / "other", search_history=[{"loss": 1.25, "seconds": 2.0}], deployment={})
    assert differences(one, same) == []
    assert differences(one, other) == ["report.json"]
    (same / "model.onnx").write_bytes(b"another")
    (same / "cells.svg").touch()
    assert differences(one, same) == differences(same, one) == ["cells.svg", "model.onnx"]


def test_the_table_counts_phases_and_equal_results() -> None:
    kills = [
        {"strategy": "bnas_v2_pc", "phase": "search", "differing": []},
        {"strategy": "bnas_v2_pc", "phase": "export", "differing": ["model.onnx"]},
        {"strategy": "rf_darts", "phase": "search", "differing": []},
    ]
    rows = table(kills).splitlines()
    assert rows[2] == "| bnas_v2_pc | 1 | 0 | 0 | 1 | 1 of 2 |"
    assert rows[-1] == "| all | 2 | 0 | 0 | 1 | 2 of 3 |"


def test_a_search_killed_in_its_export_ends_with_the_uninterrupted_result(tmp_path: Path) -> None:
    record = fault(19, 0, made_up_images(tmp_path / "images.npz"), tmp_path)
    assert record["strategy"] == "rf_darts" and record["phase"] in PHASES
    assert record["differing"] == []
