"""The independent choices that a bilevel search is made of; a named method is a preset over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nni_plugins.methods.bilevel.schedules import Confident, Constant, Schedule
from nni_plugins.methods.bilevel.trainable import BatchNormOnly, Everything, Trainable
from nni_plugins.supernet.build import EngineCells
from nni_plugins.supernet.channels import AllChannels, Channels, PartialChannels
from nni_plugins.supernet.features import Features, PerEdge, PerSource
from nni_plugins.supernet.relaxation import EdgeNormalisation, Relaxation, Softmax
from nni_plugins.supernet.threshold import SparseThreshold
from nni_plugins.tools.checked import Checked, setting
from search_spaces.arguments import is_number

PARTS = (
    Softmax,
    EdgeNormalisation,
    SparseThreshold,
    AllChannels,
    PartialChannels,
    PerEdge,
    PerSource,
    Everything,
    BatchNormOnly,
    Constant,
    Confident,
)
"""Parts that a setting may name, such as ``arch_lr=Confident(power=2)``."""


def _betas(value: Any) -> tuple[float, float]:
    fits = isinstance(value, (tuple, list)) and all(is_number(beta) and 0 <= beta < 1 for beta in value)
    if not fits or len(value) != 2:
        raise ValueError(f"must be two numbers from 0 to below 1, such as (0.5, 0.999), got {value!r}.")
    return value[0], value[1]


def _cell_numbers(value: Any) -> EngineCells:
    if value is None or value == "first":
        return value
    if not isinstance(value, (list, tuple)) or not all(type(number) is int for number in value):
        raise ValueError(f"must be numbers of cells such as (0, 2), first or None for all cells, got {value!r}.")
    return tuple(value)


@dataclass(frozen=True)
class Choices(Checked):
    """The independent choices of a bilevel search.

    Parameters
    ----------
    relaxation
        From architecture parameters to mixture weights and to the derived cell.
    channels
        Which channels are mixed.
    features
        What the edges that leave a node share.
    engine_cells
        Which cells mix: their numbers in the order of the network, ``"first"`` for the first of every kind, or None for
        all. The others are Transit-cells: they run their derived connections alone.
    trains
        Which weights train.
    arch_lr
        Schedule of the architecture learning rate: a factor on ``arch_learning_rate``.
    arch_learning_rate, arch_betas, arch_weight_decay
        Adam on the architecture parameters.
    arch_gradient_clip_val, gradient_clip_val
        Largest gradient norm of architecture parameters and of weights; None for no clipping.
    warmup_epochs
        Epochs at the start in which only the weights train.
    unrolled
        Second order.
    merge_edges
        Compute the operations of one kind that leave a node as one: fewer and larger kernels, the same result to
        rounding. Kinds that are not of convolutions, BatchNorm and ReLU are computed as ever. None for where it was
        measured to be faster: on a CPU, operations of few channels.
    cuda_graphs
        Capture both steps as CUDA graphs and replay them: no time for launching kernels one by one. First order, one
        GPU. The capture has not been run on a GPU yet.
    """

    relaxation: Relaxation = setting(factory=Softmax, example="EdgeNormalisation()")
    channels: Channels = setting(factory=AllChannels, example="PartialChannels(fraction=4)")
    features: Features = setting(factory=PerEdge, example="PerSource()")
    engine_cells: EngineCells = setting(
        None, convert=_cell_numbers, example="numbers of cells such as (0, 2), first, or None for all"
    )
    trains: Trainable = setting(factory=Everything, example="BatchNormOnly()")
    arch_lr: Schedule = setting(factory=Constant, example="Confident(power=2)")
    arch_learning_rate: float = setting(3e-4, above=0)
    arch_betas: tuple[float, float] = setting((0.5, 0.999), convert=_betas, example="two numbers from 0 to below 1")
    arch_weight_decay: float = setting(1e-3, at_least=0)
    arch_gradient_clip_val: float | None = setting(None, above=0, none="no clipping")
    gradient_clip_val: float | None = setting(5.0, above=0, none="no clipping")
    warmup_epochs: int = setting(0, at_least=0)
    unrolled: bool = False
    merge_edges: bool | None = setting(None, none="as measured to be fastest")
    cuda_graphs: bool = False

    def check(self) -> None:
        """Refuse to merge edges of which there is one per source already, and to capture the second order.

        Raises
        ------
        ValueError
            As its name says.
        """
        if self.cuda_graphs and self.unrolled:
            raise ValueError(
                "cuda_graphs must be false with unrolled=true, whose finite differences are not captured, got true; "
                "leave one of them out."
            )
        if self.merge_edges and isinstance(self.features, PerSource):
            raise ValueError(
                "merge_edges must be false with features=PerSource(), by which every operation is computed once per "
                "source as it is, got true; leave merge_edges out."
            )
