"""What a user without the sources gets: the wheel that is built from the source distribution."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PACKAGES = ("nni_plugins", "search_spaces")


def build(sources: Path, kind: str, target: Path) -> Path:
    """Return the ``wheel`` or ``sdist`` that the build backend makes of ``sources``, as pip and build call it."""
    target.mkdir()
    code = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(target)], cwd=sources, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = target.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("build")
    sources = folder / "sources"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, sources / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    shutil.unpack_archive(build(sources, "sdist", folder / "sdist"), folder / "unpacked")
    (unpacked,) = (folder / "unpacked").iterdir()
    return build(unpacked, "wheel", folder / "wheel")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the wheel and nothing else of ours."""
    target = tmp_path_factory.mktemp("site-packages")
    shutil.unpack_archive(wheel, target, format="zip")
    return target


@pytest.fixture(scope="module")
def metadata(installed: Path) -> Message:
    (path,) = installed.glob("*.dist-info/METADATA")
    return Parser().parsestr(path.read_text())


def run(installed: Path, folder: Path, *command: str) -> str:
    """Return what a command prints where only the wheel can be imported, not the sources."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "NNI_CONFIG_DIR": str(folder / "nni")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    sources = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if ".dist-info/" not in name} == sources
    assert {"nni_plugins/py.typed", "search_spaces/py.typed", "nni_plugins/algorithms.yml"} <= names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_metadata(metadata: Message) -> None:
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Author"] == "The authors of nni-plugins"
    assert metadata.get_all("Project-URL") is None
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])


def test_the_version_is_that_of_the_metadata(installed: Path, metadata: Message, tmp_path: Path) -> None:
    code = (
        "import nni_plugins; from importlib.util import find_spec; "
        "print(nni_plugins.__version__, nni_plugins.__file__, find_spec('search_spaces').origin)"
    )
    version, *files = run(installed, tmp_path, sys.executable, "-c", code).split()
    assert version == metadata["Version"]
    assert [Path(file) for file in files] == [installed / package / "__init__.py" for package in PACKAGES]


def test_the_command_line(installed: Path, tmp_path: Path) -> None:
    (entry_points,) = installed.glob("*.dist-info/entry_points.txt")
    assert "nni-plugins = nni_plugins.cli:main" in entry_points.read_text().splitlines()
    script = (sys.executable, "-c", "import sys; from nni_plugins.cli import main; sys.exit(main())")
    assert "search" in run(installed, tmp_path, *script, "--help")
    assert "3,338,074" in run(installed, tmp_path, *script, "describe", "bnas_v2_clr_v1")


def test_the_trial_command_of_the_examples(installed: Path, tmp_path: Path) -> None:
    commands = {
        tuple(yaml.safe_load(example.read_text())["trialCommand"].split()[:3])
        for example in (ROOT / "examples").glob("*.yml")
    }
    for interpreter, *module in commands:
        assert interpreter in ("python", "python3")
        assert "--evaluate" in run(installed, tmp_path, sys.executable, *module, "--help")


def test_nni_finds_the_registered_tuner(installed: Path, tmp_path: Path) -> None:
    nnictl = str(Path(sys.executable).with_name("nnictl"))
    run(installed, tmp_path, nnictl, "algo", "register", "--meta", str(installed / "nni_plugins/algorithms.yml"))
    assert "RelativeNAS" in run(installed, tmp_path, nnictl, "algo", "list")
