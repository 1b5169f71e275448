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
import yaml
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
        extras = project["optional-dependencies"]
        for line in [*project["dependencies"], *extras["dev"], *extras["docs"]]:
            requirement = Requirement(line)
            tested = str(constraints[canonicalize_name(requirement.name)].specifier).removeprefix("==")
            assert tested in requirement.specifier, line

    def test_supported_pythons(self, project: dict[str, Any]) -> None:
        assert project["requires-python"] == ">=3.10,<3.13"


class TestPublicFiles:
    def test_the_changelog_has_the_version(self, project: dict[str, Any]) -> None:
        sections = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
        assert sections[0] == "Unreleased"
        assert project["version"] in sections

    def test_the_citation_has_the_four_papers_and_no_version_of_its_own(self) -> None:
        citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
        papers = {each["value"] for paper in citation["references"] for each in paper["identifiers"]}
        assert papers == {f"arXiv:{number}" for number in ("2009.08886", "2101.11342", "2009.06193", "2208.08835")}
        assert "version" not in citation

    def test_links_between_documents_lead_somewhere(self) -> None:
        for document in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "exported/README.md"):
            links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / document).read_text())
            assert [link for link in links if not (ROOT / document).parent.joinpath(link).exists()] == []


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
        sent = ["nni_plugins/trial.py", "search_spaces/bcnn/network.py", "nni_plugins/data/", "pyproject.toml"]
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


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder for the only programs that make finds, whatever this machine has."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in ("awk", "touch"):
        program = shutil.which(name)
        assert program is not None
        (folder / name).symlink_to(program)
    return folder


def put(program: Path, script: str) -> None:
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.fixture(params=["uv on the PATH", "no uv on the PATH"])
def uv(request: pytest.FixtureRequest, programs: Path) -> str:
    """The uv that make has to use."""
    if request.param == "no uv on the PATH":
        return ".uv/bin/uv"
    put(programs / "uv", "echo uv 1.0")
    return str(programs / "uv")


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # A make that runs these tests must not hand its own flags and variables down.
    program = shutil.which("make")
    if program is None:
        pytest.skip("there is no make")
    environment = {"PATH": str(folder / "programs"), "HOME": str(folder)}
    return subprocess.run([program, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def commands(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What ``make -n`` would run, without the steps that bring uv along."""
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if not line.startswith(("python3 ", ".uv/bin/python "))]


@pytest.mark.usefixtures("programs")
class TestMakefile:
    @pytest.mark.parametrize("target", ["demo", "test", "lint", "bench"])
    def test_the_first_run_installs_the_tested_versions(self, target: str, copy: Path, uv: str) -> None:
        environment, packages, *_ = commands(make(copy, "-n", target))
        assert environment.endswith(f' || {uv} venv --allow-existing --python ">=3.10,<3.13" .venv')
        assert packages == f'{uv} pip install --python .venv/bin/python -c constraints.txt -e ".[dev]"'

    @pytest.mark.parametrize("target", ["demo", "test", "lint", "bench"])
    def test_a_second_run_installs_nothing(self, target: str, copy: Path, uv: str) -> None:
        (copy / ".venv").mkdir()
        (copy / ".venv/.installed").touch()
        if uv == ".uv/bin/uv":
            (copy / ".uv/bin").mkdir(parents=True)
            (copy / uv).touch()
        assert make(copy, "-q", ".venv/.installed").returncode == 0
        assert "install" not in make(copy, "-n", target).stdout

    @pytest.mark.parametrize("changed", ["pyproject.toml", "constraints.txt"])
    def test_a_changed_requirement_installs_again(self, changed: str, copy: Path, uv: str) -> None:
        (copy / ".venv").mkdir()
        (copy / ".venv/.installed").touch()
        os.utime(copy / changed, (4e9, 4e9))
        assert make(copy, "-q", ".venv/.installed").returncode == 1

    def test_uv_is_brought_along_where_there_is_none(self, copy: Path) -> None:
        run = make(copy, "-n", "test").stdout.splitlines()
        assert run[1:3] == ["python3 -m venv .uv", ".uv/bin/python -m pip install --quiet uv"]
        assert run[4].startswith(".uv/bin/uv pip install")

    def test_uv_is_not_brought_along_where_it_is(self, copy: Path, programs: Path) -> None:
        put(programs / "uv", "echo uv 1.0")
        assert "python3" not in make(copy, "-n", "test").stdout

    def test_a_uv_that_does_not_run_is_no_uv(self, copy: Path, programs: Path) -> None:
        put(programs / "uv", "exit 127")
        assert make(copy, "-n", "test").stdout.splitlines()[1] == "python3 -m venv .uv"

    @pytest.mark.parametrize("script", [None, "exit 1"], ids=["no python3", "python3 without venv"])
    def test_what_is_missing_is_one_sentence(self, script: str | None, copy: Path, programs: Path) -> None:
        if script is not None:
            put(programs / "python3", script)
        done = make(copy, "test")
        assert done.returncode == 2 and done.stdout == ""
        sentence, of_make = done.stderr.splitlines()
        assert sentence.startswith("The set-up needs uv, or a python3 with venv")
        assert "apt install python3-venv" in sentence and sentence.endswith("run make again.")
        assert ".uv/bin/uv" in of_make
        assert not (copy / ".uv").exists()

    def test_uv_trusts_the_certificates_of_the_machine(self, copy: Path, programs: Path) -> None:
        put(programs / "uv", 'echo "certificates: $UV_SYSTEM_CERTS"')
        assert "certificates: 1" in make(copy, ".venv/.installed").stdout

    def test_the_interpreter_and_the_tests_can_be_chosen(self, copy: Path, uv: str) -> None:
        run = commands(make(copy, "-n", "test", "PYTHON=python3.12", "PYTEST_ARGS=-x"))
        assert '--python "python3.12"' in run[0]
        (tests,) = [command for command in run if "-m pytest" in command]
        assert " -x ||" in tests

    def test_help_names_every_target(self, copy: Path) -> None:
        listed = re.findall(r"^  make (\w+) ", make(copy).stdout, flags=re.MULTILINE)
        assert listed == ["help", "demo", "test", "lint", "docs", "bench", "clean"]


def test_ci_can_be_run() -> None:
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    commands = [line.split()[-1] for line in script.read_text().splitlines() if line.startswith("make")]
    assert commands == ["lint", "docs", "test"]
