"""The exported network in several forms, side by side: accuracy, size, time, and the operators that take it.

All forms are timed in turns, ten runs of one and then of the next, so that a busy machine slows all alike.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from nni_plugins.deploy.precision import LossyLayer
from nni_plugins.deploy.session import open_session

FLOAT32, INT8, FLOAT16, EAGER, COMPILED = VARIANTS = ("float32", "int8", "float16", "pytorch", "compiled")
BATCH_SIZES = (1, 64)
_TURN = 10
_PROFILED_RUNS = 20
_NAMED = 5

Predict = Callable[[np.ndarray], np.ndarray]
"""Logits (N, classes) of normalised float32 images (N, C, H, W)."""


@dataclass(frozen=True)
class Timing:
    """Percentiles of the time of one run, in milliseconds."""

    batch_size: int
    threads: int
    runs: int
    p50_ms: float
    p90_ms: float
    p99_ms: float


@dataclass(frozen=True)
class OperatorTime:
    """What the nodes of one operator take of a run on one image, one thread, by onnxruntime's profiler."""

    operator: str
    nodes: int
    milliseconds: float


@dataclass(frozen=True)
class NodeTime:
    """What one node takes of a run, as :class:`OperatorTime`."""

    node: str
    operator: str
    milliseconds: float


@dataclass(frozen=True)
class Profile:
    """Where the time of a run on one image goes."""

    operators: tuple[OperatorTime, ...]
    """Slowest first."""
    slowest_nodes: tuple[NodeTime, ...]
    on_provider: bool
    """Whether the execution provider asked for computed any of them."""


@dataclass
class Variant:
    """One form of the network; what could not be measured is None or empty."""

    name: str
    file: str | None = None
    """ONNX file, for those that have one."""
    file_bytes: int | None = None
    share_of_float32: float | None = None
    """Size of the file over that of the float32 file."""
    accuracy: float | None = None
    """Percent of the test set."""
    agreement: float | None = None
    """Percent of the test set whose predicted class is that of float32."""
    timings: list[Timing] = field(default_factory=list)
    profile: Profile | None = None
    slower_operators: list[str] = field(default_factory=list)
    """Operators that take more time than their float32 counterparts, what costs most first."""
    lossy_layers: list[LossyLayer] = field(default_factory=list)
    not_run: str | None = None
    """Why it was not run."""
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the variant as plain values for JSON."""
        return {**asdict(self), "lossy_layers": [layer._asdict() for layer in self.lossy_layers]}


def refuse_unknown_provider(provider: str) -> None:
    """Raise ValueError unless this build of onnxruntime has the execution provider."""
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise ValueError(
            f"onnxruntime here has no {provider}; choose one of {', '.join(available)}, or install the build of "
            "onnxruntime that has it."
        )


def onnx_predictor(file: Path, threads: int, provider: str) -> Predict:
    """Return what runs an ONNX file."""
    session = open_session(str(file), threads, provider=provider)
    name = session.get_inputs()[0].name

    def predict(images: np.ndarray) -> np.ndarray:
        return session.run(None, {name: images})[0]

    return predict


def predict_classes(predict: Predict, batches: Iterable[np.ndarray]) -> np.ndarray:
    """Return the predicted classes (N,) of batches, the last of which is filled up to the size of the first.

    A network that is compiled for a batch size runs all of them.
    """
    classes, size = [], None
    for images in batches:
        size = size or len(images)
        full = images if len(images) == size else np.resize(images, (size, *images.shape[1:]))
        classes.append(predict(full)[: len(images)].argmax(1))
    return np.concatenate(classes)


def time_in_turns(
    predictors: Mapping[str, Predict], images: np.ndarray, *, threads: int, runs: int
) -> dict[str, Timing]:
    """Return the percentiles of ``runs`` runs of each, which take turns of ten after one that is not timed.

    Parameters
    ----------
    predictors
        By name, all with the same number of threads.
    images
        The batch, the same in every run.
    threads
        Noted in the result.
    runs
        Of each.
    """
    seconds: dict[str, list[float]] = {name: [] for name in predictors}
    for start in range(0, runs, _TURN):
        for name, predict in predictors.items():
            predict(images)
            for _ in range(min(_TURN, runs - start)):
                begin = time.perf_counter()
                predict(images)
                seconds[name].append(time.perf_counter() - begin)
    return {
        name: Timing(len(images), threads, runs, *(1e3 * np.percentile(taken, (50, 90, 99))).tolist())
        for name, taken in seconds.items()
    }


def profile(file: Path, image: np.ndarray, provider: str) -> Profile:
    """Return where a run on one image spends its time, with one thread, from onnxruntime's profiler."""
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(str(file), 1, provider=provider, profile=f"{folder}/profile")
        name = session.get_inputs()[0].name
        for _ in range(_PROFILED_RUNS):
            session.run(None, {name: image})
        events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    by_node: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in kernels:
        node = (event["name"].removesuffix("_kernel_time"), event["args"]["op_name"])
        by_node[node].append(event["dur"] / 1e3)
    # Of several runs the median: one that the machine interrupted says nothing of the node.
    nodes = [NodeTime(*node, float(np.median(milliseconds))) for node, milliseconds in by_node.items()]
    by_operator: dict[str, list[float]] = defaultdict(list)
    for each in nodes:
        by_operator[each.operator].append(each.milliseconds)
    operators = [OperatorTime(name, len(times), sum(times)) for name, times in by_operator.items()]
    return Profile(
        tuple(sorted(operators, key=lambda each: -each.milliseconds)),
        tuple(sorted(nodes, key=lambda each: -each.milliseconds)[:_NAMED]),
        any(event["args"].get("provider") == provider for event in kernels),
    )


def slower_operators(quantised: Profile, reference: Profile) -> list[str]:
    """Return the operators that take more time in an INT8 model than their float counterparts, what costs most first.

    ``QLinearConv`` is compared with ``Conv``, and so on; conversions between integers and floats have no counterpart.
    """
    before: dict[str, float] = defaultdict(float)
    for each in reference.operators:
        before[each.operator] += each.milliseconds
    after: dict[str, float] = defaultdict(float)
    names: dict[str, str] = {}
    for each in quantised.operators:
        counterpart = each.operator.removeprefix("QLinear")
        after[counterpart] += each.milliseconds
        names.setdefault(counterpart, each.operator)
    excess = {name: milliseconds - before[name] for name, milliseconds in after.items()}
    return [
        f"{names[name]} +{excess[name]:.2f} ms"
        for name in sorted(excess, key=lambda each: -excess[each])
        if excess[name] >= 0.005
    ]


def float16_note(file: Path, measured: Profile) -> str | None:
    """Return a sentence if the provider computes a float16 model in float32, between conversions; else None."""
    written = sum(node.op_type == "Cast" for node in onnx.load(file, load_external_data=False).graph.node)
    casts = next((each.nodes for each in measured.operators if each.operator == "Cast"), 0)
    if casts <= written:
        return None
    return f"the provider lacks float16 operators: it computes in float32 between {casts} conversions"


def print_variants(report: Mapping[str, Any], folder: str | Path) -> None:
    """Print ``variants.json`` as two tables, and below them what explains the figures."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    variants: Sequence[Mapping[str, Any]] = report["variants"]
    console = Console(highlight=False)
    quality = Table(title=f"Variants of {escape(str(folder))}", title_justify="left")
    for heading in ("variant", "accuracy %", "as float32 %", "bytes", "of float32"):
        quality.add_column(heading, justify="left" if heading == "variant" else "right")
    for each in variants:
        quality.add_row(
            each["name"],
            _shown(each["accuracy"], ".2f"),
            _shown(each["agreement"], ".2f"),
            _shown(each["file_bytes"], ",d"),
            _shown(each["share_of_float32"], ".2f"),
        )
    console.print(quality)

    columns = list(dict.fromkeys((t["threads"], t["batch_size"]) for each in variants for t in each["timings"]))
    latency = Table(title=f"Milliseconds, p50 / p90 / p99 ({escape(report['provider'])})", title_justify="left")
    latency.add_column("variant")
    for threads, batch_size in columns:
        latency.add_column(f"{threads} thread{'s' * (threads > 1)}, batch {batch_size}", justify="right")
    for each in variants:
        found = {(t["threads"], t["batch_size"]): t for t in each["timings"]}
        cells = [
            f"{t['p50_ms']:.2f} / {t['p90_ms']:.2f} / {t['p99_ms']:.2f}" if (t := found.get(column)) else "-"
            for column in columns
        ]
        latency.add_row(each["name"], *cells)
    console.print(latency)

    for each in variants:
        for line in _explanations(each):
            console.print(f"{each['name']}: {escape(line)}", soft_wrap=True)


def _explanations(variant: Mapping[str, Any]) -> list[str]:
    lines = [f"not run: {variant['not_run']}"] if variant["not_run"] else []
    lines += variant["notes"]
    if variant["profile"]:
        operators = ", ".join(
            f"{o['operator']} {o['milliseconds']:.2f} ms" for o in variant["profile"]["operators"][:_NAMED]
        )
        nodes = ", ".join(f"{n['node']} {n['milliseconds']:.2f} ms" for n in variant["profile"]["slowest_nodes"])
        lines += [f"slowest operators {operators}", f"slowest nodes {nodes}"]
    if variant["slower_operators"]:
        lines.append(f"slower than in float32: {', '.join(variant['slower_operators'])}")
    if variant["lossy_layers"]:
        layers = (f"{e['layer']} ({e['noise_ratio_db']:.0f} dB)" for e in variant["lossy_layers"])
        lines.append(f"least exact layers, signal to noise: {', '.join(layers)}")
    return lines


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
