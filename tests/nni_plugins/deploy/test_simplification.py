"""Graphs before and after their rewriting, against PyTorch and against themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from nni_plugins.deploy.export import export_onnx
from nni_plugins.deploy.simplification import simplify


class Cell(nn.Module):
    """What NNI's cells and factorised reductions export: a stack that is summed, BatchNorm after a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 2, 1, bias=False), nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(6)
        self.classifier = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(torch.cat([self.left(x), self.right(x)], 1))
        x = torch.stack([x, torch.relu(x), x.abs()]).sum(0)
        return self.classifier(x.mean((2, 3)))


@pytest.fixture(scope="module")
def cell() -> Cell:
    torch.manual_seed(0)
    cell = Cell()
    for _ in range(3):
        cell(2 * torch.randn(16, 3, 4, 4) + 1)
    return cell.eval()


def operators(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


def run(model: onnx.ModelProto, *inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs, strict=True)))[0]


def test_an_export_has_additions_and_no_batchnorm_and_agrees_with_pytorch(cell: Cell, tmp_path: Path) -> None:
    images = torch.randn(7, 3, 4, 4)
    export_onnx(cell, images, tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    assert [node.op_type for node in model.graph.node].count("Add") == 2
    assert not operators(model) & {"ReduceSum", "Unsqueeze", "BatchNormalization"}
    onnx.checker.check_model(model, full_check=True)
    with torch.no_grad():
        np.testing.assert_allclose(run(model, images.numpy()), cell(images).numpy(), rtol=1e-5, atol=1e-5)


def test_a_simplified_graph_stays_as_it_is(cell: Cell, tmp_path: Path) -> None:
    export_onnx(cell, torch.randn(2, 3, 4, 4), tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    assert [str(node) for node in simplify(model).graph.node] == [str(node) for node in model.graph.node]


@pytest.mark.parametrize(("axis", "keepdims"), [(1, 0), (0, 1)])
def test_sums_of_another_kind_are_kept(axis: int, keepdims: int) -> None:
    """A sum over a stack's own axis 1, or one that keeps the axis, is not the sum of the stacked tensors."""
    rank = 4 if keepdims else 3
    graph = helper.make_graph(
        [
            helper.make_node("Unsqueeze", ["x", "first"], ["x1"]),
            helper.make_node("Unsqueeze", ["y", "first"], ["y1"]),
            helper.make_node("Concat", ["x1", "y1"], ["stack"], axis=0),
            helper.make_node("ReduceSum", ["stack", "over"], ["z"], keepdims=keepdims),
        ],
        "sum",
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 3, 4]) for name in "xy"],
        [helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [None] * rank)],
        [numpy_helper.from_array(np.array([0]), "first"), numpy_helper.from_array(np.array([axis]), "over")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    x, y = np.random.default_rng(0).normal(size=(2, 2, 3, 4)).astype(np.float32)
    np.testing.assert_allclose(
        run(simplify(model), x, y), np.stack([x, y]).sum(axis, keepdims=bool(keepdims)), rtol=1e-6, atol=1e-6
    )


def test_a_convolution_that_others_read_is_not_folded(tmp_path: Path) -> None:
    class Read(Cell):
        def forward(self, x: Tensor) -> Tensor:
            left = self.left(x)
            x = self.norm(torch.cat([left, self.right(x)], 1))
            return self.classifier(x.mean((2, 3))) + left.mean()

    torch.manual_seed(0)
    net = Read()
    net(torch.randn(16, 3, 4, 4) + 1)
    images = torch.randn(2, 3, 4, 4)
    export_onnx(net.eval(), images, tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    assert "BatchNormalization" in operators(model)
    with torch.no_grad():
        np.testing.assert_allclose(run(model, images.numpy()), net(images).numpy(), rtol=1e-5, atol=1e-5)
