"""How well a supernet speaks for its sub-graphs: our DARTS baseline, EnTranNAS and EnTranNAS-DST on the same budget.

    python benchmarks/consistency.py npz:CIFAR10.npz --table NASBENCH201.npz

Gap: validation accuracy of the supernet minus that of the same weights with every cell switched to its derived
connections, after every epoch, BatchNorm with batch statistics in both (and, in the table, with running ones). All
three have the seven operations of EnTranNAS, the same images, steps and learning rates; only DST has the space with a
free number of connections.

With a table also Kendall's tau of one-shot accuracy (a NAS-Bench-201 supernet's weights, the cell of the table) against
the table's CIFAR-10 test accuracy, over cells drawn at random; that supernet has twice as many channels, and DST has no
place in that space.

The architecture learning rate is that of the paper times the steps that a short search lacks, for all alike.
"""

from __future__ import annotations

import argparse
import platform
import time
import warnings
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytorch_lightning as pl
import torch
from one_shot_ranking import accuracy, drawn_cells, tau
from searching import search_arguments, small_images
from torch import nn

from nni_plugins import BilevelSearch, EnTranNAS, EnTranNASDST, FirstOrderDARTS
from nni_plugins.data import ImageData, search_loaders
from nni_plugins.report.nasbench201_table import Table
from nni_plugins.run.classifier import ImageClassifier
from nni_plugins.run.settings import SearchRecipe
from nni_plugins.supernet.consistency import consistency, derived_subgraph, evaluating
from nni_plugins.tools.atomic_files import atomic_write, strict_json
from nni_plugins.tools.console import quiet_libraries
from search_spaces import AnyDARTSSpace, DARTSSpace, NASBench201
from search_spaces.operation_names import DARTS_OPERATIONS_WITHOUT_NONE

from nni.nas.evaluator.pytorch import Lightning, Trainer  # isort: skip  after search_spaces, or NNI's DARTS is unusable

PAPER_STEPS = 50 * 98
"""Steps of the published search: 50 epochs of 25,000 images in batches of 256."""
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Contender(NamedTuple):
    """A strategy and the space in which the gap is measured."""

    strategy: Callable[..., BilevelSearch]
    space: Callable[..., nn.Module]


CONTENDERS = {
    "DARTS": Contender(FirstOrderDARTS, DARTSSpace),
    "EnTranNAS": Contender(EnTranNAS, DARTSSpace),
    "EnTranNAS-DST": Contender(EnTranNASDST, AnyDARTSSpace),
}
RANKED = ("DARTS", "EnTranNAS")


class EveryEpoch(pl.Callback):
    """Collects what ``measure`` says after every epoch."""

    def __init__(self, measure: Callable[[nn.Module], Any]) -> None:
        self.measure = measure
        self.history: list[Any] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.history.append(self.measure(pl_module.training_module.model))


def train(
    strategy: BilevelSearch,
    space: Any,
    data: ImageData,
    arguments: argparse.Namespace,
    seed: int,
    measure: Callable[[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]], Any],
    *,
    every_epoch: bool,
) -> tuple[list[Any], float]:
    """Search; return what ``measure`` says of supernet and validation batches, and the seconds it took."""
    pl.seed_everything(seed, verbose=False)
    supernet = strategy.mutate_model(space)
    loaders = search_loaders(data, batch_size=arguments.batch, seed=seed, device=DEVICE)
    validation = list(islice(loaders[2], -(-arguments.validation // arguments.batch)))
    report = EveryEpoch(lambda model: measure(model, validation))
    trainer = Trainer(
        max_epochs=arguments.epochs, accelerator="gpu" if DEVICE == "cuda" else "cpu", devices=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        num_sanity_val_steps=0, callbacks=[report] if every_epoch else [],
    )  # fmt: skip
    recipe = SearchRecipe(epochs=arguments.epochs, batch_size=arguments.batch, lr=arguments.lr, lr_min=0.001)
    evaluator = Lightning(ImageClassifier(recipe, data.num_classes), trainer, *loaders[:2])
    started = time.perf_counter()
    strategy.mutate_evaluator(evaluator).evaluate(supernet)
    supernet.to(DEVICE)
    history = report.history if every_epoch else [measure(supernet, validation)]
    return history, time.perf_counter() - started


def gaps(model: nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, float]:
    """Return accuracies in percent and the gap between them."""
    with_batch, with_running = (consistency(model, batches, running_statistics=running) for running in (False, True))
    return {
        "supernet": with_batch.supernet,
        "derived": with_batch.derived,
        "gap": with_batch.gap,
        "gap_running": with_running.gap,
    }


def one_shot_accuracy(model: nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], sample: Any) -> float:
    """Return the accuracy in percent of an architecture with the supernet's weights."""
    with evaluating(model), derived_subgraph(model, sample):
        return accuracy(model, batches)


def measure_gaps(data: ImageData, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the gaps of every contender, a list of epochs for every seed."""
    shape = dict(num_classes=data.num_classes, in_channels=data.in_channels)
    results: dict[str, Any] = {}
    for name, contender in CONTENDERS.items():
        runs, seconds = [], 0.0
        for seed in range(arguments.seeds):
            space = contender.space(
                **shape, channels=arguments.channels, layers=arguments.layers, operations=DARTS_OPERATIONS_WITHOUT_NONE
            )
            strategy = contender.strategy(arch_learning_rate=arguments.arch_lr)
            history, took = train(strategy, space, data, arguments, seed, gaps, every_epoch=True)
            runs.append(history)
            seconds += took
        results[name] = {"runs": runs, "seconds": seconds / arguments.seeds}
        print(
            f"{name}: gap {mean_of(runs, 'gap')[-1]:.2f} points, {seconds / arguments.seeds:.0f} s a search", flush=True
        )
    return results


def measure_ranking(table: Table, data: ImageData, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one-shot and tabular accuracies of the same random cells, for every contender and seed."""
    cells = drawn_cells(table, arguments.cells)
    results: dict[str, Any] = {"table": cells.accuracies, "one_shot": {}, "tau": {}}
    for name in RANKED:
        accuracies, taus = [], []
        for seed in range(arguments.seeds):
            space = NASBench201(data.num_classes, data.in_channels, channels=2 * arguments.channels, cells=2)
            strategy = CONTENDERS[name].strategy(arch_learning_rate=arguments.arch_lr)
            (found,), _ = train(
                strategy, space, data, arguments, seed,
                lambda model, batches: [one_shot_accuracy(model, batches, sample) for sample in cells.samples],
                every_epoch=False,
            )  # fmt: skip
            accuracies.append(found)
            taus.append(tau(found, cells.accuracies))
        results["one_shot"][name], results["tau"][name] = accuracies, taus
        print(f"{name}: Kendall's tau {np.mean(taus):.2f} ± {np.std(taus, ddof=1):.2f}", flush=True)
    return results


def mean_of(runs: list[list[dict[str, float]]], key: str) -> np.ndarray:
    """Return the mean over seeds, (epochs,)."""
    return np.array([[epoch[key] for epoch in run] for run in runs]).mean(0)


def markdown(results: dict[str, Any], arguments: argparse.Namespace) -> str:
    """Return the figures as a page of Markdown."""
    images = "all" if arguments.images is None else arguments.images
    lines = [
        "# Consistency of supernets",
        "",
        f"{Path(arguments.data).name}, {images} training images at {arguments.size}x{arguments.size}, "
        f"C={arguments.channels}, {arguments.layers} cells, {arguments.epochs} epochs, batch {arguments.batch}, "
        f"{arguments.seeds} seeds, architecture learning rate {arguments.arch_lr:.4g}; {platform.machine()} {DEVICE}, "
        f"torch {torch.__version__}, Python {platform.python_version()}. Mean ± standard deviation after the last "
        "epoch, percent and points.",
        "",
        "| search | supernet | derived, same weights | gap | gap, running statistics | s a search |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, result in results["gaps"].items():
        last = [run[-1] for run in result["runs"]]
        columns = [
            f"{np.mean([x[key] for x in last]):.1f} ± {np.std([x[key] for x in last], ddof=1):.1f}"
            for key in ("supernet", "derived", "gap", "gap_running")
        ]
        lines.append(f"| {name} | {' | '.join(columns)} | {result['seconds']:.0f} |")
    if "ranking" in results:
        lines += ["", f"Kendall's tau, {arguments.cells} NAS-Bench-201 cells:", ""]
        for name, taus in results["ranking"]["tau"].items():
            lines.append(f"- {name}: {np.mean(taus):.2f} ± {np.std(taus, ddof=1):.2f}")
    return "\n".join(lines) + "\n"


def picture(results: dict[str, Any], path: Path) -> None:
    """Draw the gap over epochs, and one-shot against tabular accuracy of the first seed."""
    ranking: Any = results.get("ranking")
    figure, panels = plt.subplots(
        1, 1 + (len(RANKED) if ranking else 0), figsize=(15 if ranking else 6, 4.6), squeeze=False
    )
    first, *others = panels[0]
    for name, result in results["gaps"].items():
        values = np.array([[epoch["gap"] for epoch in run] for run in result["runs"]])
        epochs = np.arange(1, values.shape[1] + 1)
        (line,) = first.plot(epochs, values.mean(0), label=name)
        first.fill_between(epochs, values.min(0), values.max(0), color=line.get_color(), alpha=0.15, linewidth=0)
    first.axhline(0, color="grey", linewidth=0.8)
    first.set(
        xlabel="epoch", xticks=epochs, ylabel="supernet minus derived, points", title="Gap (mean and range of seeds)"
    )
    first.legend(frameon=False)
    for panel, name in zip(others, RANKED, strict=True) if ranking else ():
        panel.scatter(ranking["one_shot"][name][0], ranking["table"], s=9)
        panel.set(
            xlabel="one-shot accuracy, %", ylabel="table, CIFAR-10 test, %",
            title=f"{name}: tau {np.mean(ranking['tau'][name]):.2f}",
        )  # fmt: skip
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = search_arguments(__doc__.split("\n\n")[0], size=16, channels=4, epochs=5, lr=0.05)
    parser.add_argument("--table", type=Path, help="NAS-Bench-201 table (.npz) for Kendall's tau")
    parser.add_argument("--validation", type=int, default=500, help="validation images of every measurement")
    parser.add_argument("--layers", type=int, default=4, help="cells")
    parser.add_argument("--arch-lr", type=float, help="default: the paper's 6e-4 times the steps that are missing")
    parser.add_argument("--cells", type=int, default=40, help="NAS-Bench-201 cells that are ranked")
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error(f"--seeds must be at least 2 for a standard deviation, not {arguments.seeds}")
    warnings.simplefilter("ignore")
    quiet_libraries()
    table = None if arguments.table is None else Table.load(arguments.table)
    data = small_images(arguments)
    steps = arguments.epochs * (len(data.x_train) // 2 // arguments.batch)
    arguments.arch_lr = arguments.arch_lr or 6e-4 * max(1.0, PAPER_STEPS / steps)

    results = {"gaps": measure_gaps(data, arguments)}
    if table is not None:
        results["ranking"] = measure_ranking(table, data, arguments)
    arguments.output.mkdir(parents=True, exist_ok=True)
    target = arguments.output / "consistency"
    atomic_write(target.with_suffix(".json"), strict_json(results, indent=None))
    atomic_write(target.with_suffix(".md"), markdown(results, arguments))
    picture(results, target.with_suffix(".png"))
    print(target.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
