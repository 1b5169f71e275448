"""A method and a space of a separately installed package go from search to checked ONNX with nothing of ours edited."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

TOY = Path(__file__).parents[2] / "toy_package"
ROOT = Path(__file__).parents[3]
QUICK = (
    "epochs=2", "batch_size=16", "retrain.epochs=1", "retrain.batch_size=16", "retrain.cutout=0", "space.channels=4",
    "net.channels=4",
)  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the toy package as an installer leaves it there: unpacked, with its metadata."""
    folder = tmp_path_factory.mktemp("site")
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    source = tmp_path_factory.mktemp("source")
    for file in TOY.rglob("*"):
        if file.suffix in (".py", ".toml"):
            target = source / file.relative_to(TOY)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(file.read_bytes())
    subprocess.run([sys.executable, "-c", build, str(source)], cwd=source, check=True, capture_output=True)
    (wheel,) = source.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def nni_plugins(site: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(site)])}
    command = [sys.executable, "-W", "ignore", "-m", "nni_plugins.cli", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def settings(*assignments: str) -> list[str]:
    return [word for assignment in assignments for word in ("--set", assignment)]


@pytest.mark.parametrize(
    ("strategy", "space", "quick"),
    [
        ("toy_gradient", "toy_space", QUICK),
        ("bnas_d", "toy_space", QUICK),
        # not an entry point: a class that the command line names
        ("toy_nas.methods:ToyRandom", "toy_space", QUICK),
    ],
)
def test_from_search_to_a_checked_model(
    strategy: str, space: str, quick: tuple[str, ...], site: Path, tiny_data: str, tmp_path: Path
) -> None:
    words = ["--strategy", strategy, "--space", space, "--data", tiny_data, *settings(*quick)]
    done = nni_plugins(site, tmp_path, "search", "--out", "found", *words)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "PASSED" in done.stdout
    report = json.loads((tmp_path / "found/report.json").read_text())
    assert (report["settings"]["strategy"], report["settings"]["space"]) == (strategy, space)
    assert [epoch["epoch"] for epoch in report["search_history"]] == [0, 1]
    assert ("candidates_seen" in done.stdout) == ("Random" in strategy or "random" in strategy)
    again = nni_plugins(site, tmp_path, "export", "found", "--out", "again")
    assert again.returncode == 0 and "PASSED" in again.stdout, again.stderr[-2000:]
    genotype = (tmp_path / "found/genotype.json").read_text()
    assert (tmp_path / "again/genotype.json").read_text() == genotype


def test_published_settings_come_from_the_declarations(site: Path, tmp_path: Path) -> None:
    script = (
        "from nni_plugins.run.settings import Settings; s = Settings.of(strategy='toy_gradient', space='toy_space', "
        "data='cifar10'); print(s.search.batch_size, s.retrain.cutout, s.space_arguments['channels'])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(site)])}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["32", "0", "6"]


def test_a_name_that_is_taken_is_refused_with_the_package(site: Path, tmp_path: Path) -> None:
    (tmp_path / "rival-2.0.dist-info").mkdir()
    (tmp_path / "rival-2.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: rival\nVersion: 2.0\n")
    (tmp_path / "rival-2.0.dist-info/entry_points.txt").write_text(
        "[nni_plugins.methods]\ndarts = toy_nas.methods:RANDOM\nother = toy_nas.methods:RANDOM\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(site), str(tmp_path)])}
    command = [sys.executable, "-W", "ignore", "-m", "nni_plugins.cli", "search", "--strategy", "x", "--out", "o"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "offers a method 'toy_random', but that name is taken" in done.stderr and "\n" not in done.stderr.strip()
