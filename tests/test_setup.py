"""What the files that set the project up promise to one another and to a fresh machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from nni_plugins.experiment.doctor import bundled_node

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no TOML reader")
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])


@pytest.fixture(scope="module")
def constraints() -> dict[str, Requirement]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    parsed = [Requirement(line) for line in lines]
    assert len({requirement.name for requirement in parsed}) == len(lines)
    return {canonicalize_name(requirement.name): requirement for requirement in parsed}


@pytest.fixture(scope="module")
def files() -> list[Path]:
    """What is committed, or would be."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is not a git clone")
    return [ROOT / name for name in listed.split("\0") if (ROOT / name).is_file()]


class TestVersions:
    def test_every_constraint_is_one_exact_version(self, constraints: dict[str, Requirement]) -> None:
        for requirement in constraints.values():
            assert re.fullmatch(r"==[\w.]+", str(requirement.specifier)), requirement
            assert requirement.url is None
            assert str(requirement.marker or 'python_version >= "3.11"') == 'python_version >= "3.11"'

    def test_every_range_holds_the_tested_version(
        self, project: dict[str, Any], constraints: dict[str, Requirement]
    ) -> None:
        for line in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
            requirement = Requirement(line)
            tested = str(constraints[canonicalize_name(requirement.name)].specifier).removeprefix("==")
            assert tested in requirement.specifier, line

    def test_supported_pythons(self, project: dict[str, Any]) -> None:
        assert project["requires-python"] == ">=3.10,<3.13"


class TestFiles:
    def test_nothing_of_one_machine(self, files: list[Path]) -> None:
        foreign = re.compile(rb"/(?:work|root|home)/\w|pypi\.org|pythonhosted\.org|index[-]url")
        found = {str(file.relative_to(ROOT)): foreign.findall(file.read_bytes())[:3] for file in files}
        assert {name: matches for name, matches in found.items() if matches} == {}

    def test_nothing_large(self, files: list[Path]) -> None:
        assert [file for file in files if file.stat().st_size > 1_000_000] == []

    def test_upload_to_remote_machines_leaves_out_what_is_not_needed_there(self) -> None:
        node = bundled_node()
        assert node is not None
        left_out = [".git/", ".venv/", "data/", "exported/", "tests/", "nni_plugins/__pycache__/", ".mypy_cache/"]
        sent = ["nni_plugins/trial.py", "search_spaces/bcnn.py", "nni_plugins/data/", "pyproject.toml"]
        script = """
            const ignore = require(process.argv[1] + '/node_modules/ignore')().add(process.argv[2]);
            console.log(JSON.stringify(JSON.parse(process.argv[3]).filter(path => ignore.ignores(path))));
        """
        arguments = [str(node.parent), (ROOT / ".nniignore").read_text(), json.dumps(left_out + sent)]
        answer = subprocess.run([node, "-e", script, *arguments], capture_output=True, text=True, check=True).stdout
        assert json.loads(answer) == left_out


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(folder: Path, *arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    # A make that runs these tests must not hand its own flags and variables down.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "PYTHON")
    }
    program = shutil.which("make")
    if program is None:
        pytest.skip("there is no make")
    environment["PATH"] = environment["PATH"] if path is None else path
    return subprocess.run([program, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


class TestMakefile:
    @pytest.mark.parametrize("target", ["demo", "test", "lint", "bench"])
    def test_the_first_run_installs_the_tested_versions(self, target: str, copy: Path) -> None:
        commands = make(copy, "-n", target).stdout.splitlines()
        assert re.search(r'uv venv .*--python ">=3.10,<3.13" .venv$', commands[0])
        assert commands[1].endswith('uv pip install --python .venv/bin/python -c constraints.txt -e ".[dev]"')

    @pytest.mark.parametrize("target", ["demo", "test", "lint", "bench"])
    def test_a_second_run_installs_nothing(self, target: str, copy: Path) -> None:
        (copy / ".venv").mkdir()
        (copy / ".venv/.installed").touch()
        assert make(copy, "-q", ".venv/.installed").returncode == 0
        assert "install" not in make(copy, "-n", target).stdout

    @pytest.mark.parametrize("changed", ["pyproject.toml", "constraints.txt"])
    def test_a_changed_requirement_installs_again(self, changed: str, copy: Path) -> None:
        (copy / ".venv").mkdir()
        (copy / ".venv/.installed").touch()
        os.utime(copy / changed, (4e9, 4e9))
        assert make(copy, "-q", ".venv/.installed").returncode == 1

    def test_uv_is_brought_along_where_there_is_none(self, copy: Path) -> None:
        commands = make(copy, "-n", "test", path=str(copy)).stdout.splitlines()
        assert commands[:2] == ["python3 -m venv .uv", ".uv/bin/python -m pip install --quiet uv"]
        assert commands[3].startswith(".uv/bin/uv pip install")

    def test_the_interpreter_and_the_tests_can_be_chosen(self, copy: Path) -> None:
        commands = make(copy, "-n", "test", "PYTHON=python3.12", "PYTEST_ARGS=-x").stdout.splitlines()
        assert '--python "python3.12"' in commands[0]
        runs = [command for command in commands if "-m pytest" in command]
        assert len(runs) == 2
        assert all(" -x ||" in run for run in runs)

    def test_help_names_every_target(self, copy: Path) -> None:
        listed = re.findall(r"^  make (\w+) ", make(copy).stdout, flags=re.MULTILINE)
        assert listed == ["help", "demo", "test", "lint", "bench", "clean"]


def test_ci_can_be_run() -> None:
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    assert [line.split()[-1] for line in script.read_text().splitlines() if line.startswith("make")] == ["lint", "test"]
