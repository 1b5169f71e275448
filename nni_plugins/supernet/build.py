"""From NNI's mutation primitives to the modules of a supernet, or a clear refusal before anything is changed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from nni.nas.nn.pytorch import Cell, InputChoice, LayerChoice, ModelSpace, MutableModule
from torch import nn

from .architecture import Architecture, CellArchitecture, ChoiceArchitecture
from .cell import MixedCell, OperationFactory
from .channels import Channels
from .choice import MixedInput, MixedLayer
from .depthwise import use_fast_depthwise
from .relaxation import Relaxation, Softmax, Topology


class Builder:
    """Makes mixtures of ``Cell``, ``LayerChoice`` and ``InputChoice``; equal labels share architecture parameters.

    Parameters
    ----------
    relaxation, channels
        The parts that the mixtures are made of.
    prepare
        Applied to every candidate operation before it is taken over.
    """

    def __init__(
        self, relaxation: Relaxation, channels: Channels, prepare: Callable[[nn.Module], nn.Module]
    ) -> None:
        self.relaxation = relaxation
        self.channels = channels
        self.prepare = prepare
        self._architectures: dict[str, Architecture] = {}

    def check(self, space: ModelSpace) -> None:
        """Refuse, with the reason, a space that cannot be searched with these parts.

        Raises
        ------
        ValueError
            On the first module that cannot be mixed.
        """
        if not space.simplify():
            raise ValueError(f"{type(space).__name__} has nothing to search: it contains no Cell or choice.")
        inside_cells = {
            id(inner) for cell in space.modules() if isinstance(cell, Cell) for inner in cell.modules()
        }
        for name, module in space.named_modules():
            if isinstance(module, Cell):
                self._check_cell(name, module)
            elif isinstance(module, (LayerChoice, InputChoice)):
                if id(module) not in inside_cells:
                    self._check_choice(name, module)
            elif isinstance(module, MutableModule) and module is not space and module.mutables:
                raise ValueError(
                    f"{name} ({type(module).__name__}) cannot be relaxed; express its choice with Cell, LayerChoice or "
                    "InputChoice, or pass a mutation hook for it."
                )

    def _check_cell(self, name: str, cell: Cell) -> None:
        if type(cell) is not Cell:
            raise ValueError(f"{name} is a subclass of Cell ({type(cell).__name__}); NNI mutates Cell itself only.")
        if cell.merge_op != "all":
            raise ValueError(
                f"{name} merges its {cell.merge_op} nodes, which only a fixed cell has; use Cell(merge_op='all')."
            )
        if self.channels.fraction > 1:
            for candidate, factory in _candidates(cell).items():
                width = factory.keywords.get("channels") if isinstance(factory, partial) else None
                if not isinstance(width, int):
                    raise ValueError(
                        f"Partial channels need operations that can be built narrower, but {name} has a ready-made "
                        f"candidate {candidate!r}; give Cell a functools.partial with a channels keyword."
                    )
                if width % self.channels.fraction:
                    raise ValueError(
                        f"Partial channels with K={self.channels.fraction} do not divide the {width} channels of "
                        f"{name}; choose a K that divides them, or another width."
                    )

    def _check_choice(self, name: str, choice: LayerChoice | InputChoice) -> None:
        if type(choice) not in (LayerChoice, InputChoice):
            raise ValueError(f"{name} is a subclass of a choice ({type(choice).__name__}); NNI mutates the base only.")
        if self.channels.fraction > 1 or not isinstance(self.relaxation, Softmax):
            part = self.channels if self.channels.fraction > 1 else self.relaxation
            raise ValueError(
                f"{type(part).__name__} works inside Cells, but {name} is a {type(choice).__name__} over ready-made "
                "candidates; use a strategy with all channels and a plain softmax, or a space of Cells."
            )
        if isinstance(choice, InputChoice) and (choice.reduction not in ("sum", "mean") or choice.n_chosen is None):
            raise ValueError(
                f"{name} chooses {choice.n_chosen or 'any number of'} inputs and returns their {choice.reduction}; "
                "a relaxation needs a fixed n_chosen and the reduction sum or mean."
            )

    def hook(self, module: nn.Module, name: str, memo: dict[str, Any], kwargs: dict[str, Any]) -> Any:
        """NNI's mutation hook."""
        del name, memo, kwargs
        if type(module) is Cell:
            return self._mixed_cell(module)
        if isinstance(module, LayerChoice) and type(module) is LayerChoice:
            for candidate in module.names:
                module[candidate] = self.prepare(use_fast_depthwise(module[candidate]))
            architecture = self._shared(module.label, ChoiceArchitecture, list(module.names))
            return MixedLayer(architecture, module)
        if isinstance(module, InputChoice) and type(module) is InputChoice:
            candidates = list(range(module.n_candidates))
            return MixedInput(self._shared(module.label, ChoiceArchitecture, candidates, module.n_chosen), module)
        return False

    def _shared(self, label: str, kind: type[Any], *args: Any) -> Any:
        if label not in self._architectures:
            self._architectures[label] = kind(label, *args)
        return self._architectures[label]

    def _mixed_cell(self, cell: Cell) -> MixedCell:
        candidates = _candidates(cell)
        topology = Topology(cell.num_predecessors, cell.num_nodes, tuple(candidates), cell.num_ops_per_node)
        architecture = self._shared(cell.label, CellArchitecture, topology, self.relaxation)
        factories = {name: self._operation_factory(candidate) for name, candidate in candidates.items()}
        return MixedCell(
            architecture, factories, cell.preprocessor, cell.postprocessor, self.channels, cell.concat_dim
        )

    def _operation_factory(self, candidate: Any) -> OperationFactory:
        if self.channels.fraction > 1:
            width = candidate.keywords["channels"] // self.channels.fraction
            candidate = partial(candidate, channels=width)

        def make(target: int, source: int) -> nn.Module:
            made = copy.deepcopy(candidate) if isinstance(candidate, nn.Module) else candidate(target, 0, source)
            return self.prepare(use_fast_depthwise(made))

        return make


def _candidates(cell: Cell) -> dict[str, Any]:
    """Candidates of a cell by name: factories, or the ready-made modules of its last slot."""
    candidates = cell.op_candidates_factory
    if candidates is None:
        slot = cast(LayerChoice, cast(nn.ModuleList, cell.ops[-1])[-1])
        return {str(name): slot[name] for name in slot.names}
    if isinstance(candidates, dict):
        return dict(candidates)
    return {str(k): candidate for k, candidate in enumerate(candidates)}
