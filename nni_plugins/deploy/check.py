"""Deployment check: is an exported folder's ``model.onnx`` still the network that was trained?

The check needs two files, ``model.onnx`` and ``reference.npz`` (real images, their labels, the logits that PyTorch
gave for them, the percentage that it classified as labelled, and the SHA-256 of the model), and neither torch nor nni,
so it can be repeated wherever the model goes. Where ``standalone.onnx`` is, it is checked against ``standalone.npz``
(:mod:`nni_plugins.deploy.standalone`).

The model must be byte for byte the exported one, hold its weights itself, satisfy ``onnx.checker`` in full, load in
onnxruntime, take batches of any size, and agree with PyTorch:

    max |logits_onnxruntime - logits_pytorch|  <=  tolerance * max |logits_pytorch|,    argmax equal for every image.

Rounding differs by some 1e-6 of the largest logit between the two runtimes. A changed weight that moves the logits by
less than the tolerance is caught by the checksum.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime

from nni_plugins.deploy.result_folder import MODEL_FILE, REFERENCE_FILE, STANDALONE_FILE
from nni_plugins.deploy.session import Unusable, first_line, open_session, read_arrays, read_bytes, run_model
from nni_plugins.deploy.standalone import StandaloneParity, check_standalone, opset_of
from nni_plugins.tools.atomic_files import strict_json
from nni_plugins.tools.console import complain

BATCH_SIZES = (1, 3, 64)
TOLERANCE = 1e-4
_WARMUP_RUNS = 20


class Reference(NamedTuple):
    """What ``reference.npz`` holds: the inputs of the check and the answers expected."""

    images: np.ndarray
    """float32 (N, C, H, W), normalised: exactly what the network is fed."""
    labels: np.ndarray
    """int64 (N,), the true classes."""
    logits: np.ndarray
    """float32 (N, classes), PyTorch's answer in evaluation mode on the CPU."""
    sha256: str
    """Hexadecimal checksum of ``model.onnx``."""
    accuracy: float
    """Percent of the images that PyTorch classified as labelled."""

    def save(self, path: Path) -> None:
        """Write the five arrays as one compressed ``.npz``."""
        np.savez_compressed(path, **self._asdict())


@dataclass(frozen=True)
class Parity:
    """Agreement of onnxruntime with PyTorch at one batch size."""

    batch_size: int
    images: int
    max_abs_difference: float
    max_rel_difference: float
    """The former over the largest absolute logit of PyTorch."""
    top1_equal: bool


@dataclass(frozen=True)
class Latency:
    """Percentiles of the time of one run, in milliseconds."""

    batch_size: int
    runs: int
    warmup_runs: int
    threads: int
    provider: str
    p50_ms: float
    p90_ms: float
    p99_ms: float


@dataclass(frozen=True)
class DeploymentReport:
    """Result of :func:`check_deployment`; what could not be measured is None or empty."""

    failures: tuple[str, ...] = ()
    """One sentence for each thing that is wrong."""
    tolerance: float = TOLERANCE
    parity: tuple[Parity, ...] = ()
    accuracy: float | None = None
    """Percent of the reference images that onnxruntime classifies as labelled."""
    reference_images: int = 0
    latency: Latency | None = None
    sha256: str | None = None
    file_bytes: int | None = None
    operators: dict[str, int] = field(default_factory=dict)
    """Nodes of the ONNX graph by operator, the most frequent first."""
    opset: int | None = None
    standalone: StandaloneParity | None = None
    """Of ``standalone.onnx``; None for a folder without it."""
    onnx_version: str = onnx.__version__
    onnxruntime_version: str = onnxruntime.__version__

    @property
    def passed(self) -> bool:
        """True if nothing failed."""
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values for JSON; a number that is not finite becomes None."""
        return {"passed": self.passed, **_plain(asdict(self))}


def check_deployment(
    folder: str | Path, *, tolerance: float = TOLERANCE, threads: int = 1, latency_runs: int = 200
) -> DeploymentReport:
    """Check ``model.onnx`` against ``reference.npz``; faults of the files are failures in the report, not exceptions.

    Parameters
    ----------
    folder
        Where the two files lie.
    tolerance
        Largest difference allowed between a logit and PyTorch's, as a fraction of PyTorch's largest absolute logit.
    threads
        Threads that onnxruntime may use.
    latency_runs
        Timed runs on one image, after 20 that are not timed.

    Returns
    -------
    DeploymentReport
        ``passed`` is True only if every check held.

    Raises
    ------
    ValueError
        If ``tolerance`` is not a positive number, or ``threads`` or ``latency_runs`` is less than 1.
    """
    if not 0 < tolerance < math.inf:
        raise ValueError(f"tolerance must be a positive number, got {tolerance}; the default is {TOLERANCE}.")
    for name, value in (("threads", threads), ("latency_runs", latency_runs)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")

    failures: list[str] = []
    found: dict[str, Any] = {"tolerance": tolerance}
    try:
        _check(Path(folder), tolerance, threads, latency_runs, failures, found)
    except Unusable as error:
        failures.append(str(error))
    return DeploymentReport(failures=tuple(failures), **found)


def _check(
    folder: Path, tolerance: float, threads: int, latency_runs: int, failures: list[str], found: dict[str, Any]
) -> None:
    """Add what is wrong to ``failures`` and what was measured to ``found``, until the end or an ``Unusable``."""
    content = read_bytes(folder / MODEL_FILE)
    reference = load_reference(folder / REFERENCE_FILE)
    found["reference_images"] = len(reference.images)

    found["sha256"], found["file_bytes"] = hashlib.sha256(content).hexdigest(), len(content)
    if found["sha256"] != reference.sha256:
        failures.append(
            f"{MODEL_FILE} is not the file that was exported: its SHA-256 starts with {found['sha256'][:12]}, "
            f"{REFERENCE_FILE} expects {reference.sha256[:12]}; export it again."
        )

    model = _parse(content)
    found["operators"] = dict(Counter(node.op_type for node in model.graph.node).most_common())
    found["opset"] = opset_of(model)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise Unusable(f"{MODEL_FILE} does not satisfy onnx.checker: {first_line(error)}") from error

    session = open_session(content, threads, name=MODEL_FILE)
    _check_interface(session, reference)

    scale = max(float(np.abs(reference.logits).max()), np.finfo(np.float32).tiny)
    found["parity"] = ()
    for batch_size in BATCH_SIZES:
        parity = _parity(session, reference, batch_size, scale)
        found["parity"] += (parity,)
        # Written so that a difference of NaN fails too.
        if not parity.max_rel_difference <= tolerance:
            failures.append(
                f"At batch {batch_size} the logits differ from PyTorch's by up to {parity.max_abs_difference:.3g}, "
                f"{parity.max_rel_difference:.3g} of the largest logit, more than the tolerance of {tolerance:g}."
            )
        if not parity.top1_equal:
            failures.append(f"At batch {batch_size} the predicted class differs from PyTorch's for at least one image.")

    predicted = run_model(session, reference.images, name=MODEL_FILE).argmax(1)
    found["accuracy"] = 100 * float((predicted == reference.labels).mean())
    expected = 100 * float((reference.logits.argmax(1) == reference.labels).mean())
    if not abs(expected - reference.accuracy) < 1e-6:
        failures.append(
            f"PyTorch classified {reference.accuracy:.2f} % of the reference images as labelled when they were "
            f"exported, and {expected:.2f} % by the labels that {REFERENCE_FILE} has now."
        )
    differing = int((predicted != reference.logits.argmax(1)).sum())
    if differing:
        failures.append(
            f"The predicted class differs from PyTorch's for {differing} of the {len(predicted)} reference images."
        )
    found["latency"] = _latency(session, reference.images[:1], threads, latency_runs)
    found["standalone"], faults = check_standalone(folder, model, threads)
    failures += faults


def load_reference(path: Path) -> Reference:
    """Read ``reference.npz`` without executing anything in it, and check its arrays against each other."""
    arrays = read_arrays(path, Reference._fields)
    images, labels, logits, sha256, accuracy = (arrays[name] for name in Reference._fields)
    shapes_fit = (
        images.ndim == 4
        and logits.ndim == 2
        and images.size > 0
        and logits.size > 0
        and labels.shape == images.shape[:1] == logits.shape[:1]
    )
    if not shapes_fit or images.dtype != np.float32 or logits.dtype != np.float32:
        raise Unusable(
            f"{path} must hold float32 images (N, C, H, W), labels (N) and float32 logits (N, classes), got images "
            f"{images.dtype} {images.shape}, labels {labels.shape} and logits {logits.dtype} {logits.shape}."
        )
    if not (np.isfinite(images).all() and np.isfinite(logits).all()):
        raise Unusable(f"{path} holds images or logits that are not finite, so nothing can be compared with them.")
    classes = logits.shape[1]
    if not np.issubdtype(labels.dtype, np.integer) or not 0 <= labels.min() <= labels.max() < classes:
        raise Unusable(
            f"{path} must hold whole numbers from 0 to {classes - 1} as labels, one of {classes} classes each, got "
            f"{labels.dtype} from {labels.min()} to {labels.max()}; export the result again."
        )
    if accuracy.shape != () or not np.issubdtype(accuracy.dtype, np.floating):
        raise Unusable(
            f"{path} must hold the accuracy as one number, got {accuracy.dtype} {accuracy.shape}; export the result "
            "again."
        )
    return Reference(images, labels, logits, str(sha256), float(accuracy))


def _parse(content: bytes) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:
        raise Unusable(f"{MODEL_FILE} is not an ONNX model or is damaged: {first_line(error)}") from error
    if not model.graph.node:
        raise Unusable(f"{MODEL_FILE} is damaged: its graph is empty; export the result again.")
    outside = [t.name for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    if outside:
        raise Unusable(f"{MODEL_FILE} keeps {outside[0]} in another file; export it with all weights inside.")
    return model


def _check_interface(session: onnxruntime.InferenceSession, reference: Reference) -> None:
    """Refuse all but one input (batch, C, H, W) with a free batch size and one output."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise Unusable(f"{MODEL_FILE} must have one input and one output, got {len(inputs)} and {len(outputs)}.")
    shape, expected = inputs[0].shape, list(reference.images.shape[1:])
    if len(shape) != 4 or isinstance(shape[0], int) or shape[1:] != expected:
        raise Unusable(
            f"{MODEL_FILE} must take images of shape (batch, {', '.join(map(str, expected))}) with a free batch size, "
            f"it takes ({', '.join(map(str, shape))})."
        )


def _parity(session: onnxruntime.InferenceSession, reference: Reference, batch_size: int, scale: float) -> Parity:
    # As many full batches as 64 images give; a smaller reference is gone through again.
    count = max(BATCH_SIZES) // batch_size * batch_size
    index = np.arange(count) % len(reference.images)
    expected = reference.logits[index]
    logits = run_model(session, reference.images[index], batch_size, name=MODEL_FILE)
    if logits.shape != expected.shape:
        raise Unusable(
            f"{MODEL_FILE} gives logits of shape {logits.shape} for {count} images, expected {expected.shape}."
        )
    difference = float(np.abs(logits.astype(np.float64) - expected).max())
    top1_equal = bool((logits.argmax(1) == expected.argmax(1)).all())
    return Parity(batch_size, count, difference, difference / scale, top1_equal)


def _latency(session: onnxruntime.InferenceSession, image: np.ndarray, threads: int, runs: int) -> Latency:
    feed = {session.get_inputs()[0].name: image}
    for _ in range(_WARMUP_RUNS):
        session.run(None, feed)
    milliseconds = np.empty(runs)
    for index in range(runs):
        start = time.perf_counter()
        session.run(None, feed)
        milliseconds[index] = 1e3 * (time.perf_counter() - start)
    p50, p90, p99 = np.percentile(milliseconds, (50, 90, 99)).tolist()
    return Latency(len(image), runs, _WARMUP_RUNS, threads, session.get_providers()[0], p50, p90, p99)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def print_report(report: DeploymentReport, folder: str | Path) -> None:
    """Print the report as a table, then what failed, sentence by sentence."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"Deployment check of {escape(str(folder))}", show_header=False, title_justify="left")
    table.add_column()
    table.add_column(overflow="fold")
    for parity in report.parity:
        table.add_row(
            f"parity at batch {parity.batch_size}",
            f"largest difference {parity.max_abs_difference:.2e}, relative {parity.max_rel_difference:.2e} "
            f"(allowed {report.tolerance:.0e}); top-1 {'equal' if parity.top1_equal else 'DIFFERS'}",
        )
    if report.accuracy is not None:
        table.add_row("accuracy", f"{report.accuracy:.2f} % of {report.reference_images} reference images")
    if (standalone := report.standalone) is not None:
        table.add_row(
            STANDALONE_FILE,
            f"largest difference of a probability {standalone.max_difference:.2e} on {standalone.pictures} pictures of "
            f"several sizes; top-1 {'equal' if standalone.top1_equal else 'DIFFERS'}; {standalone.file_bytes:,} bytes",
        )
    if (latency := report.latency) is not None:
        table.add_row(
            "latency, one image",
            f"p50 {latency.p50_ms:.3f} ms, p90 {latency.p90_ms:.3f} ms, p99 {latency.p99_ms:.3f} ms "
            f"({latency.runs} runs, {latency.threads} thread{'s' * (latency.threads > 1)}, {latency.provider})",
        )
    if report.file_bytes is not None:
        table.add_row("file", f"{report.file_bytes:,} bytes, SHA-256 {report.sha256}")
    if report.operators:
        operators = ", ".join(f"{name} {count}" for name, count in report.operators.items())
        table.add_row("operators", escape(f"{operators} (opset {report.opset})"))
    table.add_row("versions", f"onnx {report.onnx_version}, onnxruntime {report.onnxruntime_version}")

    console = Console(highlight=False)
    console.print(table)
    for failure in report.failures:
        console.print(f"[red]FAILED[/red] {escape(failure)}", soft_wrap=True)
    if report.passed:
        console.print("[green]PASSED[/green]")


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of the check."""
    parser = argparse.ArgumentParser(
        prog="nni-plugins check",
        description=f"Check that {MODEL_FILE} in an exported folder is intact and agrees with PyTorch on the real "
        f"images of {REFERENCE_FILE}. Needs neither torch nor nni. Exit status 0 only if everything holds.",
    )
    parser.add_argument("folder", type=Path, help="exported folder")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        help="largest difference of a logit, as a fraction of the largest logit (default: %(default)s)",
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of onnxruntime (default: %(default)s)")
    parser.add_argument("--latency-runs", type=int, default=200, help="timed runs on one image (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON instead of a table")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the check; returns 0 if it passed, 1 if not, 2 for a wrong argument."""
    arguments = build_parser().parse_args(argv)
    try:
        report = check_deployment(
            arguments.folder,
            tolerance=arguments.tolerance,
            threads=arguments.threads,
            latency_runs=arguments.latency_runs,
        )
    except ValueError as error:
        return complain(error)
    if arguments.json:
        print(strict_json(report.to_dict()))
    else:
        print_report(report, arguments.folder)
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
