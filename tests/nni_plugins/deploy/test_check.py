"""The deployment check on a small model built by hand, with logits that PyTorch's own operators give."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper

from nni_plugins.deploy.check import BATCH_SIZES, MODEL_FILE, REFERENCE_FILE, Reference, check_deployment, main

ROOT = Path(__file__).parents[3]
CLASSES, CHANNELS, SIZE, WIDTH = 5, 3, 8, 6


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes = {"kernel": (WIDTH, CHANNELS, 3, 3), "matrix": (CLASSES, WIDTH), "bias": (CLASSES,)}
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def reference(weights: dict[str, np.ndarray]) -> Reference:
    images = np.random.default_rng(1).normal(size=(70, CHANNELS, SIZE, SIZE)).astype(np.float32)
    kernel, matrix, bias = (torch.from_numpy(weights[name]) for name in ("kernel", "matrix", "bias"))
    hidden = F.relu(F.conv2d(torch.from_numpy(images), kernel, padding=1)).mean((2, 3))
    logits = F.linear(hidden, matrix, bias).numpy()
    # The first 7 of 70 are labelled wrongly: 90 % accuracy.
    labels = logits.argmax(1)
    labels[:7] = (labels[:7] + 1) % CLASSES
    return Reference(images, labels, logits, "", 90.0)


def build(weights: dict[str, np.ndarray], *, batch: int | str = "batch", channels: int = CHANNELS) -> onnx.ModelProto:
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["images", "kernel"], ["convolved"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["convolved"], ["rectified"]),
            helper.make_node("GlobalAveragePool", ["rectified"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("Gemm", ["flat", "matrix", "bias"], ["logits"], transB=1),
        ],
        "small",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, channels, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, len(weights["bias"])])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def write(folder: Path, model: onnx.ModelProto, reference: Reference) -> Path:
    """An intact export of ``model``: its own checksum is recorded, whatever its weights."""
    content = model.SerializeToString()
    (folder / MODEL_FILE).write_bytes(content)
    reference._replace(sha256=hashlib.sha256(content).hexdigest()).save(folder / REFERENCE_FILE)
    return folder


@pytest.fixture
def folder(tmp_path: Path, weights: dict[str, np.ndarray], reference: Reference) -> Path:
    return write(tmp_path, build(weights), reference)


def changed(weights: dict[str, np.ndarray], name: str, index: tuple[int, ...], value: float) -> dict[str, np.ndarray]:
    array = weights[name].copy()
    array[index] = value
    return {**weights, name: array}


def only_failure(folder: Path) -> str:
    report = check_deployment(folder, latency_runs=1)
    assert not report.passed
    assert len(report.failures) == 1
    return report.failures[0]


def test_intact_export_passes_and_is_measured(folder: Path) -> None:
    report = check_deployment(folder, latency_runs=30)
    assert report.passed
    assert report.failures == ()
    assert [(parity.batch_size, parity.images) for parity in report.parity] == [(1, 64), (3, 63), (64, 64)]
    assert all(parity.top1_equal and parity.max_rel_difference < 1e-5 for parity in report.parity)
    assert report.accuracy == pytest.approx(90)
    assert report.reference_images == 70
    assert report.latency is not None
    assert 0 < report.latency.p50_ms <= report.latency.p90_ms <= report.latency.p99_ms
    assert (report.latency.batch_size, report.latency.runs, report.latency.threads) == (1, 30, 1)
    assert report.latency.provider == "CPUExecutionProvider"
    assert report.file_bytes == (folder / MODEL_FILE).stat().st_size
    assert report.operators == {"Conv": 1, "Relu": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1}
    assert report.opset == 18


def test_report_is_json(folder: Path) -> None:
    values = json.loads(json.dumps(check_deployment(folder, latency_runs=1).to_dict(), allow_nan=False))
    assert values["passed"] is True
    assert values["parity"][2]["batch_size"] == 64
    assert values["onnxruntime_version"]


def test_fewer_images_than_a_batch_are_repeated(
    tmp_path: Path, weights: dict[str, np.ndarray], reference: Reference
) -> None:
    few = Reference(reference.images[:5], reference.labels[:5], reference.logits[:5], "", 0.0)
    report = check_deployment(write(tmp_path, build(weights), few), latency_runs=1)
    assert report.passed
    assert report.parity[-1].images == 64
    assert report.reference_images == 5


def test_smallest_change_of_one_weight_fails_by_the_checksum(folder: Path, weights: dict[str, np.ndarray]) -> None:
    value = np.nextafter(weights["kernel"][2, 1, 0, 0], np.float32(np.inf))
    model = build(changed(weights, "kernel", (2, 1, 0, 0), value))
    (folder / MODEL_FILE).write_bytes(model.SerializeToString())
    assert "not the file that was exported: its SHA-256" in only_failure(folder)


@pytest.mark.parametrize(("name", "index"), [("kernel", (2, 1, 0, 0)), ("matrix", (3, 4)), ("bias", (0,))])
def test_one_changed_weight_fails_by_parity_even_with_its_own_checksum(
    tmp_path: Path, weights: dict[str, np.ndarray], reference: Reference, name: str, index: tuple[int, ...]
) -> None:
    model = build(changed(weights, name, index, weights[name][index] + 0.05))
    report = check_deployment(write(tmp_path, model, reference), latency_runs=1)
    for batch_size in BATCH_SIZES:
        assert any(f"At batch {batch_size} the logits differ" in failure for failure in report.failures)


def test_tolerance_is_relative_to_the_largest_logit(
    tmp_path: Path, weights: dict[str, np.ndarray], reference: Reference
) -> None:
    scale = float(np.abs(reference.logits).max())
    write(tmp_path, build(changed(weights, "bias", (0,), weights["bias"][0] + 0.01 * scale)), reference)
    parity = check_deployment(tmp_path, tolerance=0.02, latency_runs=1).parity
    assert parity[0].max_abs_difference == pytest.approx(0.01 * scale, rel=1e-3)
    assert parity[0].max_rel_difference == pytest.approx(0.01, rel=1e-3)
    for tolerance, agrees in ((0.0101, True), (0.0099, False)):
        failures = check_deployment(tmp_path, tolerance=tolerance, latency_runs=1).failures
        assert any("logits differ" in failure for failure in failures) is not agrees


def test_other_top1_fails_where_the_logits_are_within_tolerance(
    tmp_path: Path, weights: dict[str, np.ndarray], reference: Reference
) -> None:
    logits = reference.logits.copy()
    first, second = np.argsort(logits[66])[:-3:-1]
    logits[66, [first, second]] = logits[66, [second, first]]
    write(tmp_path, build(weights), reference._replace(logits=logits, accuracy=100 * 62 / 70))
    report = check_deployment(tmp_path, tolerance=10, latency_runs=1)
    assert report.failures == ("The predicted class differs from PyTorch's for 1 of the 70 reference images.",)


def test_model_that_gives_nan_fails(tmp_path: Path, weights: dict[str, np.ndarray], reference: Reference) -> None:
    write(tmp_path, build(changed(weights, "bias", (1,), np.nan)), reference)
    report = check_deployment(tmp_path, latency_runs=1)
    assert any("At batch 1 the logits differ" in failure for failure in report.failures)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["parity"][0]["max_abs_difference"] is None


@pytest.mark.parametrize("name", [MODEL_FILE, REFERENCE_FILE])
def test_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert only_failure(folder).startswith(f"{folder / name} is missing;")


def test_missing_folder_is_named(tmp_path: Path) -> None:
    assert f"{tmp_path / 'none' / MODEL_FILE} is missing" in only_failure(tmp_path / "none")


@pytest.mark.parametrize("content", [b"", b"not a model", None], ids=["empty", "garbage", "truncated"])
def test_damaged_model(folder: Path, content: bytes | None) -> None:
    path = folder / MODEL_FILE
    path.write_bytes(path.read_bytes()[:300] if content is None else content)
    report = check_deployment(folder, latency_runs=1)
    assert "SHA-256" in report.failures[0]
    assert "damaged" in report.failures[1]
    assert report.parity == ()


@pytest.mark.parametrize("content", [b"", b"not an archive", None], ids=["empty", "garbage", "truncated"])
def test_damaged_reference(folder: Path, content: bytes | None) -> None:
    path = folder / REFERENCE_FILE
    path.write_bytes(path.read_bytes()[:2000] if content is None else content)
    assert f"{path} is damaged" in only_failure(folder)


@pytest.mark.parametrize("name", [MODEL_FILE, REFERENCE_FILE])
def test_a_flipped_byte_anywhere_is_noticed_without_an_exception(folder: Path, name: str) -> None:
    path = folder / name
    intact = path.read_bytes()
    missed = []
    for position in np.random.default_rng(2).integers(len(intact), size=40):
        damaged = bytearray(intact)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        if check_deployment(folder, latency_runs=1).passed:
            missed.append(position)
    # A zip archive has fields that nobody reads (times, attributes); a model has none.
    assert len(missed) <= (0 if name == MODEL_FILE else 2)


def test_reference_without_a_key(folder: Path, reference: Reference) -> None:
    np.savez(folder / REFERENCE_FILE, images=reference.images, sha256="")
    assert "reference.npz lacks labels, logits, accuracy;" in only_failure(folder)


def test_pickled_reference_is_refused_unread(folder: Path, reference: Reference) -> None:
    np.savez(folder / REFERENCE_FILE, **reference._replace(labels=np.array([print], object))._asdict())
    assert "is damaged (Object arrays cannot be loaded" in only_failure(folder)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("images", np.zeros((70, 3, 8), np.float32), "must hold float32 images (N, C, H, W)"),
        ("images", np.zeros((70, 3, 8, 8), np.uint8), "got images uint8 (70, 3, 8, 8)"),
        ("labels", np.zeros(69, np.int64), "labels (69,)"),
        ("logits", np.zeros((69, 5), np.float32), "logits float32 (69, 5)"),
        ("logits", np.full((70, 5), np.nan, np.float32), "not finite"),
        (
            "labels",
            np.full(70, 100),
            "from 0 to 4 as labels, one of 5 classes each, got int64 from 100 to 100",
        ),
        ("labels", np.full(70, -1), "from -1 to -1"),
        ("labels", np.zeros(70, np.float32), "got float32 from 0.0 to 0.0"),
        ("accuracy", np.zeros(2), "must hold the accuracy as one number, got float64 (2,)"),
    ],
)
def test_reference_that_does_not_fit_itself(
    folder: Path, reference: Reference, field: str, value: np.ndarray, sentence: str
) -> None:
    changed: dict[str, Any] = {field: value}
    reference._replace(**changed).save(folder / REFERENCE_FILE)
    assert sentence in only_failure(folder)


def test_an_accuracy_that_is_no_number_fails(folder: Path, reference: Reference) -> None:
    write(folder, onnx.load(folder / MODEL_FILE), reference._replace(accuracy=np.nan))
    assert only_failure(folder).startswith("PyTorch classified nan % of the reference images as labelled when they ")


def test_labels_that_are_not_the_exported_ones_change_the_accuracy(folder: Path, reference: Reference) -> None:
    shifted = reference._replace(labels=(reference.labels + 1) % CLASSES)
    write(folder, onnx.load(folder / MODEL_FILE), shifted)
    found = 100 * float((shifted.labels == reference.logits.argmax(1)).mean())
    assert only_failure(folder) == (
        "PyTorch classified 90.00 % of the reference images as labelled when they were exported, and "
        f"{found:.2f} % by the labels that reference.npz has now."
    )


def test_fixed_batch_size_is_refused(tmp_path: Path, weights: dict[str, np.ndarray], reference: Reference) -> None:
    write(tmp_path, build(weights, batch=1), reference)
    assert "(batch, 3, 8, 8) with a free batch size, it takes (1, 3, 8, 8)" in only_failure(tmp_path)


def test_other_image_shape_is_refused(tmp_path: Path, weights: dict[str, np.ndarray], reference: Reference) -> None:
    write(tmp_path, build(weights), reference._replace(images=np.zeros((70, 3, 9, 9), np.float32)))
    assert "must take images of shape (batch, 3, 9, 9)" in only_failure(tmp_path)


def test_other_number_of_classes_is_refused(
    tmp_path: Path, weights: dict[str, np.ndarray], reference: Reference
) -> None:
    write(tmp_path, build(weights), reference._replace(logits=reference.logits[:, :4]))
    assert "logits of shape (64, 5) for 64 images, expected (64, 4)" in only_failure(tmp_path)


def test_model_that_breaks_the_standard_is_refused(
    tmp_path: Path, weights: dict[str, np.ndarray], reference: Reference
) -> None:
    model = build(weights)
    model.graph.node[1].op_type = "Rectify"
    write(tmp_path, model, reference)
    assert only_failure(tmp_path).startswith("model.onnx does not satisfy onnx.checker: No Op registered for Rectify")


def test_weights_in_another_file_are_refused(
    tmp_path: Path, weights: dict[str, np.ndarray], reference: Reference
) -> None:
    model = build(weights)
    write(tmp_path, model, reference)
    onnx.save(model, tmp_path / MODEL_FILE, save_as_external_data=True, location="side", size_threshold=0)
    failures = check_deployment(tmp_path, latency_runs=1).failures
    assert "model.onnx keeps kernel in another file; export it with all weights inside." in failures


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"tolerance": 0}, "tolerance must be a positive number, got 0"),
        ({"tolerance": float("nan")}, "tolerance must be a positive number"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"latency_runs": 0}, "latency_runs must be at least 1, got 0"),
    ],
)
def test_wrong_arguments(folder: Path, arguments: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        check_deployment(folder, **arguments)  # type: ignore[arg-type]


def test_exit_status_and_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--latency-runs", "2"]) == 0
    output = capsys.readouterr().out
    assert "PASSED" in output
    assert "parity at batch 64" in output
    (folder / REFERENCE_FILE).unlink()
    assert main([str(folder)]) == 1
    output = capsys.readouterr().out
    assert "FAILED" in output
    assert "is missing" in output
    assert main([str(folder), "--threads", "0"]) == 2
    assert "threads must be at least 1" in capsys.readouterr().err


def test_json_output(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--latency-runs", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True


def test_check_needs_neither_torch_nor_nni(folder: Path) -> None:
    script = """
import sys

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "torchvision", "nni", "pytorch_lightning"}:
            raise AssertionError(f"{name} was imported")

sys.meta_path.insert(0, Forbidden())
from nni_plugins.deploy.check import main
status = main(sys.argv[1:])
assert not {"torch", "nni"} & set(sys.modules)
sys.exit(status)
"""

    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", script, str(folder), "--latency-runs", "2"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)

    passed = run()
    assert passed.returncode == 0, passed.stderr
    model = onnx.load(folder / MODEL_FILE)
    bias = numpy_helper.to_array(model.graph.initializer[2]).copy()
    bias[0] += 1
    model.graph.initializer[2].CopyFrom(numpy_helper.from_array(bias, "bias"))
    onnx.save(model, folder / MODEL_FILE)
    failed = run()
    assert failed.returncode == 1
    assert "not the file that was exported" in failed.stdout
    assert failed.stderr == ""
