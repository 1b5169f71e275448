"""How well a latency table predicts, and what a search gains by it.

    python benchmarks/latency_aware.py predict --space bcnn --channels 16 --size 16
    python benchmarks/latency_aware.py predict --space darts --channels 16 --layers 8 --size 32
    python benchmarks/latency_aware.py search npz:CIFAR10_10K.npz --size 16 --seeds 3

``predict`` measures a table, then random networks that took no part in it: rank correlation and mean error. ``search``
searches with and without the penalty at equal budget, retrains what was found for a few epochs and measures it. Every
piece is a file under ``OUTPUT/runs``, so that an interrupted benchmark resumes. All of it on one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from searching import search_arguments, small_images

from nni_plugins.deploy.latency import measure_table, network_ms, random_genotypes
from nni_plugins.report.latency_table import LatencyTable
from nni_plugins.run.latency import latency_report, measure
from nni_plugins.run.retrain import retrain
from nni_plugins.run.search import search
from nni_plugins.run.settings import Settings
from nni_plugins.tools.atomic_files import atomic_write, strict_json
from nni_plugins.tools.console import quiet_libraries
from search_spaces import Genotype, evaluation_net

CALIBRATION_SEED = 1000
"""Of the networks that a table is fitted to; those that it predicts have seed 0."""


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the piece in the file ``path``, made and written if there is none yet."""
    if not path.is_file():
        atomic_write(path, strict_json(make()) + "\n")
        print(f"{path.stem} done", flush=True)
    return json.loads(path.read_text())


# Predicted against measured latency of random networks


def predict(arguments: argparse.Namespace) -> str:
    """Return the table of predicted and measured latencies, as Markdown."""
    name = "-".join(
        str(part)
        for part in (arguments.space, arguments.channels, arguments.layers, arguments.size)
        if part is not None
    )
    sizes = {"layers": arguments.layers} if arguments.layers is not None else {}

    def net(genotype: Genotype) -> torch.nn.Module:
        return evaluation_net(genotype, "cifar10", channels=arguments.channels, **sizes)

    table_file = arguments.output / "runs" / f"latency-{name}.json"
    if not table_file.is_file():
        fitted_to = random_genotypes(arguments.space, arguments.fitted, CALIBRATION_SEED)
        table = measure_table(
            arguments.space, net, fitted_to, in_channels=3, image_size=arguments.size, runs=arguments.runs
        )
        atomic_write(table_file, table.to_json())
    table = LatencyTable.load(table_file)
    example = torch.randn(1, 3, arguments.size, arguments.size)
    genotypes = random_genotypes(arguments.space, arguments.networks)

    def measured() -> dict[str, Any]:
        return {"ms": network_ms([net(genotype) for genotype in genotypes], example, runs=arguments.runs)}

    found = kept(arguments.output / "runs" / f"latency-{name}-{arguments.networks}-nets.json", measured)
    pairs = list(zip(map(table.predict, genotypes), found["ms"], strict=True))
    error = statistics.mean(abs(predicted / found - 1) for predicted, found in pairs)
    rank = spearmanr(*zip(*pairs, strict=True)).statistic
    rows = "\n".join(
        f"| {predicted:.3f} | {found:.3f} |" for predicted, found in sorted(pairs, key=lambda pair: pair[1])
    )
    return (
        f"# {name}: {len(pairs)} random networks, one thread of {table.machine}, onnxruntime {table.onnxruntime}\n\n"
        f"Rank correlation {rank:.3f}, mean error {100 * error:.1f} %; fixed {table.fixed_ms:.3f} ms, scale "
        f"{table.scale:.2f}.\n\n| predicted ms | measured ms |\n| --- | --- |\n{rows}\n"
    )


# Searches with and without the penalty


def settings_of(arguments: argparse.Namespace, seed: int, weight: float, table: Path | None) -> Settings:
    """Return the settings of one search and its retraining."""
    latency = {"latency_table": str(table), "latency_weight": weight} if table is not None else {}
    return Settings.of(
        strategy=arguments.strategy,
        data=arguments.data,
        seed=seed,
        overrides={
            "epochs": arguments.epochs,
            "batch_size": arguments.batch,
            "lr": arguments.lr,
            "arch_learning_rate": arguments.arch_lr,
            "warmup_epochs": arguments.warmup,
            "consistency_batches": 0,
            "space.channels": arguments.channels,
            "net.channels": arguments.net_channels,
            "net.deep_cells": 1,
            "net.enhancement_cells": 1,
            "retrain.epochs": arguments.retrain_epochs,
            "retrain.batch_size": 128,
            "retrain.lr": 0.05,
            "retrain.cutout": 0,
            "retrain.drop_path": 0.0,
            **latency,
        },
    )


def compare_searches(arguments: argparse.Namespace) -> str:
    """Return the table of searches by weight of latency, as Markdown."""
    data, runs = small_images(arguments), arguments.output / "runs"
    table_file = runs / f"latency-search-{arguments.net_channels}-{arguments.size}.json"
    if not table_file.is_file():
        table = measure(settings_of(arguments, CALIBRATION_SEED, 0, None), data)
        atomic_write(table_file, table.to_json())
    table = LatencyTable.load(table_file)
    found: dict[float, list[dict[str, Any]]] = {weight: [] for weight in arguments.weights}
    for seed in range(arguments.seeds):
        for weight in arguments.weights:
            settings = settings_of(arguments, seed, weight, table_file)
            folder = runs / f"{arguments.strategy}-{arguments.epochs}-weight{weight:g}-seed{seed}"

            def one(settings: Settings = settings, folder: Path = folder) -> dict[str, Any]:
                result = search(settings, data, folder)
                retrained = retrain(result.genotype, settings, data, folder, sample=result.sample)
                return {
                    "genotype": result.genotype.to_json(),
                    "accuracy": retrained.test_accuracy,
                    **latency_report(result.genotype, retrained.net, table, data),
                }

            found[weight].append(kept(folder.with_suffix(".json"), one))

    def column(results: list[dict[str, Any]], name: str, digits: int) -> str:
        values = [result[name] for result in results]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        return f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}"

    rows = "\n".join(
        f"| {weight:g} | {column(results, 'measured_ms', 3)} | {column(results, 'predicted_ms', 3)} | "
        f"{column(results, 'accuracy', 2)} |"
        for weight, results in found.items()
    )
    return (
        f"# {arguments.strategy}, {arguments.seeds} seeds, one thread of {table.machine}\n\n"
        f"| weight of latency | measured ms | predicted ms | test accuracy |\n| --- | --- | --- | --- |\n{rows}\n"
    )


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parts = parser.add_subparsers(dest="part", required=True)
    one = parts.add_parser("predict")
    one.add_argument("--space", default="bcnn")
    one.add_argument("--channels", type=int, default=16)
    one.add_argument("--layers", type=int)
    one.add_argument("--size", type=int, default=32)
    one.add_argument("--networks", type=int, default=20)
    one.add_argument("--fitted", type=int, default=8, help="further networks that the table is fitted to")
    one.add_argument("--runs", type=int, default=400, help="runs of a network, of which the fastest counts")
    one.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    other = parts.add_parser(
        "search", parents=[search_arguments("", size=16, channels=8, epochs=8, lr=0.1)], add_help=False
    )
    other.add_argument("--strategy", default="bnas_v2_pc")
    other.add_argument("--arch-lr", type=float, default=0.06)
    other.add_argument("--warmup", type=int, default=1)
    other.add_argument("--weights", type=float, nargs="+", default=[0.0, 1.0], help="weights of latency to compare")
    other.add_argument("--net-channels", type=int, default=16)
    other.add_argument("--retrain-epochs", type=int, default=6)
    return parser


def main() -> None:
    """Run one part and write its table."""
    arguments = build_parser().parse_args()
    quiet_libraries()
    torch.set_num_threads(1)
    text = predict(arguments) if arguments.part == "predict" else compare_searches(arguments)
    print(text)
    name = text.partition(",")[0].partition(":")[0].removeprefix("# ")
    atomic_write(arguments.output / f"latency_aware_{arguments.part}_{name}.md", text)


if __name__ == "__main__":
    main()
