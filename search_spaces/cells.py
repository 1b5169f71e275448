"""What every two-input cell of the DARTS family shares, in the form in which NNI's ``Cell`` takes it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

import torch
from nni.nas.nn.pytorch import Cell
from torch import nn
from torchvision.ops import StochasticDepth

from .arguments import Accepts
from .cell_graph import CellGraph, Edge
from .free_cell import FreeCell
from .operation_names import DARTS_OPERATIONS
from .operations import factorized_reduce, make_operation, relu_conv_bn
from .taps import Tap

Stem = Literal["cifar", "imagenet"]
Classes = Annotated[int, Accepts(at_least=2)]
Count = Annotated[int, Accepts(at_least=1)]
Width = Annotated[int, Accepts(at_least=2, even=True)]
"""Channels of a node: reductions make each half of them of other pixels."""
Probability = Annotated[float, Accepts(at_least=0, below=1)]


def _operations(names: Any) -> tuple[str, ...]:
    if not isinstance(names, (tuple, list)) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"must be names of operations such as ('skip_connect', 'sep_conv_3x3'), got {names!r}.")
    if unknown := [name for name in names if name not in DARTS_OPERATIONS]:
        raise ValueError(f"must be among {', '.join(DARTS_OPERATIONS)}, got {unknown[0]!r}.")
    if len(set(names)) < len(names):
        raise ValueError(f"must name every operation once, got {tuple(names)!r}.")
    return tuple(names)


Operations = Annotated[
    tuple[str, ...], Accepts(convert=_operations, example="names such as ('skip_connect', 'sep_conv_3x3')")
]
"""Candidates of every edge, in the order of alpha."""


def make_stem(stem: Stem, in_channels: int, width: int) -> tuple[nn.Sequential, nn.Sequential | None]:
    """Build what precedes the first cell.

    Parameters
    ----------
    stem
        ``"cifar"`` keeps the resolution; ``"imagenet"`` gives input 0 at a quarter and input 1 at an eighth of it.
    in_channels, width
        Channels of the images and of the stem's output.

    Returns
    -------
    tuple
        From images to the first cell's input 0, and from input 0 to input 1 (None where they are the same).

    Raises
    ------
    ValueError
        If there is no such stem.
    """
    if stem == "cifar":
        return nn.Sequential(nn.Conv2d(in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)), None
    if stem != "imagenet":
        raise ValueError(f"stem must be cifar or imagenet, got {stem!r}.")
    quarter = nn.Sequential(
        nn.Conv2d(in_channels, width // 2, 3, 2, 1, bias=False), nn.BatchNorm2d(width // 2),
        nn.ReLU(),
        nn.Conv2d(width // 2, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width),
    )  # fmt: skip
    eighth = nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width))
    return quarter, eighth


def stem_taps(stem: Stem, width: int) -> list[Tap]:
    """Return what the parts of :func:`make_stem` put out."""
    return [Tap(1, width)] if stem == "cifar" else [Tap(4, width), Tap(8, width)]


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
    op: str | Mapping[Edge, str],
    channels: int,
    reduces: bool,
    search: bool,
    drop_path: float,
) -> nn.Module:
    """Build, as NNI's operation factory, the candidate ``op`` for the edge from ``input_index`` to ``node_index``.

    ``op`` may differ from edge to edge. The stride of a reducing cell sits on the edges that leave its two inputs.
    ``input_index`` is None while NNI builds the unfrozen space, whose operations are place holders. ``channels`` is a
    keyword so that a strategy may ask for fewer (partial channels).
    """
    del op_index
    source = input_index or 0
    name = op if isinstance(op, str) else op[source, node_index]
    operation = make_operation(name, channels, 2 if reduces and source < 2 else 1, search=search)
    if drop_path > 0 and not search and not isinstance(operation, nn.Identity):
        # in line with the operation's own layers, so that weights are called the same with and without it
        layers = operation if isinstance(operation, nn.Sequential) else (operation,)
        return nn.Sequential(*layers, StochasticDepth(drop_path, mode="row"))
    return operation


def make_cell(
    kind: str,
    graph: CellGraph,
    inputs: tuple[int, int],
    width: int,
    *,
    reduces: bool,
    previous_reduces: bool,
    search: bool,
    drop_path: float,
) -> Cell | FreeCell:
    """Build a cell with two inputs.

    Parameters
    ----------
    kind
        NNI's label; cells of one kind share their architecture.
    graph
        Nodes, candidates of every edge, and connections that a node keeps.
    inputs
        Channels of both inputs.
    width
        Node width; the output has as many channels for every intermediate node.
    reduces, previous_reduces
        Whether this and the previous cell halve the resolution.
    search, drop_path
        As in :func:`cell_operation`.
    """
    factory = partial(cell_operation, channels=width, reduces=reduces, search=search, drop_path=drop_path)
    candidates: Any
    if graph.edge_operations:
        by_number = zip(*graph.edge_operations, strict=True)
        candidates = [partial(factory, op=dict(zip(graph.edges, names, strict=True))) for names in by_number]
    else:
        candidates = {name: partial(factory, op=name) for name in graph.operations}
    preprocessor = InputPreprocessor(inputs, width, previous_reduces=previous_reduces, affine=not search)
    if graph.connections == "any":
        return FreeCell(candidates, graph.num_nodes, graph.num_inputs, preprocessor, label=kind)
    return Cell(
        candidates,
        num_nodes=graph.num_nodes,
        num_ops_per_node=graph.connections,
        num_predecessors=graph.num_inputs,
        preprocessor=preprocessor,
        label=kind,
    )


def set_drop_path(net: nn.Module, probability: float) -> None:
    """Set the drop-path probability of every operation of an evaluation net that was made with one above zero."""
    for module in net.modules():
        if isinstance(module, StochasticDepth):
            module.p = probability
