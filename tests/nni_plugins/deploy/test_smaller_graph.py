"""Graphs before and after their rewriting, against PyTorch and against themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from nni_plugins.deploy.export import export_onnx
from nni_plugins.deploy.smaller_graph import fold_batchnorm


class Reduction(nn.Module):
    """BatchNorm after a concatenation, as in DARTS's factorised reduction."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 2, 1, bias=False), nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(6)
        self.classifier = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(torch.cat([self.left(x), self.right(x)], 1))
        return self.classifier(x.mean((2, 3)))


@pytest.fixture(scope="module")
def reduction() -> Reduction:
    torch.manual_seed(0)
    reduction = Reduction()
    for _ in range(3):
        reduction(2 * torch.randn(16, 3, 4, 4) + 1)
    return reduction.eval()


def operators(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


def run(model: onnx.ModelProto, *inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs, strict=True)))[0]


def test_an_export_has_no_batchnorm_and_agrees_with_pytorch(reduction: Reduction, tmp_path: Path) -> None:
    images = torch.randn(7, 3, 4, 4)
    export_onnx(reduction, images, tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    assert "BatchNormalization" not in operators(model)
    onnx.checker.check_model(model, full_check=True)
    with torch.no_grad():
        np.testing.assert_allclose(run(model, images.numpy()), reduction(images).numpy(), rtol=1e-5, atol=1e-5)


def test_a_folded_graph_stays_as_it_is(reduction: Reduction, tmp_path: Path) -> None:
    export_onnx(reduction, torch.randn(2, 3, 4, 4), tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    assert [str(node) for node in fold_batchnorm(model).graph.node] == [str(node) for node in model.graph.node]


def test_a_convolution_that_others_read_is_not_folded(tmp_path: Path) -> None:
    class Read(Reduction):
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
