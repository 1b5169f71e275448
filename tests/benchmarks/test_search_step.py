"""The table of search steps: figures relative to the first row, and no column without a figure."""

from __future__ import annotations

from typing import Any

from search_step import table

NNI: dict[str, Any] = {
    "name": "NNI DARTS", "seconds": 6.0, "cpu_seconds": 5.0, "peak_mb": 200.0, "derivation": None, "compiled": False,
    "start": 0.0, "multiplying": 0.5, "moving": 1.5, "device": "a machine, 1 thread", "torch": "2",
}  # fmt: skip
OURS = {**NNI, "name": "Ours", "seconds": 2.0, "cpu_seconds": 2.0, "peak_mb": 50.0, "derivation": 0.002}


def rows(text: str) -> list[dict[str, str]]:
    """Return the rows of a Markdown table by their columns."""
    head, _, *lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return [dict(zip(head, line, strict=True)) for line in lines]


def test_figures_are_relative_to_the_first_row() -> None:
    first, second = rows(table("a case", [NNI, OURS]))
    assert first["faster than NNI DARTS"] == "1.00x"
    assert (second["faster than NNI DARTS"], second["faster by CPU"]) == ("3.00x", "2.50x")
    assert second["of its peak"] == "0.25"
    assert second["derivation"] == "0.10%"


def test_a_column_without_a_figure_is_left_out() -> None:
    assert "compilation, s" not in rows(table("a case", [NNI, OURS]))[0]
    compiled = {**OURS, "name": "Ours, compiled", "compiled": True, "start": 61.4}
    assert [row["compilation, s"] for row in rows(table("a case", [NNI, OURS, compiled]))] == ["", "", "61"]
