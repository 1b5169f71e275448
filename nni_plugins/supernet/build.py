"""From NNI's mutation primitives to the modules of a supernet, or a clear refusal before anything is changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

from nni.nas.nn.pytorch import InputChoice, LayerChoice, ModelSpace, MutableModule
from torch import nn

from nni_plugins.supernet.architecture import Architecture, CellArchitecture, ChoiceArchitecture
from nni_plugins.supernet.cell import MixedCell, OperationFactory
from nni_plugins.supernet.cell_description import CELLS, Candidate, CellDescription, describe, is_cell
from nni_plugins.supernet.channels import Channels
from nni_plugins.supernet.choice import MixedInput, MixedLayer
from nni_plugins.supernet.fast_layers import use_fast_layers
from nni_plugins.supernet.features import Features
from nni_plugins.supernet.relaxation import Relaxation, Softmax

EngineCells = Sequence[int] | Literal["first"] | None
"""Which cells mix: numbers in the order of the network, the first of every kind, or all (None)."""


class Builder:
    """Makes mixtures of cells, ``LayerChoice`` and ``InputChoice``; equal labels share architecture parameters.

    Parameters
    ----------
    relaxation, channels, features
        The parts that the mixtures are made of.
    engine_cells
        Which cells mix; the others run their derived connections alone.
    prepare
        Applied to every candidate operation before it is taken over.
    merge_edges
        As in :class:`~nni_plugins.supernet.cell.MixedCell`.
    """

    def __init__(
        self,
        relaxation: Relaxation,
        channels: Channels,
        features: Features,
        engine_cells: EngineCells,
        prepare: Callable[[nn.Module], nn.Module],
        merge_edges: bool | None = None,
    ) -> None:
        self.relaxation = relaxation
        self.channels = channels
        self.features = features
        self.engine_cells = engine_cells
        self.prepare = prepare
        self.merge_edges = merge_edges
        self._architectures: dict[str, Architecture] = {}
        self._engines: frozenset[int] = frozenset()
        self._cells_built = 0

    def check(self, space: ModelSpace) -> None:
        """Refuse, with the reason, a space that cannot be searched with these parts.

        Raises
        ------
        ValueError
            On the first module that cannot be mixed; if the Engine-cells are not cells of the space; if edges are to
            be merged and there are none.
        """
        if not isinstance(space, ModelSpace):
            raise ValueError(
                f"A search needs an NNI ModelSpace, but {type(space).__name__} is none; derive it from "
                "nni.nas.nn.pytorch.ModelSpace."
            )
        if not space.simplify():
            raise ValueError(f"{type(space).__name__} has nothing to search: it contains no Cell or choice.")
        cells = [(name, module) for name, module in space.named_modules() if is_cell(module)]
        inside_cells = {id(inner) for _, cell in cells for inner in cell.modules()}
        labels = [self._check_cell(name, cell) for name, cell in cells]
        if self.merge_edges and all(len(describe(cell).graph.targets) < 2 for _, cell in cells):
            raise ValueError(
                f"merge_edges computes the edges from one node to several others together, but {type(space).__name__} "
                "has no Cell with such edges; leave merge_edges out."
            )
        for name, module in space.named_modules():
            if id(module) in inside_cells:
                continue
            if isinstance(module, (LayerChoice, InputChoice)):
                self._check_choice(name, module)
            elif isinstance(module, MutableModule) and module is not space and module.mutables:
                raise ValueError(
                    f"{name} ({type(module).__name__}) cannot be relaxed; express its choice with Cell, LayerChoice or "
                    "InputChoice."
                )
        self._engines = _engines(self.engine_cells, labels)

    def _check_cell(self, name: str, cell: nn.Module) -> str:
        """Refuse a cell that cannot be mixed; its label otherwise."""
        if type(cell) not in CELLS:
            raise ValueError(
                f"{name} is a subclass of a cell ({type(cell).__name__}); only "
                f"{', '.join(known.__name__ for known in CELLS)} themselves can be mixed."
            )
        if getattr(cell, "merge_op", "all") != "all":
            raise ValueError(
                f"{name} merges its {cell.merge_op} nodes, which only a fixed cell has; use Cell(merge_op='all')."
            )
        description = describe(cell)
        if (description.graph.connections == "any") != self.relaxation.learns_topology:
            raise ValueError(self._topology_complaint(name, description))
        if self.channels.fraction > 1:
            for candidate, operation in description.candidates.items():
                self._check_width(name, candidate, operation)
        return description.label

    def _topology_complaint(self, name: str, description: CellDescription) -> str:
        relaxation = type(self.relaxation).__name__
        if self.relaxation.learns_topology:
            kept = description.graph.connections
            return (
                f"{relaxation} learns how many connections a node keeps, but every node of {name} keeps "
                f"{'one from every input' if kept == 'every input' else kept}; use a space of FreeCells, such as "
                "darts_any, or a relaxation for a given number, such as Softmax."
            )
        return (
            f"{relaxation} does not say how many connections a node keeps, and {name} leaves that open; use "
            "SparseThreshold (EnTranNASDST), or a space with a given number, such as darts."
        )

    def _check_width(self, name: str, candidate: str, operation: Candidate) -> None:
        if operation.width is None:
            raise ValueError(
                f"Partial channels need operations that can be built narrower, but {name} has a ready-made "
                f"candidate {candidate!r}; give Cell functools.partial(make, channels=16) in its place, where "
                "make(node, slot, source, channels) builds the operation."
            )
        if operation.width % self.channels.fraction:
            raise ValueError(
                f"Partial channels with K={self.channels.fraction} do not divide the {operation.width} channels of "
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
        """Mutate a module, as NNI's hook."""
        del name, memo, kwargs
        if is_cell(module):
            return self._mixed_cell(module)
        if isinstance(module, LayerChoice) and type(module) is LayerChoice:
            for candidate in module.names:
                module[candidate] = self.prepare(use_fast_layers(module[candidate]))
            architecture = self._shared(module.label, ChoiceArchitecture, self.relaxation, list(module.names))
            return MixedLayer(architecture, module)
        if isinstance(module, InputChoice) and type(module) is InputChoice:
            candidates = list(range(module.n_candidates))
            architecture = self._shared(module.label, ChoiceArchitecture, self.relaxation, candidates, module.n_chosen)
            return MixedInput(architecture, module)
        return False

    def _shared(self, label: str, kind: type[Any], *args: Any) -> Any:
        if label not in self._architectures:
            self._architectures[label] = kind(label, *args)
        return self._architectures[label]

    def _mixed_cell(self, cell: nn.Module) -> MixedCell:
        description = describe(cell)
        number, self._cells_built = self._cells_built, self._cells_built + 1
        return MixedCell(
            self._shared(description.label, CellArchitecture, description.graph, self.relaxation),
            {name: self._factory(candidate) for name, candidate in description.candidates.items()},
            description.preprocessor,
            description.postprocessor,
            self.channels,
            self.features,
            engine=number in self._engines,
            concat_dim=description.concat_dim,
            merge_edges=self.merge_edges,
        )

    def _factory(self, candidate: Candidate) -> OperationFactory:
        fraction = self.channels.fraction
        narrower = {} if fraction == 1 or candidate.width is None else {"channels": candidate.width // fraction}

        def make(target: int, source: int) -> nn.Module:
            return self.prepare(use_fast_layers(candidate.make(target, source, **narrower)))

        return make


def _engines(engine_cells: EngineCells, labels: list[str]) -> frozenset[int]:
    """Return the numbers of the cells that mix, among cells with these labels.

    Raises
    ------
    ValueError
        If a number is none of a cell, or a kind of cell has no Engine-cell.
    """
    if engine_cells is None:
        return frozenset(range(len(labels)))
    if not labels:
        raise ValueError("engine_cells says which cells mix, but the space has no cells; leave it out (None).")
    first = {label: labels.index(label) for label in labels}
    if engine_cells == "first":
        return frozenset(first.values())
    for number in engine_cells:
        if number not in range(len(labels)):
            raise ValueError(
                f"There is no cell {number} to be an Engine-cell; the space has cells 0 to {len(labels) - 1}: "
                f"{', '.join(f'{count} {label}' for label, count in Counter(labels).items())}."
            )
    for label, number in first.items():
        if label not in {labels[engine] for engine in engine_cells}:
            raise ValueError(
                f"None of the Engine-cells {tuple(engine_cells)} is a {label} cell, so that its architecture would "
                f"never be searched; add one, such as {number}."
            )
    return frozenset(engine_cells)
