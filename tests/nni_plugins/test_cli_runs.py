"""The commands that make something, run to success: search, retrain, export, draw, on tiny data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from nni_plugins.cli import main
from search_spaces import Genotype, published

SIZES = ["--set", "net.channels=4", "--set", "net.deep_cells=0", "--set", "net.enhancement_cells=1"]
TRAIN = ["--set", "retrain.epochs=1", "--set", "retrain.batch_size=16", "--set", "retrain.cutout=0"]
SEARCH = ["--set", "epochs=2", "--set", "batch_size=16", "--set", "warmup_epochs=1", "--set", "space.channels=4"]
FILES = {
    "cells.svg", "genotype.json", "history.svg", "model.onnx", "reference.npz", "report.json", "weights.safetensors",
}  # fmt: skip


@pytest.fixture(scope="module")
def searched(tiny_data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "searched"
    assert main(["search", "--data", tiny_data, "--out", str(folder), *SEARCH, *TRAIN, *SIZES]) == 0
    return folder


def test_search_leaves_a_whole_folder(searched: Path) -> None:
    assert {file.name for file in searched.iterdir()} == FILES
    report = json.loads((searched / "report.json").read_text())
    assert report["deployment"]["passed"] and len(report["search_history"]) == 2
    assert not list(searched.parent.glob(".*")), "no temporary folder is left"


def test_retrain_a_published_cell(tiny_data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "retrained"
    assert main(["retrain", "bnas_v2_clr_v1", "--data", tiny_data, "--out", str(out), *TRAIN, *SIZES]) == 0
    assert "PASSED" in capsys.readouterr().out
    assert {file.name for file in out.iterdir()} == FILES - {"history.svg"}
    assert Genotype.load(out / "genotype.json") == published("bnas_v2_clr_v1")


def test_retrain_the_cell_of_an_earlier_epoch(searched: Path, tiny_data: str, tmp_path: Path) -> None:
    out = tmp_path / "first"
    words = ["retrain", str(searched), "--epoch", "1", "--data", tiny_data, "--out", str(out), *TRAIN, *SIZES]
    assert main(words) == 0
    first = json.loads((searched / "report.json").read_text())["search_history"][0]["genotype"]
    assert Genotype.load(out / "genotype.json") == Genotype.from_json(first)


def test_export_makes_the_same_model_again(searched: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    assert main(["export", str(searched), "--out", str(out)]) == 0
    before, after = load_file(searched / "weights.safetensors"), load_file(out / "weights.safetensors")
    assert before.keys() == after.keys() and all((before[name] == after[name]).all() for name in before)
    reports = [json.loads((folder / "report.json").read_text()) for folder in (searched, out)]
    assert reports[0]["test_accuracy"] == reports[1]["test_accuracy"]
    assert reports[1]["deployment"]["passed"]


def test_export_takes_no_code_from_a_folder(searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "evilmod.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\ndef f(**_): return None\n")
    for what, name in (("data", "evilmod:f"), ("space", "torch.hub:load")):
        folder = tmp_path / what
        folder.mkdir()
        for file in searched.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        report = json.loads((folder / "report.json").read_text())
        report["settings"][what] = name
        (folder / "report.json").write_text(json.dumps(report))
        if what == "space":
            cells = json.loads((folder / "genotype.json").read_text())
            (folder / "genotype.json").write_text(json.dumps({**cells, "space": name}))
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            assert main(["export", str(folder), "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert f"pass --{what} {name} if you trust that code" in error and "\n" not in error.strip()
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out").exists()


def test_export_of_weights_that_are_not_the_networks(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "swapped"
    folder.mkdir()
    for file in searched.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "weights.safetensors")
    save_file({name: tensor * 0 for name, tensor in weights.items()}, folder / "weights.safetensors")
    assert main(["export", str(folder), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "weights.safetensors" in error and "\n" not in error.strip()
    assert not (tmp_path / "out").exists()


def test_draw_a_found_cell(searched: Path, tmp_path: Path) -> None:
    assert main(["draw", str(searched), "--out", str(tmp_path / "cells.svg")]) == 0
    assert (tmp_path / "cells.svg").read_text() == (searched / "cells.svg").read_text()
