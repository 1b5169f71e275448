"""Sum the connections of a node as additions: an NNI ``Cell`` stacks them in a new tensor and reduces that.

In ONNX the stack is two copies and a reduction, which onnxruntime runs as they stand; an addition it does in the
convolution that comes before. The result is the same to the last bit where a node has two connections.
"""

from __future__ import annotations

from types import MethodType
from typing import cast

import torch
from nni.nas.nn.pytorch import Cell
from nni.nas.nn.pytorch.cell import preprocess_cell_inputs
from torch import Tensor, nn


def with_additions(net: nn.Module) -> nn.Module:
    """Let the cells of an evaluation network add, and return it; the network itself is changed."""
    for module in net.modules():
        if type(module) is Cell:
            module.forward = MethodType(_adding, module)  # type: ignore[method-assign]
    return net


def _adding(cell: Cell, *inputs: list[Tensor] | Tensor) -> Tensor:
    raw = preprocess_cell_inputs(cell.num_predecessors, *inputs)
    nodes = list(cell.preprocessor(raw))
    for operations, choices in zip(cell.ops, cell.inputs, strict=True):
        pairs = zip(cast(nn.ModuleList, operations), cast(nn.ModuleList, choices), strict=True)
        terms = [operation(choice(nodes)) for operation, choice in pairs]
        nodes.append(sum(terms[1:], start=terms[0]))
    return cast(
        Tensor, cell.postprocessor(torch.cat([nodes[k] for k in cell.output_node_indices], cell.concat_dim), raw)
    )
