"""The commands that make something, run to success: search, retrain, export, draw, on tiny data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from nni_plugins.cli import main
from nni_plugins.run.pipeline import RunResult
from search_spaces import Genotype, published

SIZES = ["--set", "net.channels=4", "--set", "net.deep_cells=0", "--set", "net.enhancement_cells=1"]
TRAIN = ["--set", "retrain.epochs=1", "--set", "retrain.batch_size=16", "--set", "retrain.cutout=0"]
SEARCH = ["--set", "epochs=2", "--set", "batch_size=16", "--set", "warmup_epochs=1", "--set", "space.channels=4"]
FILES = {
    "cells.svg", "genotype.json", "history.svg", "model.onnx", "reference.npz", "report.html", "report.json",
    "standalone.npz", "standalone.onnx", "weights.safetensors",
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
    final = RunResult(searched, Genotype.load(searched / "genotype.json"), report).summary()
    for name in ("decided", "alpha_gap", "changed_since_first", "epochs_unchanged"):
        assert final[name] == report["search"][name] == report["search_history"][-1][name]
    assert not [path for path in searched.parent.glob(".*") if path.is_dir()], "no temporary folder is left"


def test_retrain_a_published_cell(tiny_data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "retrained"
    assert main(["retrain", "bnas_v2_clr_v1", "--data", tiny_data, "--out", str(out), *TRAIN, *SIZES]) == 0
    assert "PASSED" in capsys.readouterr().out
    assert {file.name for file in out.iterdir()} == FILES - {"history.svg"}
    assert Genotype.load(out / "genotype.json") == published("bnas_v2_clr_v1")


def test_variants_follow_a_retraining_and_go_with_its_model(tiny_data: str, tmp_path: Path) -> None:
    out = tmp_path / "retrained"
    command = ["retrain", "bnas_v2_clr_v1", "--data", tiny_data, "--out", str(out), *TRAIN, *SIZES]
    assert main([*command, "--variants"]) == 0
    names = [each["name"] for each in json.loads((out / "variants" / "variants.json").read_text())["variants"]]
    assert names == ["float32", "int8", "float16", "pytorch"]
    assert main([*command, "--force"]) == 0
    assert {file.name for file in out.iterdir()} == FILES - {"history.svg"}


def test_retrain_the_cell_of_an_earlier_epoch(searched: Path, tiny_data: str, tmp_path: Path) -> None:
    out = tmp_path / "first"
    assert main(["retrain", str(searched), "--epoch", "1", "--out", str(out), *TRAIN, "--set", "net.channels=8"]) == 0
    before, after = (json.loads((folder / "report.json").read_text()) for folder in (searched, out))
    assert Genotype.load(out / "genotype.json") == Genotype.from_json(before["search_history"][0]["genotype"])
    assert after["settings"]["data"] == tiny_data and after["data"]["sha256"] == before["data"]["sha256"]
    assert after["settings"]["net_arguments"] == {**before["settings"]["net_arguments"], "channels": 8}
    assert after["settings"]["space_arguments"] == before["settings"]["space_arguments"]


def test_export_makes_the_same_model_again(searched: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    assert main(["export", str(searched), "--out", str(out)]) == 0
    assert {file.name for file in out.iterdir()} == FILES
    before, after = load_file(searched / "weights.safetensors"), load_file(out / "weights.safetensors")
    assert before.keys() == after.keys() and all((before[name] == after[name]).all() for name in before)
    reports = [json.loads((folder / "report.json").read_text()) for folder in (searched, out)]
    assert reports[0]["test_accuracy"] == reports[1]["test_accuracy"]
    assert reports[1]["deployment"]["passed"]


def test_export_with_an_operator_set_a_size_and_class_names(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "names.txt").write_text("dark\nbright, very\n")
    words = ["--opset", "18", "--size", "20", "--class-names", str(tmp_path / "names.txt")]
    assert main(["export", str(searched), "--out", str(tmp_path / "out"), *words]) == 0
    model, standalone = (onnx.load(tmp_path / "out" / name) for name in ("model.onnx", "standalone.onnx"))
    assert model.opset_import[0].version == standalone.opset_import[0].version == 18
    assert [each.dim_value for each in model.graph.input[0].type.tensor_type.shape.dim[1:]] == [1, 20, 20]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["data"]["image_size"] == 8 and report["deployment"]["image_size"] == 20
    assert report["data"]["class_names"] == ["dark", "bright, very"]
    assert report["deployment"]["standalone"]["top1_equal"] and report["deployment"]["passed"]
    Image.new("L", (50, 30), 230).save(tmp_path / "white.png")
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "out"), str(tmp_path / "white.png"), "--json"]) == 0
    assert {each["name"] for each in json.loads(capsys.readouterr().out)[0]["classes"]} == {"dark", "bright, very"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--opset", "17"], "opset must be from 18 to"),
        (["--opset", "99"], "got 99; the default is 20."),
        (
            ["--size", "7"],
            "Images of 7x7 are too small for the reductions of the network; choose a size of at least",
        ),
        (["--class-names", "a"], "one class name for each of the 2 classes, but there are 1: a."),
        (["--class-names", "a,a"], "class names must differ from each other"),
        (["--class-names", "{searched}/reference.npz"], "is not a text file; --class-names takes one with a name"),
    ],
)
def test_export_with_what_is_not_possible(
    words: list[str], sentence: str, searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.format(searched=searched) for word in words]
    assert main(["export", str(searched), "--out", str(tmp_path / "out"), *words]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("nni-plugins: ") and sentence in error and "\n" not in error
    assert list(tmp_path.iterdir()) == []


def test_a_finished_search_is_used_again_when_the_retraining_is_set_otherwise(
    tiny_data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "result"
    words = ["search", "--data", tiny_data, "--out", str(out), *SEARCH, *TRAIN, *SIZES]
    assert main([*words, "--set", "retrain.lr=1e30", "--set", "retrain.gradient_clip_val=none"]) == 2
    output = capsys.readouterr()
    assert "search epoch 2/2" in output.out and "The loss became" in output.err
    found = Genotype.load(f"{out}.run/genotype.json")
    assert main([*words, "--set", "retrain.lr=0.01"]) == 0
    assert "search epoch" not in capsys.readouterr().out
    assert Genotype.load(out / "genotype.json") == found
    report = json.loads((out / "report.json").read_text())
    assert len(report["search_history"]) == 2 and report["settings"]["retrain"]["lr"] == 0.01
    assert not list(Path(f"{out}.run").glob("**/*.ckpt"))
    assert main(words) == 2
    assert f"{out} holds a complete result already" in capsys.readouterr().err


def copied(folder: Path, to: Path, **files: str) -> Path:
    """A copy of a result in which the report's, or another JSON file's, text has been replaced."""
    shutil.copytree(folder, to)
    for name, text in files.items():
        (to / f"{name}.json").write_text(text)
    return to


def test_export_measures_the_accuracy_anew(
    searched: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    report = json.loads((searched / "report.json").read_text())
    folder = copied(searched, tmp_path / "copy", report=json.dumps({**report, "test_accuracy": 12.345}))
    assert main(["export", str(folder), "--out", str(tmp_path / "out")]) == 0
    accuracy = report["test_accuracy"]
    assert f"The test accuracy is {accuracy:.2f} % now, and 12.35 % in the report." in caplog.text
    assert f"test accuracy {accuracy:.2f} %" in capsys.readouterr().out
    exported = json.loads((tmp_path / "out" / "report.json").read_text())
    assert exported["test_accuracy"] == pytest.approx(accuracy, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("report", "{}", "is not the report of a run"),
        ("report", "[]", "is not the report of a run"),
        ("report", '{"settings": {}, "search_history": []}', "weights.safetensors is not the file that was exported"),
        ("report", "{", "report.json is damaged"),
        ("genotype", published("darts_v2").to_json(), "genotype.json is a cell of the darts space, but report"),
        ("genotype", published("bnas_v2_clr_v1").to_json(), "are not those of the network"),
        ("genotype", "{}", "genotype.json"),
    ],
)
def test_export_of_a_damaged_folder(
    name: str, text: str, expected: str, searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(searched, tmp_path / "copy", **{name: text})
    assert main(["export", str(folder), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("nni-plugins: ") and expected in error and "\n" not in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", ["strategy", "data", "search", "choices", "net_arguments"])
def test_export_of_settings_without_a_part(
    key: str, searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = json.loads((searched / "report.json").read_text())
    del report["settings"][key]
    folder = copied(searched, tmp_path / "copy", report=json.dumps(report))
    assert main(["export", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert key in capsys.readouterr().err


def test_export_on_other_data(searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(searched), "--data", "digits", "--out", str(tmp_path / "out")]) == 2
    assert "pass the --data that it was trained on" in capsys.readouterr().err


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
