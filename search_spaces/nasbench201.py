"""NAS-Bench-201 (arXiv 2001.00326): a cell with four nodes and six edges whose 15,625 architectures are all known.

Every node is the sum of one operation from each earlier node, ``none`` included; the last node is the output. Its
benchmarks write an architecture as ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``, node by node, ``op~i`` on the edge from i.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from nni.mutable import Sample
from nni.nas.hub.pytorch import NasBench201 as HubNasBench201
from nni.nas.nn.pytorch import model_context
from nni.nas.space import current_model
from torch import nn

from .genotype import Connection, Genotype
from .layout import LAYOUTS
from .operations import make_operation

NAME = "nasbench201"
_LAYOUT = LAYOUTS[NAME]
BENCHMARK_NAMES = {"conv_1x1": "nor_conv_1x1", "conv_3x3": "nor_conv_3x3"}
"""What the benchmark calls operations that NNI's hub calls otherwise."""
_HUB_NAMES = {theirs: ours for ours, theirs in BENCHMARK_NAMES.items()}


class NASBench201(HubNasBench201):
    """NNI's NAS-Bench-201 space with what it lacks: image channels, and BatchNorm as the benchmark's own searches have.

    While it is searched, BatchNorm inside cells carries no scale and shift; frozen it does. Labels are the hub's:
    ``cell/0_1`` is the edge from node 0 to node 1.

    Parameters
    ----------
    num_classes, in_channels
        Classes to tell apart and channels of the images.
    stem
        Only ``"cifar"``, which keeps the resolution; the argument is there because all spaces have it.
    channels
        Width of the first of three stages; each stage has twice the width of the one before.
    cells
        Cells of each stage.

    Raises
    ------
    ValueError
        If a size is out of range.
    """

    def __init__(
        self, num_classes: int = 10, in_channels: int = 3, stem: str = "cifar", channels: int = 16, cells: int = 5
    ) -> None:
        if stem != "cifar":
            raise ValueError(
                f"NAS-Bench-201 has the stem cifar only, got {stem!r}; scale the images down (the benchmark has "
                "16x16 ImageNet), or take the darts space."
            )
        if channels < 1 or cells < 1:
            raise ValueError(
                f"NAS-Bench-201 needs at least 1 channel and 1 cell per stage, got channels={channels}, cells={cells}."
            )
        self._search = current_model() is None
        super().__init__(stem_out_channels=channels, num_modules_per_stack=cells, num_labels=num_classes)
        self._settings: dict[str, Any] = dict(
            num_classes=num_classes, in_channels=in_channels, stem=stem, channels=channels, cells=cells
        )
        self.stem[0] = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)

    def _make_op_factory(self, prim: str) -> Callable[[int, int], nn.Module]:
        return partial(_cell_operation, prim, search=self._search)

    def freeze(self, sample: Sample) -> NASBench201:
        """The evaluation network of ``sample``, freshly initialised, at this space's sizes."""
        with model_context(sample):
            return NASBench201(**self._settings)


def _cell_operation(name: str, channels_in: int, channels_out: int, *, search: bool) -> nn.Module:
    assert channels_in == channels_out, "cells keep the width"
    if name == "avg_pool_3x3":  # plain, also in search [NAS-Bench-201, released code]
        return make_operation(name, channels_out, 1, search=False)
    return make_operation(name, channels_out, 1, search=search)


def to_architecture_string(genotype: Genotype) -> str:
    """The benchmark's name of a NAS-Bench-201 cell, such as ``|nor_conv_3x3~0|+|none~0|skip_connect~1|+...``.

    Raises
    ------
    ValueError
        If the genotype belongs to another space.
    """
    if genotype.space != NAME:
        raise ValueError(
            f"Only {NAME} cells have an architecture string, but this genotype belongs to the {genotype.space} space; "
            f"search the {NAME} space to get one."
        )
    (kind,) = _LAYOUT.cells
    nodes = [sorted(node, key=lambda connection: connection.input) for node in genotype.cells[kind]]
    return "+".join(
        "|" + "".join(f"{BENCHMARK_NAMES.get(operation, operation)}~{source}|" for operation, source in node)
        for node in nodes
    )


def from_architecture_string(text: str) -> Genotype:
    """The genotype of an architecture string; inverse of :func:`to_architecture_string`.

    Raises
    ------
    ValueError
        If the string does not parse; the sentence shows the form that was expected.
    """
    nodes = []
    for index, node in enumerate(text.strip().split("+"), start=1):
        connections = re.findall(r"([^|~]+)~(\d+)\|", node)
        if "|" + "".join(f"{operation}~{source}|" for operation, source in connections) != node:
            raise ValueError(_unreadable(text, f"{node!r} is not |operation~input|...|"))
        named = ((_HUB_NAMES.get(operation, operation), int(source)) for operation, source in connections)
        nodes.append(tuple(Connection(operation, source) for operation, source in named))
        for operation, source in nodes[-1]:
            if operation not in _LAYOUT.operations:
                raise ValueError(_unreadable(text, f"{operation!r} is no operation of the space"))
            if source >= index:
                raise ValueError(_unreadable(text, f"node {index} cannot take input {source}"))
    try:
        return Genotype(NAME, {_LAYOUT.cells[0]: tuple(nodes)}, num_inputs=_LAYOUT.num_inputs)
    except ValueError as error:
        raise ValueError(_unreadable(text, str(error).rstrip("."))) from None


def _unreadable(text: str, reason: str) -> str:
    names = ", ".join(BENCHMARK_NAMES.get(operation, operation) for operation in _LAYOUT.operations)
    return (
        f"{text!r} is not a {NAME} architecture string ({reason}); expected |op~0|+|op~0|op~1|+|op~0|op~1|op~2| with "
        f"op one of {names}."
    )
