"""INT8 beside float32: accuracy of trained results, latency of published networks, and ways to quantise, one at a time.

    python benchmarks/variants.py --results exported/example --published bnas_v2_clr_v1 darts_v2

A ratio of times is that of medians of runs that alternate, INT8 and float32 in turn, one thread, one image. Beside the
time on the clock stands the CPU time of the thread, which other processes on the machine do not lengthen. Published
networks have random weights, at their published size. Each measurement is kept as a JSON file in ``--work``, and not
repeated when the command is run again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType

from nni_plugins.data import ImageSet, load_data
from nni_plugins.deploy.check import load_reference
from nni_plugins.deploy.export import export_onnx
from nni_plugins.deploy.latency import machine
from nni_plugins.deploy.precision import to_int8
from nni_plugins.deploy.session import PROVIDER, open_session
from nni_plugins.deploy.variants import onnx_predictor, predict_classes, profile, slower_operators
from nni_plugins.run.genotypes import read_report
from nni_plugins.run.variants import calibration_images
from nni_plugins.tools.atomic_files import atomic_write, strict_json
from search_spaces import evaluation_net, published

CHOSEN = "chosen"
WAYS: dict[str, Callable[[onnx.ModelProto], dict[str, Any]]] = {
    CHOSEN: lambda model: {},
    "weights per tensor": lambda model: {"per_channel": False},
    "activations int8": lambda model: {"activation_type": QuantType.QInt8},
    "7-bit weights": lambda model: {"reduce_range": True},
    "entropy calibration": lambda model: {"method": "entropy"},
    "percentile calibration": lambda model: {"method": "percentile"},
    "convolutions only": lambda model: {"op_types_to_quantize": ["Conv", "Gemm"]},
    "first and last float": lambda model: {"nodes_to_exclude": _first_and_last(model)},
    "depthwise float": lambda model: {"nodes_to_exclude": _depthwise(model)},
}
"""What each changes of what ``nni-plugins variants`` does."""


def _first_and_last(model: onnx.ModelProto) -> list[str]:
    layers = [node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    return [layers[0], layers[-1]]


def _depthwise(model: onnx.ModelProto) -> list[str]:
    groups = {node.name: {a.name: a.i for a in node.attribute}.get("group", 1) for node in model.graph.node}
    return [name for name, group in groups.items() if group > 1]


def compare(
    model: Path, way: str, images: np.ndarray, data: ImageSet | None, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Return size, times and, with data, accuracies of an INT8 model beside its float model."""
    with tempfile.TemporaryDirectory() as folder:
        quantised = Path(folder) / "int8.onnx"
        to_int8(model, quantised, images, **WAYS[way](onnx.load(model)))
        found: dict[str, Any] = {"size": quantised.stat().st_size / model.stat().st_size}
        found |= _times(model, quantised, images[:1], arguments.runs)
        profiles = [profile(file, images[:1], PROVIDER) for file in (quantised, model)]
        found["slower"] = slower_operators(*profiles)
        if data is not None:
            labels = data.y_test.numpy()
            plain, integer = (
                predict_classes(onnx_predictor(file, 1, PROVIDER), _test_images(data)) for file in (model, quantised)
            )
            found |= {
                "float32_accuracy": 100 * float((plain == labels).mean()),
                "accuracy": 100 * float((integer == labels).mean()),
                "agreement": 100 * float((plain == integer).mean()),
            }
    return found


def _test_images(data: ImageSet) -> Any:
    return (images.numpy() for images, _ in data.loader("test", training=False, batch_size=64, seed=0))


def _times(model: Path, quantised: Path, image: np.ndarray, runs: int) -> dict[str, float]:
    sessions = [open_session(str(file), 1) for file in (model, quantised)]
    clock, cpu = np.empty((2, runs)), np.empty((2, runs))
    for run in range(-5, runs):
        for index, session in enumerate(sessions):
            begin = time.perf_counter(), time.thread_time()
            session.run(None, {"images": image})
            if run >= 0:
                clock[index, run], cpu[index, run] = time.perf_counter() - begin[0], time.thread_time() - begin[1]
    (float32_ms, int8_ms), (float32_cpu_ms, int8_cpu_ms) = (1e3 * np.median(each, 1) for each in (clock, cpu))
    return {
        "float32_ms": float(float32_ms),
        "int8_ms": float(int8_ms),
        "float32_cpu_ms": float(float32_cpu_ms),
        "int8_cpu_ms": float(int8_cpu_ms),
    }


def published_model(name: str, work: Path) -> Path:
    """Return the ONNX file of a published cell at its published CIFAR-10 size, with random weights."""
    file = work / f"{name}.onnx"
    if not file.exists():
        torch.manual_seed(0)
        net = evaluation_net(published(name), "cifar10")
        with torch.no_grad():
            net(torch.randn(16, 3, 32, 32))  # statistics of BatchNorm
        partial = file.with_suffix(".partial")
        export_onnx(net, torch.randn(2, 3, 32, 32), partial)
        os.replace(partial, file)
    return file


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row per network and way, from ``--work`` where it is known."""
    rows = []
    for name in [*arguments.results, *arguments.published]:
        trained = name in arguments.results
        ways = list(WAYS) if arguments.ways is None or Path(name).name in arguments.ways else [CHOSEN]
        for way in ways:
            key = hashlib.sha256(json.dumps([name, way, arguments.images, arguments.runs]).encode()).hexdigest()[:16]
            piece = arguments.work / f"{key}.json"
            if not piece.exists():
                print(f"{name}, {way}", flush=True)
                row = {"network": Path(name).name, "trained": trained, "way": way}
                row |= _row(name, way, trained=trained, arguments=arguments)
                atomic_write(piece, strict_json(row))
            rows.append(json.loads(piece.read_text()))
    return rows


def _row(name: str, way: str, *, trained: bool, arguments: argparse.Namespace) -> dict[str, Any]:
    if not trained:
        images = np.random.default_rng(0).normal(size=(arguments.images // 8, 3, 32, 32)).astype(np.float32)
        return compare(published_model(name, arguments.work), way, images, None, arguments)
    folder = Path(name)
    load_reference(folder / "reference.npz")
    data = load_data(read_report(folder)["settings"]["data"])
    return compare(folder / "model.onnx", way, calibration_images(data, arguments.images, 0), data, arguments)


def markdown(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> str:
    """Return the rows as a table."""
    lines = [
        f"INT8 of float32, one thread, one image, medians of {arguments.runs} alternating runs; trained networks "
        f"calibrated on {arguments.images} training images and tested on the whole test set. {machine()}; onnxruntime "
        f"{onnxruntime.__version__}, torch {torch.__version__}.",
        "",
        "| network | INT8 made by | accuracy float32 | INT8 | as float32 % | size of float32 | float32 CPU ms | "
        "INT8 of float32, CPU time | on the clock | operators that cost more than in float32 |",
        "| --- " * 10 + "|",
    ]
    for row in rows:
        accuracies = (
            [f"{row[key]:.2f}" for key in ("float32_accuracy", "accuracy", "agreement")]
            if row["trained"]
            else ["-"] * 3
        )
        cells = [
            row["network"],
            row["way"],
            *accuracies,
            f"{row['size']:.3f}",
            f"{row['float32_cpu_ms']:.2f}",
            f"{row['int8_cpu_ms'] / row['float32_cpu_ms']:.2f}",
            f"{row['int8_ms'] / row['float32_ms']:.2f}",
            ", ".join(row["slower"][:3]) or "none",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(_described(Path(name)) for name in arguments.results)]) + "\n"


def _described(folder: Path) -> str:
    """Return what a trained network is, in one line."""
    report = read_report(folder)
    data, settings = report["data"], report["settings"]
    sizes = ", ".join(f"{name} {value}" for name, value in settings["net_arguments"].items())
    return (
        f"- {folder.name}: {settings['space']} ({sizes}), {settings['retrain']['epochs']} epochs, "
        f"{data['training_images']} training and {data['test_images']} test images of side {data['image_size']}"
    )


def main() -> None:
    """Measure what is not measured yet, and write ``variants.json`` and ``variants.md``."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--results", nargs="*", default=[], help="result folders of trained networks")
    parser.add_argument("--published", nargs="*", default=[], help="published cells")
    parser.add_argument("--ways", nargs="*", help="networks to try all ways on (default: all networks)")
    parser.add_argument("--images", type=int, default=256, help="calibration images; an eighth for published cells")
    parser.add_argument("--runs", type=int, default=50, help="timed runs of each")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is measured already")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder for the results")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    rows = measure(arguments)
    atomic_write(arguments.output / "variants.json", strict_json(rows) + "\n")
    atomic_write(arguments.output / "variants.md", markdown(rows, arguments))
    print(markdown(rows, arguments))


if __name__ == "__main__":
    main()
