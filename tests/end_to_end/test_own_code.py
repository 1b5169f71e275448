"""The examples of an own space and an own data set: the command that each of them shows, run from its folder."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nni_plugins.cli import main
from tests.end_to_end.experiment import ENVIRONMENT, ROOT

EXAMPLES = ROOT / "examples"


def shown_command(example: Path) -> list[str]:
    """The words after ``nni-plugins`` of the command in a module's docstring, continuation lines included."""
    lines = example.read_text().split('"""')[1].splitlines()
    first = next(at for at, line in enumerate(lines) if line.strip().startswith("nni-plugins "))
    last = next(at for at in range(first, len(lines)) if not lines[at].endswith("\\"))
    return shlex.split(" ".join(line.rstrip("\\") for line in lines[first : last + 1]))[1:]


@pytest.mark.parametrize("name", ["own_space", "own_data"])
def test_the_command_of_the_example_makes_a_checked_result(name: str, tmp_path: Path) -> None:
    words = shown_command(EXAMPLES / f"{name}.py")
    out = tmp_path / "own"
    words[words.index("--out") + 1] = str(out)
    command = [sys.executable, "-m", "nni_plugins.cli", *words]
    process = subprocess.run(command, cwd=EXAMPLES, env=ENVIRONMENT, capture_output=True, text=True, timeout=500)
    assert process.returncode == 0, process.stderr[-2000:]
    report = json.loads((out / "report.json").read_text())
    assert report["deployment"]["passed"]
    assert report["data"]["classes"] == 3 and report["data"]["image_size"] == 16
    assert report["test_accuracy"] > 60  # a third by chance
    genotype = json.loads((out / "genotype.json").read_text())
    assert genotype["space"] == {"own_space": "own_space:SmallNet", "own_data": "bcnn"}[name]
    assert main(["check", str(out)]) == 0
