"""The stand-alone graph: a small net built by hand, and the pictures' way through torchvision beside it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from nni_plugins.cli import main
from nni_plugins.data.preparation import Preparation
from nni_plugins.deploy.result_folder import STANDALONE_FILE, STANDALONE_REFERENCE_FILE
from nni_plugins.deploy.standalone import StandaloneReference, build_standalone, check_standalone

ROOT = Path(__file__).parents[3]
SIZE = 12
NAMES = ("ant", "bee", "cat")
SIDES = [(12, 12), (13, 17), (25, 12), (90, 31), (31, 90), (7, 9), (60, 20), (200, 133), (24, 12), (16, 15)]
"""Of pictures (height, width): as they are, reduced, enlarged, and more than twice as high as wide."""


def preparation(channels: int = 3, shorter_side: int = SIZE) -> Preparation:
    return Preparation(SIZE, shorter_side, (0.5, 0.4, 0.3)[:channels], (0.2, 0.25, 0.3)[:channels])


def small_model(channels: int = 3) -> onnx.ModelProto:
    """Means over the image, and a matrix that makes them logits."""
    matrix = np.random.default_rng(0).normal(size=(channels, len(NAMES))).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("MatMul", ["flat", "matrix"], ["logits"]),
        ],
        "small",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", channels, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(NAMES)])],
        [numpy_helper.from_array(matrix, "matrix")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def pictures(channels: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, (*sides, channels), dtype=np.uint8) for sides in SIDES]


def expected(picture: np.ndarray, channels: int = 3) -> np.ndarray:
    matrix = torch.from_numpy(numpy_helper.to_array(small_model(channels).graph.initializer[0]).copy())
    return (preparation(channels)(picture).mean((1, 2)) @ matrix).softmax(0).numpy()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An intact result folder as far as the stand-alone graph is concerned."""
    write(tmp_path, build_standalone(small_model(), preparation(), NAMES, {"data": "small"}))
    return tmp_path


def write(folder: Path, standalone: onnx.ModelProto) -> None:
    content = standalone.SerializeToString()
    (folder / STANDALONE_FILE).write_bytes(content)
    probabilities = np.stack([expected(picture) for picture in pictures()])
    sha256 = hashlib.sha256(content).hexdigest()
    StandaloneReference(tuple(pictures()), probabilities, sha256).save(folder / STANDALONE_REFERENCE_FILE)


@pytest.mark.parametrize("shorter_side", [SIZE, SIZE * 8 // 7])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_prepared_as_by_pillow_and_torchvision_to_the_last_bit(channels: int, shorter_side: int) -> None:
    prepare = preparation(channels, shorter_side)
    standalone = build_standalone(small_model(channels), prepare, NAMES, {})
    standalone.graph.output.append(small_model(channels).graph.input[0])
    session = onnxruntime.InferenceSession(standalone.SerializeToString(), providers=["CPUExecutionProvider"])
    for picture in pictures(channels):
        images, probabilities = session.run(["images", "probabilities"], {"pictures": picture[None]})
        np.testing.assert_array_equal(images[0], prepare(picture).numpy())
        assert probabilities.sum() == pytest.approx(1)


def test_pictures_of_one_size_are_a_batch() -> None:
    standalone = build_standalone(small_model(), preparation(), NAMES, {})
    session = onnxruntime.InferenceSession(standalone.SerializeToString(), providers=["CPUExecutionProvider"])
    batch = np.random.default_rng(2).integers(0, 256, (5, 20, 30, 3), dtype=np.uint8)
    found = session.run(None, {"pictures": batch})[0]
    np.testing.assert_allclose(found, [expected(picture) for picture in batch], atol=1e-6)


def test_the_net_is_the_models_own_and_what_it_knows_is_in_the_file(folder: Path) -> None:
    model, standalone = small_model(), onnx.load(folder / STANDALONE_FILE)
    onnx.checker.check_model(standalone, full_check=True)
    assert [node for node in standalone.graph.node if not node.output[0].startswith("prepare/")][1:-1] == list(
        model.graph.node
    )
    weights = [each for each in standalone.graph.initializer if not each.name.startswith("prepare/")]
    assert weights == list(model.graph.initializer)
    known = {entry.key: json.loads(entry.value) for entry in standalone.metadata_props}
    assert known == {
        "class_names": list(NAMES), "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3], "image_size": SIZE,
        "shorter_side": SIZE, "data": "small",
    }  # fmt: skip


def test_the_check_of_an_intact_folder(folder: Path) -> None:
    parity, failures = check_standalone(folder, small_model(), threads=1)
    assert failures == [] and parity is not None
    assert parity.pictures == len(SIDES) and parity.top1_equal and parity.max_difference < 1e-5
    assert parity.file_bytes == (folder / STANDALONE_FILE).stat().st_size


def test_a_folder_from_before_there_were_stand_alone_graphs(tmp_path: Path) -> None:
    assert check_standalone(tmp_path, small_model(), threads=1) == (None, [])


@pytest.mark.parametrize("name", [STANDALONE_FILE, STANDALONE_REFERENCE_FILE])
def test_one_of_the_two_files_is_missing_or_damaged(name: str, folder: Path) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    assert name in " ".join(check_standalone(folder, small_model(), threads=1)[1])
    (folder / name).unlink()
    assert f"{folder / name} is missing" in check_standalone(folder, small_model(), threads=1)[1][0]


def test_a_changed_weight_or_normalisation_is_found(folder: Path) -> None:
    changed = onnx.load(folder / STANDALONE_FILE)
    weights = next(each for each in changed.graph.initializer if each.name == "matrix")
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(1.1), "matrix"))
    (folder / STANDALONE_FILE).write_bytes(changed.SerializeToString())
    failures = " ".join(check_standalone(folder, small_model(), threads=1)[1])
    assert "its SHA-256 starts with" in failures and "is not that of model.onnx" in failures
    assert "more than the tolerance of 0.001" in failures
    other = Preparation(SIZE, SIZE, (0.5, 0.4, 0.4), (0.2, 0.25, 0.3))
    write(folder, build_standalone(small_model(), other, NAMES, {}))
    (failure,) = check_standalone(folder, small_model(), threads=1)[1]
    assert "differ from the test pipeline's by up to" in failure


def predict(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = main(["predict", *words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_predict(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = []
    for number, picture in enumerate(pictures()):
        files.append(str(folder / f"{number}.png"))
        Image.fromarray(picture).save(files[-1])
    status, out, err = predict([str(folder), *files, "--json", "--top", "2"], capsys)
    assert (status, err) == (0, "")
    for found, file, picture in zip(json.loads(out), files, pictures(), strict=True):
        order = np.argsort(-expected(picture))[:2]
        assert found["image"] == file
        assert [(each["class"], each["name"]) for each in found["classes"]] == [(i, NAMES[i]) for i in order]
        np.testing.assert_allclose([c["probability"] for c in found["classes"]], expected(picture)[order], atol=1e-5)
    status, out, _ = predict([str(folder), files[0], "--top", "9"], capsys)
    assert status == 0 and out.startswith(f"{files[0]}: ") and all(name in out for name in NAMES)


def test_pictures_that_cannot_be_read_do_not_hinder_the_others(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, cut, text = folder / "good.png", folder / "cut.png", folder / "text.png"
    Image.fromarray(pictures()[3]).save(good)
    cut.write_bytes(good.read_bytes()[:200])
    text.write_text("no picture")
    missing = folder / "missing.png"
    status, out, err = predict([str(folder), *map(str, (cut, good, text, missing, good))], capsys)
    assert status == 1
    assert len(out.splitlines()) == 2 and all(line.startswith(f"{good}: ") for line in out.splitlines())
    for line, file in zip(err.splitlines(), (cut, text, missing), strict=True):
        assert line.startswith(f"nni-plugins: The picture {file} cannot be read (")
    assert "(No such file or directory)" in err
    status, out, _ = predict([str(folder), str(cut), str(good), "--json"], capsys)
    assert status == 1
    assert [list(each) for each in json.loads(out)] == [["image", "error"], ["image", "classes"]]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (
            [],
            "has no standalone.onnx; give a result folder, or make one with it of an older result: nni-plugins export",
        ),
        (["--top", "0"], "--top must be at least 1, got 0."),
        (["--threads", "-1"], "--threads must be at least 1, got -1."),
    ],
)
def test_predict_without_what_it_needs(
    more: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = predict([str(tmp_path), "picture.png", *more], capsys)
    assert status == 2 and out == "" and sentence in err and err.count("\n") == 1


def test_predict_of_another_model_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in (small_model().SerializeToString(), b"no model"):
        (tmp_path / STANDALONE_FILE).write_bytes(content)
        status, _, err = predict([str(tmp_path), "picture.png"], capsys)
        assert status == 2 and STANDALONE_FILE in err and err.count("\n") == 1


def test_predict_needs_neither_torch_nor_nni_nor_onnx(folder: Path) -> None:
    Image.fromarray(pictures()[3]).save(folder / "one.png")
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'torchvision', 'nni', 'onnx', 'pytorch_lightning']));"
        "from nni_plugins.cli import main; sys.exit(main(['predict', *sys.argv[1:]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(folder / "one.png")],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert any(name in done.stdout for name in NAMES)
