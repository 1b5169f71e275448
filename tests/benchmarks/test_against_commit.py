"""A commit against itself: both versions are run, and the checkout is gone afterwards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_a_commit_against_itself(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this copy of the repository has no history")
    out = tmp_path / "table.md"
    command = [sys.executable, "benchmarks/against_commit.py", "HEAD", "--parts", "search", "--strategies", "bnas_d"]
    done = subprocess.run(
        [*command, "--epochs", "1", "--rounds", "1", "--out", str(out)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    title, _, header, _, row = out.read_text().splitlines()
    assert "One thread of" in title and header.startswith("| what | HEAD |")
    name, before, now, ratio = (cell.strip() for cell in row.strip("|").split("|"))
    assert name == "search, bnas_d"
    seconds = [float(cell.removesuffix(" s")) for cell in (before, now)]
    assert min(seconds) > 0 and float(ratio) == pytest.approx(seconds[1] / seconds[0], abs=0.05)
    trees = subprocess.run(["git", "worktree", "list"], cwd=ROOT, capture_output=True, text=True).stdout
    assert "/tree" not in trees


def test_what_is_no_commit_is_refused_in_a_sentence() -> None:
    command = [sys.executable, "benchmarks/against_commit.py", "nosuch"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "nosuch is no commit of this repository; name one that git log shows." in done.stderr
