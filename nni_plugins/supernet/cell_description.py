"""What the supernet needs to know of a cell, for every class of cell that can be mixed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import torch
from nni.nas.hub.pytorch.modules import NasBench201Cell
from nni.nas.nn.pytorch import Cell, LayerChoice
from torch import nn

from search_spaces.cell_graph import CellGraph
from search_spaces.free_cell import FreeCell

CELLS = (Cell, FreeCell, NasBench201Cell)
"""Classes of cells that :func:`describe` knows."""


@dataclass(frozen=True)
class Candidate:
    """A candidate operation of a cell.

    Parameters
    ----------
    make
        From (target, source) to the operation; with a keyword ``channels`` if ``width`` is not None.
    width
        Channels it has unless asked for others; None for a ready-made operation, which takes no other number.
    """

    make: Callable[..., nn.Module]
    width: int | None = None


@dataclass(frozen=True)
class CellDescription:
    """A cell of a model space.

    Parameters
    ----------
    label
        NNI's label: the kind of cell.
    graph
        Its graph.
    candidates
        Operations by name.
    preprocessor, postprocessor
        As in NNI's ``Cell``.
    concat_dim
        As in NNI's ``Cell``; None if the output is the last node.
    """

    label: str
    graph: CellGraph
    candidates: Mapping[str, Candidate]
    preprocessor: Callable[[Any], Any]
    postprocessor: Callable[[Any, Any], Any]
    concat_dim: int | None = 1


def is_cell(module: nn.Module) -> bool:
    """Return whether ``module`` is of a class that :func:`describe` knows, or of a subclass.

    A NAS-Bench-201 cell that changes the number of channels is left to its choices.
    """
    if isinstance(module, NasBench201Cell):
        return module.in_features == module.out_features
    return isinstance(module, CELLS)


def describe(cell: nn.Module) -> CellDescription:
    """Describe a cell of one of :data:`CELLS`."""
    if isinstance(cell, NasBench201Cell):
        return _describe_nasbench201(cell)
    assert isinstance(cell, (Cell, FreeCell)), "only for what is_cell is true of"
    candidates = {name: _candidate(candidate) for name, candidate in _named_candidates(cell).items()}
    connections: int | Literal["any"] = "any" if isinstance(cell, FreeCell) else cell.num_ops_per_node
    graph = CellGraph(tuple(candidates), cell.num_predecessors, cell.num_nodes, connections)
    return CellDescription(cell.label, graph, candidates, cell.preprocessor, cell.postprocessor, cell.concat_dim)


def _named_candidates(cell: Cell | FreeCell) -> dict[str, Any]:
    candidates = cell.op_candidates_factory
    if candidates is None:
        slot = cast(LayerChoice, cast(nn.ModuleList, cell.ops[-1])[-1])
        return {str(name): slot[name] for name in slot.names}
    if isinstance(candidates, Mapping):
        return dict(candidates)
    return {str(k): candidate for k, candidate in enumerate(candidates)}


def _candidate(candidate: Any) -> Candidate:
    if isinstance(candidate, nn.Module):
        return Candidate(lambda target, source: copy.deepcopy(candidate))
    width = candidate.keywords.get("channels") if isinstance(candidate, partial) else None
    return Candidate(
        lambda target, source, **channels: candidate(target, 0, source, **channels),
        width if isinstance(width, int) else None,
    )


def _describe_nasbench201(cell: NasBench201Cell) -> CellDescription:
    choices = {
        (target, source): cast(LayerChoice, choice)
        for target, layer in enumerate(cell.layers, start=1)
        for source, choice in enumerate(cast(nn.ModuleList, layer))
    }
    names = tuple(str(name) for name in choices[1, 0].names)

    def ready_made(name: str) -> Candidate:
        return Candidate(lambda target, source: choices[target, source][name])

    return CellDescription(
        cell.label,
        CellGraph(names, 1, cell.num_tensors - 1, "every input"),
        {name: ready_made(name) for name in names},
        preprocessor=list,
        postprocessor=_output,
        concat_dim=None,
    )


def _output(output: torch.Tensor, inputs: list[torch.Tensor]) -> torch.Tensor:
    return output
