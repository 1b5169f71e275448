"""Differentiable searches on NAS-Bench-201, their cells scored by the table after every epoch.

    python benchmarks/nasbench201_search.py npz:CIFAR10.npz NB201.npz              # the published size, on a GPU
    python benchmarks/nasbench201_search.py npz:CIFAR10.npz NB201.npz --images 10000 --size 16 --channels 4 \\
        --cells 1 --epochs 12 --arch-lr 3e-3 --workers 2                           # half an hour of 2 cores

Every search has the same images, halves, batches, steps and optimisers, and a process of its own; the table is read
when all searches are done. A search that is finished is kept under ``OUTPUT/runs`` and not run again with the same
settings.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

CONTENDERS = {
    "nni_darts": "DARTS, NNI's own",
    "darts": "DARTS",
    "darts_clr": "DARTS, confident learning rate",
    "rf_darts": "RF-DARTS",
    "rf_darts_classifier": "RF-DARTS, classifier trains",
}
DATASETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet16": "ImageNet16-120"}
SKIP = "skip_connect"


# One search, in a process of its own


def make_strategy(name: str, arch_lr: float) -> Any:
    """Return a strategy by its name in :data:`CONTENDERS`."""
    from nni.nas.strategy import DARTS as NNIDARTS

    from nni_plugins import RFDARTS, BatchNormOnly, Confident, FirstOrderDARTS

    makers: dict[str, Callable[[], Any]] = {
        "nni_darts": lambda: NNIDARTS(arc_learning_rate=arch_lr, gradient_clip_val=5.0),
        "darts": lambda: FirstOrderDARTS(arch_learning_rate=arch_lr),
        "darts_clr": lambda: FirstOrderDARTS(arch_learning_rate=arch_lr, arch_lr=Confident(power=2)),
        "rf_darts": lambda: RFDARTS(arch_learning_rate=arch_lr),
        "rf_darts_classifier": lambda: RFDARTS(arch_learning_rate=arch_lr, trains=BatchNormOnly(train_classifier=True)),
    }
    return makers[name]()


def run_search(contender: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Search once; return the architecture string of every epoch's cell, seconds and peak memory."""
    import warnings

    warnings.simplefilter("ignore")
    from search_spaces import Genotype, NASBench201, to_architecture_string  # isort: skip  before NNI

    import pytorch_lightning as pl
    import torch
    from memory import PeakMemory
    from nni.nas.evaluator.pytorch import Lightning, Trainer
    from searching import small_images

    from nni_plugins.data import search_loaders
    from nni_plugins.run.classifier import ImageClassifier
    from nni_plugins.run.settings import SearchRecipe
    from nni_plugins.tools.console import quiet_libraries

    quiet_libraries()
    cuda = torch.cuda.is_available()
    torch.set_num_threads(arguments.threads)
    data = small_images(arguments)

    class Cells(pl.Callback):
        found: list[str] = []  # noqa: RUF012  one process, one search
        memory: PeakMemory

        def on_train_start(self, *_: Any) -> None:
            self.memory = PeakMemory()

        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
            self.found.append(to_architecture_string(Genotype.from_sample(pl_module.export(), "nasbench201")))
            print(f"{contender} seed {seed} epoch {len(self.found)}: {self.found[-1]}", flush=True)

    pl.seed_everything(seed, verbose=False)
    strategy, cells = make_strategy(contender, arguments.arch_lr), Cells()
    space = NASBench201(data.num_classes, data.in_channels, channels=arguments.channels, cells=arguments.cells)
    supernet = strategy.mutate_model(space)
    weights_batches, architecture_batches, *_ = search_loaders(
        data, batch_size=arguments.batch, seed=seed, device="cuda" if cuda else "cpu"
    )
    trainer = Trainer(
        max_epochs=arguments.epochs, accelerator="gpu" if cuda else "cpu", devices=1, callbacks=[cells], logger=False,
        precision=arguments.precision, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0, num_sanity_val_steps=0,
    )  # fmt: skip
    recipe = SearchRecipe(
        epochs=arguments.epochs, batch_size=arguments.batch, lr=arguments.lr, lr_min=0.001, nesterov=True,
        weight_decay=5e-4,
    )  # fmt: skip
    evaluator = Lightning(ImageClassifier(recipe, data.num_classes), trainer, weights_batches, architecture_batches)
    started = time.perf_counter()
    strategy.mutate_evaluator(evaluator).evaluate(supernet)
    return {
        "cells": cells.found,
        "seconds": time.perf_counter() - started,
        "memory_mb": cells.memory.mb(),
        "device": torch.cuda.get_device_name() if cuda else f"{platform.machine()}, {arguments.threads} thread(s)",
        "torch": torch.__version__,
    }


# All searches


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what a search depends on."""
    names = ("data", "images", "size", "channels", "cells", "epochs", "batch", "lr", "arch_lr", "precision")
    return {name: getattr(arguments, name) for name in names}


def run_all(arguments: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Run every contender with every seed, ``workers`` at a time."""
    settings = settings_of(arguments)
    mark = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    folder = arguments.output / "runs"
    folder.mkdir(parents=True, exist_ok=True)

    def one(contender: str, seed: int) -> dict[str, Any]:
        path = folder / f"{mark}_{contender}_{seed}.json"
        if not path.is_file():
            command = [sys.executable, __file__, *sys.argv[1:], "--one", contender, str(seed), str(path)]
            subprocess.run(command, check=True)
        return json.loads(path.read_text())

    searches = [(contender, seed) for seed in range(arguments.seeds) for contender in arguments.contenders]
    with ThreadPoolExecutor(arguments.workers) as pool:
        results = list(pool.map(lambda search: one(*search), searches))
    runs: dict[str, list[dict[str, Any]]] = {contender: [] for contender in arguments.contenders}
    for (contender, _), result in zip(searches, results, strict=True):
        runs[contender].append(result)
    return runs


def score_all(runs: dict[str, list[dict[str, Any]]], table: Any) -> None:
    """Add what the table says of every epoch's cell: ``accuracy`` by data set, ``rank`` on CIFAR-10, ``skips``."""
    from nni_plugins.report.nasbench201_table import score
    from search_spaces import from_architecture_string

    for searches in runs.values():
        for search in searches:
            scores = [score(from_architecture_string(cell), table) for cell in search["cells"]]
            search["accuracy"] = {name: [each.accuracy[name] for each in scores] for name in DATASETS}
            search["rank"] = [each.rank["cifar10"] for each in scores]
            search["skips"] = [cell.count(SKIP) for cell in search["cells"]]


def mean_and_spread(values: list[float], digits: int = 2) -> str:
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def markdown(runs: dict[str, list[dict[str, Any]]], table: Any, arguments: argparse.Namespace) -> str:
    """Return the figures as a page of Markdown."""
    any_run = next(iter(runs.values()))[0]
    images = "all" if arguments.images is None else arguments.images
    lines = [
        "# Searches on NAS-Bench-201",
        "",
        f"{Path(arguments.data).name}, {images} training images at {arguments.size}x{arguments.size}, "
        f"C={arguments.channels}, {arguments.cells} cell(s) a stage, {arguments.epochs} epochs, batch "
        f"{arguments.batch}, weights' learning rate {arguments.lr:g}, alpha's {arguments.arch_lr:g}, "
        f"{arguments.seeds} seed(s); {any_run['device']}, torch {any_run['torch']}. Test accuracy of the last epoch's "
        "cell from the table, percent; mean ± standard deviation. Peak memory is above what the process held before "
        "the first step.",
        "",
        f"| search | {' | '.join(DATASETS.values())} | rank, CIFAR-10 | skips of 6 | seconds | peak MB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for contender, searches in runs.items():
        accuracies = [mean_and_spread([s["accuracy"][name][-1] for s in searches]) for name in DATASETS]
        others = [
            mean_and_spread([s["rank"][-1] for s in searches], 0),
            mean_and_spread([s["skips"][-1] for s in searches], 1),
            mean_and_spread([s["seconds"] for s in searches], 0),
            mean_and_spread([s["memory_mb"] for s in searches], 0),
        ]
        lines.append(f"| {CONTENDERS[contender]} | {' | '.join([*accuracies, *others])} |")
    average = [f"{table.accuracy[name].mean():.2f}" for name in DATASETS]
    best = [f"{table.accuracy[name].max():.2f}" for name in DATASETS]
    lines.append(f"| a cell at random (mean of the table) | {' | '.join(average)} | | | | |")
    lines.append(f"| best cell of the table | {' | '.join(best)} | | | | |")
    return "\n".join(lines) + "\n"


def picture(runs: dict[str, list[dict[str, Any]]], table: Any, path: Path) -> None:
    """Draw accuracy and skips of the derived cell over epochs: mean and range of the seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6))
    for contender, searches in runs.items():
        for panel, values in (
            (left, np.array([search["accuracy"]["cifar10"] for search in searches])),
            (right, np.array([search["skips"] for search in searches])),
        ):
            epochs = np.arange(1, values.shape[1] + 1)
            (line,) = panel.plot(epochs, values.mean(0), label=CONTENDERS[contender])
            panel.fill_between(epochs, values.min(0), values.max(0), color=line.get_color(), alpha=0.12, linewidth=0)
    left.axhline(table.accuracy["cifar10"].max(), color="grey", linewidth=0.8, linestyle="--")
    left.axhline(table.accuracy["cifar10"].mean(), color="grey", linewidth=0.8, linestyle=":")
    left.set(xlabel="epoch", ylabel="CIFAR-10 test accuracy of the derived cell, %")
    right.set(xlabel="epoch", ylabel="skip connections of 6", ylim=(-0.2, 6.2))
    left.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    from searching import search_arguments

    parser = search_arguments(__doc__.split("\n\n")[0], size=32, channels=16, epochs=50, lr=0.025)
    parser.add_argument("table", type=Path, help="NAS-Bench-201 table (.npz)")
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--cells", type=int, default=5, help="cells of each stage")
    parser.add_argument("--arch-lr", type=float, default=3e-4)
    parser.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed"])
    parser.add_argument("--workers", type=int, default=1, help="searches at a time")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each search")
    parser.add_argument("--name", default="nasbench201_search", help="name of the result files")
    parser.add_argument("--one", nargs=3, metavar=("CONTENDER", "SEED", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    from nni_plugins.tools.atomic_files import atomic_write, strict_json

    if arguments.one:
        contender, seed, path = arguments.one
        atomic_write(path, strict_json(run_search(contender, int(seed), arguments), indent=None))
        return
    from nni_plugins.report.nasbench201_table import Table

    table = Table.load(arguments.table)
    runs = run_all(arguments)
    score_all(runs, table)
    target = arguments.output / arguments.name
    atomic_write(
        target.with_suffix(".json"), strict_json({"settings": settings_of(arguments), "runs": runs}, indent=None)
    )
    atomic_write(target.with_suffix(".md"), markdown(runs, table, arguments))
    picture(runs, table, target.with_suffix(".png"))
    print(target.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
