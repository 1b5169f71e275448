"""The export of small networks, for real: torch's exporter, onnxruntime, files on disk."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from nni_plugins.cli import main
from nni_plugins.data import ImageData
from nni_plugins.deploy import export
from nni_plugins.deploy.check import check_deployment
from nni_plugins.deploy.export import export_onnx, export_result, load_weights, measure_accuracy, refuse_too_small
from nni_plugins.report.complexity import total_stride
from nni_plugins.tools.atomic_files import FullDiskError
from search_spaces import Genotype, evaluation_net, published

ROOT = Path(__file__).parents[3]
FILES = {
    "genotype.json", "cells.svg", "weights.safetensors", "model.onnx", "reference.npz", "standalone.onnx",
    "standalone.npz", "report.json",
}  # fmt: skip
GENOTYPE = published("bnas_v2_clr_v1")


def small_net() -> nn.Sequential:
    """Convolution, batch norm with statistics of its own, dropout: what evaluation mode changes."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Dropout(0.5), nn.Linear(4, 3),
    )  # fmt: skip
    for _ in range(5):
        net(3 * torch.randn(16, 1, 8, 8) + 1)
    return net


def small_data(tests: int = 100) -> ImageData:
    generator = torch.Generator().manual_seed(1)

    def images(count: int) -> Tensor:
        return torch.randint(256, (count, 1, 8, 8), dtype=torch.uint8, generator=generator)

    def labels(count: int) -> Tensor:
        return torch.arange(count) % 3

    return ImageData("small", images(30), labels(30), images(tests), labels(tests), num_classes=3)


def run(path: Path, images: Tensor) -> np.ndarray:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(
        ["logits"], {"images": images.numpy()}
    )[0]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module, ImageData, dict]:
    folder, net, data = tmp_path_factory.mktemp("export") / "result", small_net(), small_data()
    given = {"seed": 7, "versions": {"nni_plugins": "x"}, "history": [{"epoch": 0, "loss": 1.5}]}
    return folder, net, data, export_result(folder, genotype=GENOTYPE, net=net, data=data, report=given)


def test_folder_is_complete_and_passes_the_check(exported: tuple[Path, nn.Module, ImageData, dict]) -> None:
    folder, _, _, report = exported
    assert {path.name for path in folder.iterdir()} == FILES
    assert check_deployment(folder, latency_runs=1).passed
    assert report["deployment"]["passed"] is True
    assert json.loads((folder / "report.json").read_text()) == report
    assert report["seed"] == 7
    assert report["history"] == [{"epoch": 0, "loss": 1.5}]
    assert report["versions"]["nni_plugins"] == "x"
    assert report["versions"]["torch"] == torch.__version__.split("+")[0]
    assert Genotype.load(folder / "genotype.json") == GENOTYPE
    assert (folder / "cells.svg").read_text().startswith("<svg")


def test_network_is_left_in_training_mode(exported: tuple[Path, nn.Module, ImageData, dict]) -> None:
    _, net, _, _ = exported
    assert all(module.training for module in net.modules())


def test_weights_are_the_networks(exported: tuple[Path, nn.Module, ImageData, dict]) -> None:
    folder, _, _, _ = exported
    other = small_net()
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    other.load_state_dict(safetensors.torch.load_file(folder / "weights.safetensors"))
    images = torch.randn(4, 1, 8, 8)
    assert torch.equal(other.eval()(images), small_net().eval()(images))


def test_weights_are_read_back_only_if_no_bit_has_changed(
    exported: tuple[Path, nn.Module, ImageData, dict], tmp_path: Path
) -> None:
    folder, net, _, report = exported
    weights = load_weights(folder, report)
    assert all(torch.equal(weights[name], tensor) for name, tensor in net.state_dict().items())
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-7] ^= 4
    (tmp_path / "weights.safetensors").write_bytes(content)
    for known in (report, {}):
        with pytest.raises(ValueError, match=f"^{tmp_path}/weights.safetensors is not the file that was exported"):
            load_weights(tmp_path, known)


def test_a_folder_with_other_weights_is_not_exported_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(ROOT / "exported" / "example", tmp_path / "example")
    assert main(["export", str(folder), "--out", str(tmp_path / "again")]) == 0
    assert "PASSED" in capsys.readouterr().out
    assert (tmp_path / "again" / "weights.safetensors").read_bytes() == (folder / "weights.safetensors").read_bytes()
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + bytes(4))
    assert main(["export", str(folder), "--out", str(tmp_path / "tampered")]) == 2
    printed = capsys.readouterr()
    assert "PASSED" not in printed.out
    assert f"{weights} is not the file that was exported" in printed.err
    assert not (tmp_path / "tampered").exists()


def test_a_number_that_is_not_finite_is_null_in_the_report(tmp_path: Path) -> None:
    given = {"search_history": [{"epoch": 0, "hessian": math.nan, "best_loss": math.inf}]}
    export_result(tmp_path / "result", genotype=GENOTYPE, net=small_net(), data=small_data(), report=given)
    report = json.loads((tmp_path / "result" / "report.json").read_text(), parse_constant=pytest.fail)
    assert report["search_history"] == [{"epoch": 0, "hessian": None, "best_loss": None}]


def test_reference_is_what_pytorch_gives_for_real_test_images(
    exported: tuple[Path, nn.Module, ImageData, dict],
) -> None:
    folder, _, data, _ = exported
    reference = np.load(folder / "reference.npz")
    normalised = (data.x_test / 255 - data.mean[0]) / data.std[0]
    assert len(reference["images"]) == 100
    np.testing.assert_allclose(reference["images"], normalised.numpy(), rtol=1e-5, atol=1e-6)
    assert (reference["labels"] == data.y_test.numpy()).all()
    with torch.no_grad():
        logits = small_net().eval()(torch.from_numpy(reference["images"]))
    np.testing.assert_allclose(reference["logits"], logits.numpy(), rtol=1e-5, atol=1e-6)


def test_test_accuracy_is_that_of_the_whole_test_set(tmp_path: Path) -> None:
    data, net = small_data(tests=400), small_net()
    report = export_result(tmp_path / "result", genotype=GENOTYPE, net=net, data=data, report={})
    with torch.no_grad():
        predicted = net.eval()((data.x_test / 255 - data.mean[0]) / data.std[0]).argmax(1)
    expected = 100 * (predicted == data.y_test).double().mean().item()
    assert report["deployment"]["test_accuracy"] == pytest.approx(expected, abs=1e-9)
    assert measure_accuracy(net, data) == pytest.approx(expected, abs=1e-9)
    assert report["deployment"]["test_images"] == 400
    assert report["deployment"]["reference_images"] == 256
    parity = report["deployment"]["test_parity"]
    assert (parity["images"], parity["top1_equal"]) == (400, True) and 0 <= parity["max_rel_difference"] < 1e-5


def test_one_file_without_paths_of_this_machine(exported: tuple[Path, nn.Module, ImageData, dict]) -> None:
    folder, _, _, _ = exported
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    assert all(tensor.data_location != onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer)
    for path in folder.iterdir():
        content = path.read_bytes()
        assert str(ROOT).encode() not in content
        assert b"site-packages" not in content


@pytest.mark.parametrize("example", [1, 5])
def test_onnx_takes_any_batch(tmp_path: Path, example: int) -> None:
    net, path = small_net(), tmp_path / "model.onnx"
    export_onnx(net, torch.randn(example, 1, 8, 8), path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]
    model = onnx.load(path)
    assert [value.name for value in model.graph.input] == ["images"]
    assert [value.name for value in model.graph.output] == ["logits"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    net.eval()
    for batch in (1, 3, 64):
        images = torch.randn(batch, 1, 8, 8)
        with torch.no_grad():
            np.testing.assert_allclose(run(path, images), net(images).numpy(), rtol=1e-4, atol=1e-5)


def test_modes_of_the_network_are_kept_and_nothing_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    net = small_net()
    net[1].eval()
    before = [module.training for module in net.modules()]
    export_onnx(net, torch.randn(2, 1, 8, 8), tmp_path / "model.onnx")
    assert [module.training for module in net.modules()] == before
    assert capfd.readouterr() == ("", "")


def test_found_cell_in_a_small_evaluation_net(tmp_path: Path) -> None:
    net = evaluation_net(GENOTYPE, channels=4, in_channels=1, num_classes=3, deep_cells=0, enhancement_cells=1)
    images = torch.randn(8, 1, 16, 16)
    for _ in range(3):
        net(images)
    export_onnx(net, images, tmp_path / "model.onnx")
    net.eval()
    with torch.no_grad():
        expected = net(images[:3])
    np.testing.assert_allclose(run(tmp_path / "model.onnx", images[:3]), expected.numpy(), rtol=1e-4, atol=1e-5)


def test_existing_folder_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    folder = tmp_path / "result"
    folder.mkdir()
    (folder / "mine").write_text("precious")

    class Untouchable(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise AssertionError("the network was run")

    with pytest.raises(FileExistsError, match=r"holds mine and no report\.json"):
        export_result(folder, genotype=GENOTYPE, net=Untouchable(), data=small_data(), report={})
    assert (folder / "mine").read_text() == "precious"


def test_force_replaces_a_result_and_keeps_what_is_not_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "result"
    (folder / "notes").mkdir(parents=True)
    (folder / "notes" / "mine.txt").write_text("precious")
    (folder / "report.json").write_text("old")
    (folder / "history.svg").write_text("of a search that the new result has not")
    export_result(folder, genotype=GENOTYPE, net=small_net(), data=small_data(), report={}, force=True)
    assert {path.name for path in folder.iterdir()} == FILES | {"notes"}
    assert (folder / "notes" / "mine.txt").read_text() == "precious"
    assert check_deployment(folder, latency_runs=1).passed


def test_force_refuses_a_folder_that_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match=f"^{tmp_path} holds mine.txt and no report.json, so that it is not a "):
        export_result(tmp_path, genotype=GENOTYPE, net=small_net(), data=small_data(), report={}, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("step", ["export_onnx", "check_deployment"])
def test_an_error_on_the_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(export, step, fail)
    with pytest.raises(OSError, match="disk full"):
        export_result(tmp_path / "result", genotype=GENOTYPE, net=small_net(), data=small_data(), report={})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing_and_says_what_to_free(
    tmp_path: Path, room: Callable[[int], AbstractContextManager[None]]
) -> None:
    folder, net, data = tmp_path / "result", small_net(), small_data()
    with room(5_000), pytest.raises(FullDiskError, match=f"^There is no room to write {folder} "):
        export_result(folder, genotype=GENOTYPE, net=net, data=data, report={})
    assert list(tmp_path.iterdir()) == []


def test_an_operator_set_that_cannot_express_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # onnx 1.23 converts whatever we have to whatever it knows; one more than that is a version without a conversion.
    newest = onnx.defs.onnx_opset_version()
    monkeypatch.setattr(onnx.defs, "onnx_opset_version", lambda: newest + 1)
    with pytest.raises(ValueError, match=f"^Operator set {newest + 1} cannot express the network, "):
        export_onnx(small_net(), torch.randn(2, 1, 8, 8), tmp_path / "model.onnx", opset=newest + 1)
    assert list(tmp_path.iterdir()) == []


def test_reductions_of_a_network_set_the_smallest_image() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3, stride=4, padding=1), nn.Conv2d(2, 2, 3, stride=4, padding=1), nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(2, 3, 1), nn.Flatten(),
    )  # fmt: skip
    assert total_stride(net, 1, 32) == 16
    data = ImageData.from_arrays("large", {
        "x_train": np.zeros((3, 32, 32), np.uint8), "y_train": np.arange(3),
        "x_test": np.zeros((3, 32, 32), np.uint8), "y_test": np.arange(3),
    })  # fmt: skip
    refuse_too_small(net, data, 16)
    with pytest.raises(ValueError, match=r"Images of 15x15 are too small .* choose a size of at least 16"):
        refuse_too_small(net, data, 15)


def test_example_without_batch_dimension(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"example batch of images \(N, C, H, W\), got shape \(1, 8, 8\)"):
        export_onnx(small_net(), torch.randn(1, 8, 8), tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("net", "got"), [(nn.Identity(), r"\(2, 1, 8, 8\)"), (nn.MaxPool2d(2, return_indices=True), "tuple")]
)
def test_network_without_logits(tmp_path: Path, net: nn.Module, got: str) -> None:
    with pytest.raises(ValueError, match=f"must return logits .* it gave {got}"):
        export_onnx(net, torch.randn(2, 1, 8, 8), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
