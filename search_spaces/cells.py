"""What every two-input cell of the DARTS family shares, in the form in which NNI's ``Cell`` takes it."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.ops import StochasticDepth

from .operations import factorized_reduce, make_operation, relu_conv_bn


class InputPreprocessor(nn.Module):
    """Bring both inputs of a cell to its node width, and input 0 to the resolution of input 1.

    Parameters
    ----------
    channels_in
        Channels of input 0 and input 1.
    width
        Node width of the cell.
    previous_reduces
        Whether the previous cell halved the resolution, so that input 0 is still twice as large.
    affine
        Whether BatchNorm learns scale and shift.
    """

    def __init__(self, channels_in: tuple[int, int], width: int, *, previous_reduces: bool, affine: bool) -> None:
        super().__init__()
        align = factorized_reduce if previous_reduces else relu_conv_bn
        self.input0 = align(channels_in[0], width, affine=affine)
        self.input1 = relu_conv_bn(channels_in[1], width, affine=affine)

    def forward(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        return [self.input0(inputs[0]), self.input1(inputs[1])]


def cell_operation(
    node_index: int,
    op_index: int,
    input_index: int | None,
    *,
    op: str,
    channels: int,
    reduces: bool,
    search: bool,
    drop_path: float,
) -> nn.Module:
    """NNI's operation factory: the candidate ``op`` for the edge from ``input_index`` to ``node_index``.

    The stride of a reducing cell sits on the edges that leave its two inputs. ``input_index`` is None while NNI builds
    the unfrozen space. ``channels`` is a keyword so that a strategy may ask for fewer (partial channels).
    """
    del node_index, op_index
    stride = 2 if reduces and (input_index is None or input_index < 2) else 1
    operation = make_operation(op, channels, stride, search=search)
    if drop_path > 0 and not search and not isinstance(operation, nn.Identity):
        return nn.Sequential(operation, StochasticDepth(drop_path, mode="row"))
    return operation


def set_drop_path(net: nn.Module, probability: float) -> None:
    """Set the drop-path probability of every operation of an evaluation net that was made with one above zero."""
    for module in net.modules():
        if isinstance(module, StochasticDepth):
            module.p = probability
