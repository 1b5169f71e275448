"""Measure operations and networks with onnxruntime, as :class:`~nni_plugins.report.latency_table.LatencyTable` needs.

Alone, an operation takes another time than in a cell: onnxruntime folds BatchNorm and ReLU into convolutions, adds in
them, and keeps their features in a layout of its own. So operations are measured inside nodes like those of a cell,
and against the same network with fewer of them:

    t[k] = ( T[ nodes k(x_1) + k(x_2), k(x_3) + k(x_4), ... ]  -  T[ one node k(x_1 + x_3 + ...) + k(x_2 + ...) ] )
           / (operations that the second has fewer)

``T`` is the time of :func:`network_ms`, from many short runs of all networks of a size in turn. On one thread it is the
processor's time of that thread: on an idle machine the time that passes, and on a busy one without the time in which
others run.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from numpy.random import RandomState
from torch import Tensor, nn

from nni_plugins.deploy.additions import with_additions
from nni_plugins.deploy.session import open_session
from nni_plugins.report.latency_table import Cell, LatencyTable, Place, fit, in_words, places
from nni_plugins.supernet.cell_description import CELLS
from search_spaces.cell_graph import CellGraph
from search_spaces.genotype import Connection, Genotype
from search_spaces.operation_names import NO_OPERATION
from search_spaces.operations import make_operation, relu_conv_bn
from search_spaces.registry import space_spec

MakeNet = Callable[[Genotype], nn.Module]
"""From an architecture to its evaluation network."""

_NODES = 4
_SESSIONS = 3
_RUNS_IN_A_ROW = 5
_logger = logging.getLogger(__name__)


def cells_of(net: nn.Module, in_channels: int, image_size: int) -> tuple[Cell, ...]:
    """Return the cells of an evaluation network in its order, from one image sent through it.

    Raises
    ------
    ValueError
        If it has none.
    """
    found: list[Cell] = []
    entering: list[Tensor] = []

    def note_input(module: nn.Module, args: tuple[list[Tensor], ...], output: list[Tensor]) -> None:
        entering.append(output[1])

    def note_cell(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        x = entering.pop() if entering else args[0]
        found.append(Cell(str(module.label), x.shape[1], x.shape[2], -(-x.shape[2] // output.shape[2])))

    with contextlib.ExitStack() as hooks, torch.no_grad():
        for module in net.modules():
            if isinstance(module, CELLS):
                if isinstance(preprocessor := getattr(module, "preprocessor", None), nn.Module):
                    hooks.callback(preprocessor.register_forward_hook(note_input).remove)
                hooks.callback(module.register_forward_hook(note_cell).remove)
        training = net.training
        net.eval()(torch.zeros(1, in_channels, image_size, image_size, device=next(net.parameters()).device))
        net.train(training)
    if not found:
        raise ValueError("A latency table is of networks of cells, but this network has none; take a space of cells.")
    return tuple(found)


def measure_table(
    space: str,
    make_net: MakeNet,
    genotypes: Sequence[Genotype],
    *,
    in_channels: int,
    image_size: int,
    runs: int = 400,
    threads: int = 1,
) -> LatencyTable:
    """Measure a latency table of a space's evaluation networks on this machine.

    Parameters
    ----------
    space, make_net
        The space, and its evaluation network at the sizes in question.
    genotypes
        Random architectures whose whole networks are measured, to fit what is fixed; at least two.
    in_channels, image_size
        Shape of the images.
    runs
        Runs of every network, of which the fastest ones count.
    threads
        Of onnxruntime.

    Raises
    ------
    ValueError
        If the space has no cells, or the measurements do not fit together.
    """
    cells = cells_of(make_net(genotypes[0]), in_channels, image_size)
    _logger.info("measuring operations for %s", in_words(cells))
    times = operations_ms(places(space, cells), runs=runs, threads=threads)
    unfitted = LatencyTable(space, cells, times, 0.0, 1.0, machine(), onnxruntime.__version__, threads)
    example = torch.randn(1, in_channels, image_size, image_size)
    measured = network_ms([make_net(genotype) for genotype in genotypes], example, runs=runs, threads=threads)
    fixed, scale = fit([unfitted.predict(genotype) for genotype in genotypes], measured)
    return LatencyTable(space, cells, times, fixed, scale, machine(), onnxruntime.__version__, threads)


def operations_ms(places: Iterable[Place], *, runs: int = 400, threads: int = 1) -> dict[Place, float]:
    """Return the time of each operation in a node, milliseconds for one image."""
    times: dict[Place, float] = {}
    for (channels, size), alike in _by_shape(places).items():
        nets = [_Nodes(place, nodes) for place in alike for nodes in (_NODES, 1)]
        ms = network_ms(nets, torch.randn(1, channels, size, size), runs=runs, threads=threads)
        for place, many, few in zip(alike, ms[::2], ms[1::2], strict=True):
            times[place] = max(many - few, 0.0) / (2 * (_NODES - 1))
    return times


def _by_shape(places: Iterable[Place]) -> dict[tuple[int, int], list[Place]]:
    found: dict[tuple[int, int], list[Place]] = {}
    for place in places:
        found.setdefault((place.channels, place.size), []).append(place)
    return found


def network_ms(nets: Sequence[nn.Module], example: Tensor, *, runs: int = 400, threads: int = 1) -> list[float]:
    """Return the time of every network on one image, in milliseconds.

    It is the fastest run of a session, averaged over three sessions: where a session's memory happens to lie changes
    its time by some percent. Sessions run in turn, a few runs each, so that a machine that slows down for seconds slows
    down all of them.
    """
    return sessions_ms([_onnx(net, example[:1]) for net in nets], example[:1].cpu().numpy(), runs=runs, threads=threads)


def sessions_ms(models: Sequence[bytes], image: Any, *, runs: int, threads: int) -> list[float]:
    """Return the time of every ONNX model on ``image``, (1, C, H, W), as :func:`network_ms` does."""
    sessions = [open_session(model, threads) for model in models for _ in range(_SESSIONS)]
    clock = time.thread_time_ns if threads == 1 else time.perf_counter_ns
    fastest = [float("inf")] * len(sessions)
    for _ in range(-(-runs // (_SESSIONS * _RUNS_IN_A_ROW))):
        for number, session in enumerate(sessions):
            for _ in range(_RUNS_IN_A_ROW):
                start = clock()
                session.run(None, {"images": image})
                fastest[number] = min(fastest[number], (clock() - start) / 1e6)
    return [statistics.mean(fastest[first : first + _SESSIONS]) for first in range(0, len(sessions), _SESSIONS)]


def random_genotypes(space: str, count: int, seed: int = 0) -> list[Genotype]:
    """Return architectures drawn at random, as a search may derive them.

    Every node has as many different inputs as the space says (two where that is open), each with any operation; with
    ``none`` only where the space derives it.
    """
    random = RandomState(seed)
    layout = space_spec(space).layout

    def node(graph: CellGraph, target: int) -> tuple[Connection, ...]:
        kept = {"every input": target, "any": 2}.get(str(graph.connections)) or int(graph.connections)
        sources = sorted(random.permutation(target)[:kept].tolist())
        never = () if graph.connections == "every input" else (NO_OPERATION,)
        return tuple(
            Connection(str(random.choice([k for k in graph.operations_on(source, target) if k not in never])), source)
            for source in sources
        )

    return [
        Genotype(
            space,
            {kind: tuple(node(graph, target) for target in graph.targets) for kind, graph in layout.items()},
            num_inputs=space_spec(space).num_inputs,
        )
        for _ in range(count)
    ]


def machine() -> str:
    """Return the name of this machine's processor."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


class _Nodes(nn.Module):
    """Four nodes that each sum an operation on two inputs of their own, or one node on the sums of these inputs."""

    def __init__(self, place: Place, nodes: int) -> None:
        super().__init__()
        self.preprocessing = nn.ModuleList(
            relu_conv_bn(place.channels, place.channels, affine=True) for _ in range(2 * _NODES)
        )
        self.operations = nn.ModuleList(
            make_operation(place.operation, place.channels, place.stride, search=False) for _ in range(2 * nodes)
        )
        self.classifier = nn.Linear((nodes + 2) * place.channels, 2)

    def forward(self, images: Tensor) -> Tensor:
        features = [prepare(images) for prepare in self.preprocessing.children()]
        sums = [sum(features[k::2][1:], features[k]) for k in (0, 1)]
        inputs = sums if len(self.operations) == 2 else features
        terms = [operation(x) for operation, x in zip(self.operations.children(), inputs, strict=True)]
        nodes = [terms[k] + terms[k + 1] for k in range(0, len(terms), 2)]
        pooled = [torch.cat(nodes, 1).mean((2, 3)), *(total.mean((2, 3)) for total in sums)]
        return self.classifier(torch.cat(pooled, 1))


def _onnx(net: nn.Module, example: Tensor) -> bytes:
    """Return a network as ONNX for timing alone, by torch's older exporter, which takes a tenth of the time."""
    file: Any = io.BytesIO()  # of which only the older exporter knows
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            with_additions(copy.deepcopy(net).cpu().eval()),
            (example.cpu(),),
            file,
            input_names=["images"],
            output_names=["logits"],
            dynamo=False,
        )
    return file.getvalue()
