"""The variants of the trained digits network of ``exported/example``, made for real."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from nni_plugins.cli import main
from nni_plugins.data import ImageData, load_data
from nni_plugins.run.variants import VariantSettings, calibration_images, make_variants, summary

EXAMPLE = Path(__file__).parents[3] / "exported" / "example"
QUICK = VariantSettings(calibration_images=64, runs=2, threads=(1,), only=("int8",))


@pytest.fixture(scope="module")
def digits() -> ImageData:
    data = load_data("digits")
    assert isinstance(data, ImageData)
    return data


def copy_of_example(to: Path, **data: Any) -> Path:
    """Return a copy whose report says no checksum of the data, or what is given."""
    shutil.copytree(EXAMPLE, to, ignore=shutil.ignore_patterns("variants"))
    report = json.loads((to / "report.json").read_text())
    report["data"].pop("sha256", None)
    report["data"] |= data
    (to / "report.json").write_text(json.dumps(report))
    return to


@pytest.fixture(scope="module")
def made(digits: ImageData, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = copy_of_example(tmp_path_factory.mktemp("variants") / "digits")
    settings = dataclasses.replace(QUICK, only=("int8", "float16", "pytorch"))
    return folder, make_variants(folder, digits, settings)


def test_every_variant_is_measured(made: tuple[Path, dict[str, Any]], digits: ImageData) -> None:
    folder, report = made
    variants = {each["name"]: each for each in report["variants"]}
    assert list(variants) == ["float32", "int8", "float16", "pytorch"]
    assert report == json.loads((folder / "variants" / "variants.json").read_text())
    recorded = json.loads((folder / "report.json").read_text())
    assert variants["float32"]["accuracy"] == pytest.approx(recorded["deployment"]["test_accuracy"], abs=0.3)
    for each in variants.values():
        assert each["not_run"] is None
        assert [(t["threads"], t["batch_size"], t["runs"]) for t in each["timings"]] == [(1, 1, 2), (1, 64, 10)]
        assert each["agreement"] >= 97
    assert variants["int8"]["accuracy"] >= variants["float32"]["accuracy"] - 1
    assert variants["pytorch"]["file"] is variants["pytorch"]["profile"] is None
    assert summary(report)["int8_accuracy"] == variants["int8"]["accuracy"]


def test_sizes_are_those_of_the_files(made: tuple[Path, dict[str, Any]]) -> None:
    folder, report = made
    whole = (folder / "model.onnx").stat().st_size
    for each in report["variants"][1:3]:
        size = (folder / "variants" / each["file"]).stat().st_size
        assert each["file_bytes"] == size
        assert each["share_of_float32"] == size / whole
    assert report["variants"][1]["share_of_float32"] <= 0.35


def test_the_int8_model_computes_in_integers_and_takes_any_batch(
    made: tuple[Path, dict[str, Any]], digits: ImageData
) -> None:
    folder, report = made
    file = folder / "variants" / "model.int8.onnx"
    onnx.checker.check_model(onnx.load(file), full_check=True)
    quantised = next(each for each in report["variants"] if each["name"] == "int8")
    nodes = {each["operator"]: each["nodes"] for each in quantised["profile"]["operators"]}
    plain = [node.op_type for node in onnx.load(folder / "model.onnx").graph.node]
    assert nodes["QLinearConv"] == plain.count("Conv")
    assert "Conv" not in nodes
    assert len(quantised["lossy_layers"]) == 3
    names = {node.name for node in onnx.load(folder / "model.onnx").graph.node}
    ratios = [each["noise_ratio_db"] for each in quantised["lossy_layers"]]
    assert ratios == sorted(ratios)
    assert any(each["layer"] in names for each in quantised["lossy_layers"])
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    images = calibration_images(digits, 5, 0)
    together = session.run(None, {"images": images})[0]
    single = np.concatenate([session.run(None, {"images": images[i : i + 1]})[0] for i in range(5)])
    np.testing.assert_allclose(together, single, atol=1e-5)


def test_calibration_sees_training_images_only(
    made: tuple[Path, dict[str, Any]], digits: ImageData, tmp_path: Path
) -> None:
    """Other test images, of values that digits do not have, leave the INT8 model as it is, byte for byte."""
    poisoned = dataclasses.replace(digits, x_test=255 - digits.x_test)
    folder = copy_of_example(tmp_path / "digits")
    report = make_variants(folder, poisoned, QUICK)
    assert report["variants"][0]["accuracy"] < 60
    clean = (made[0] / "variants" / "model.int8.onnx").read_bytes()
    assert (folder / "variants" / "model.int8.onnx").read_bytes() == clean


def test_calibration_images_are_chosen_by_the_seed(digits: ImageData) -> None:
    first, again, other = (calibration_images(digits, 40, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    rows = {image.tobytes() for image in calibration_images(digits, 10**6, 0)}
    assert len(calibration_images(digits, 10**6, 0)) == len(digits.y_train)
    assert {image.tobytes() for image in first} <= rows


def test_variants_are_replaced_only_by_force(
    made: tuple[Path, dict[str, Any]], digits: ImageData, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["variants", str(made[0])]) == 2
    assert "exists already" in (error := capsys.readouterr().err) or "complete result" in error
    before = (made[0] / "variants" / "variants.json").read_bytes()
    with pytest.raises(FileExistsError, match="--force"):
        make_variants(made[0], digits, QUICK)
    assert (made[0] / "variants" / "variants.json").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--provider", "TeapotExecutionProvider"], "onnxruntime here has no TeapotExecutionProvider; choose one of"),
        (["--calibration-images", "0"], "INT8 needs training images to calibrate with"),
        (["--calibration", "guess"], "Calibration is one of minmax, entropy, percentile, got 'guess'"),
        (["--only", "int4"], "Unknown variant 'int4'; choose from float32, int8"),
        (["--runs", "0"], "--runs must be at least 1, got 0"),
        (["--threads", "0"], "--threads must be at least 1, got 0"),
        (["--data", "fashion"], "fashion"),
    ],
)
def test_wrong_options_are_one_sentence(
    options: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_of_example(tmp_path / "digits")
    assert main(["variants", str(folder), *options]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.splitlines()) == 1
    assert not (folder / "variants").exists()


@pytest.mark.parametrize("name", ["model.onnx", "reference.npz", "report.json", "weights.safetensors"])
def test_a_folder_that_lacks_a_file_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy_of_example(tmp_path / "digits")
    (folder / name).unlink()
    assert main(["variants", str(folder)]) == 2
    assert f"{folder} has no {name}; give a folder" in capsys.readouterr().err


def test_a_changed_model_or_a_damaged_reference_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy_of_example(tmp_path / "digits")
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\0")
    assert main(["variants", str(folder)]) == 2
    assert "model.onnx is not the file that was exported" in capsys.readouterr().err
    (folder / "reference.npz").write_bytes(b"nothing")
    assert main(["variants", str(folder)]) == 2
    assert "reference.npz is damaged" in capsys.readouterr().err


def test_another_data_set_is_refused(digits: ImageData, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "colour.npz"
    images, labels = np.zeros((20, 16, 16, 3), np.uint8), np.arange(20) % 10
    np.savez(file, x_train=images, y_train=labels, x_test=images, y_test=labels)
    folder = copy_of_example(tmp_path / "digits")
    assert main(["variants", str(folder), "--data", f"npz:{file}"]) == 2
    assert "was trained on digits, whose images are not those of npz:" in capsys.readouterr().err
    shuffled = dataclasses.replace(digits, x_train=digits.x_train[torch.randperm(len(digits.x_train))])
    other = copy_of_example(tmp_path / "recorded", sha256=digits.fingerprint())
    with pytest.raises(ValueError, match="pass with --data the set that it was trained on"):
        make_variants(other, shuffled, QUICK)
