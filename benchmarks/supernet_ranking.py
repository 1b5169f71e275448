"""Does a supernet's loss say which random cells train well?

    python benchmarks/supernet_ranking.py npz:CIFAR10_10K.npz --space bcnn --strategies relative_nas --seeds 1

After a search of :mod:`found_versus_random`, with the arguments of that benchmark, the supernet runs each of its random
cells alone on the validation images, BatchNorm with each batch's statistics: the losses, and Kendall's tau between
these and the accuracies that the cells have when they are trained by themselves. Only what OUTPUT/pieces holds of the
trainings counts; ``found_versus_random.py`` does them. Resumable as that is.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from found_versus_random import NAMES, Comparison, Piece, do_search, parse
from one_shot_ranking import tau
from pieces import Clock, Pieces, run_to_results
from ranking import Trained, depth
from searching import prepare, small_images
from torch import nn
from torch.nn.functional import cross_entropy

from nni_plugins.data import ImageData
from nni_plugins.run.checkpoint import VerifiedCheckpointIO, newest_intact
from nni_plugins.run.search import build_search
from nni_plugins.supernet.consistency import derived_subgraph, evaluating
from nni_plugins.tools.atomic_files import atomic_write, strict_json
from search_spaces import Genotype

SUPERNET = "training_module._model."
"""Where Lightning's checkpoint of a search has the supernet's weights."""

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]


def load_trained(supernet: nn.Module, folder: Path) -> None:
    """Give ``supernet`` the weights that a search has left in ``folder``.

    Raises
    ------
    FileNotFoundError
        If there is no checkpoint.
    """
    checkpoint = newest_intact(folder)
    if checkpoint is None:
        raise FileNotFoundError(f"{folder} holds no checkpoint of a search.")
    state = VerifiedCheckpointIO().load_checkpoint(checkpoint)["state_dict"]
    supernet.load_state_dict(
        {name.removeprefix(SUPERNET): value for name, value in state.items() if name.startswith(SUPERNET)}
    )


@torch.no_grad()
def losses(supernet: nn.Module, cells: Sequence[Genotype], batches: Batches) -> list[float]:
    """Return the cross-entropy of each cell with the supernet's weights, nats, the mean over all images."""
    batches, found = list(batches), []
    images = sum(len(labels) for _, labels in batches)
    with evaluating(supernet):
        for cell in cells:
            with derived_subgraph(supernet, cell.to_sample()):
                total = sum(float(cross_entropy(supernet(x), labels, reduction="sum")) for x, labels in batches)
            found.append(total / images)
    return found


def do_ranking(piece: Piece, cells: Sequence[Genotype], data: ImageData, folder: Path, clock: Clock) -> dict[str, Any]:
    """Search; return what :func:`~found_versus_random.do_search` does, and the losses of the random cells."""
    searched = do_search(piece, data, folder, clock)
    parts = build_search(piece.settings, data)
    load_trained(parts.supernet, folder / "search")
    return {**searched, "seed": piece.settings.seed, "losses": losses(parts.supernet, cells, parts.loaders.validation)}


class Ranked(NamedTuple):
    """Losses of the random cells in one supernet, nats, and the accuracy of the supernet in percent."""

    losses: Sequence[float]
    validation_accuracy: float


class SupernetRanking:
    """The searches in their order, and what came out.

    Parameters
    ----------
    comparison
        What searches, and has trained the random cells.
    """

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self.done: Pieces = comparison.done

    def searches(self) -> Iterator[tuple[str, Piece]]:
        """Return strategies and searches, the first seed of all first."""
        arguments = self.comparison.arguments
        for seed in range(arguments.seeds):
            for strategy in arguments.strategies:
                piece = self.comparison.search_of(strategy, seed)
                if piece is not None:
                    yield strategy, piece

    def name(self, piece: Piece) -> str:
        """Return the name of a ranking's file, by the search that it follows and the number of random cells."""
        search = piece.file_name(self.comparison.data_sha256).removeprefix("search_")
        return f"ranking_{search}_{len(self.comparison.random)}"

    def run(self) -> None:
        """Do what is not done yet.

        Raises
        ------
        TimeIsUp
            When the hours are over; the search that was at work resumes next time.
        """
        comparison = self.comparison
        for _, piece in self.searches():
            self.done.do(self.name(piece), functools.partial(do_ranking, piece, comparison.random, comparison.data))

    def ranked(self) -> dict[str, list[Ranked]]:
        """Return by strategy what is done."""
        found: dict[str, list[Ranked]] = {}
        for strategy, piece in self.searches():
            if (outcome := self.done.outcome(self.name(piece))) is not None:
                found.setdefault(strategy, []).append(Ranked(outcome["losses"], outcome["validation_accuracy"]))
        return found

    def trained(self) -> list[Trained]:
        """Return the random cells with their accuracies.

        Raises
        ------
        ValueError
            If some are not trained.
        """
        found = [self.comparison.trained(f"random_{n}", cell) for n, cell in enumerate(self.comparison.random)]
        trained = [cell for cell in found if cell is not None]
        if len(trained) < len(found):
            raise ValueError(
                f"{len(found) - len(trained)} of {len(found)} random cells are not trained; run "
                "found_versus_random.py with the same arguments first."
            )
        return trained


# Results


def table(ranked: Mapping[str, Sequence[Ranked]], trained: Sequence[Trained]) -> list[str]:
    """Return lines of Markdown, a row for each strategy."""
    accuracies = [cell.accuracy for cell in trained]
    depths = [depth(Genotype.from_json(cell.genotype)) for cell in trained]
    columns = ["supernet", "searches", "its accuracy", "losses of the random cells", "tau, accuracy", "tau, depth"]
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    for strategy, searches in ranked.items():
        low, high = min(min(each.losses) for each in searches), max(max(each.losses) for each in searches)
        ranks = [_mean([tau([-loss for loss in each.losses], by) for each in searches]) for by in (accuracies, depths)]
        own = f"{np.mean([each.validation_accuracy for each in searches]):.1f}"
        lines.append(f"| {strategy} | {len(searches)} | {own} | {low:.2f} to {high:.2f} | {' | '.join(ranks)} |")
    return lines


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.2f}" + (f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else "")


def between_seeds(trained: Sequence[Trained]) -> float | None:
    """Return Kendall's tau between the first two seeds of the cells' own trainings; None without a second one."""
    if any(len(cell.accuracies) < 2 for cell in trained):
        return None
    first, second = zip(*(cell.accuracies[:2] for cell in trained), strict=True)
    return tau(first, second)


def markdown(ranking: SupernetRanking, ranked: Mapping[str, Sequence[Ranked]], trained: Sequence[Trained]) -> str:
    """Return the figures as a page of Markdown."""
    comparison = ranking.comparison
    arguments, classes = comparison.arguments, comparison.data.num_classes
    lines = [
        f"# Random cells in supernets, {arguments.space} space",
        "",
        f"{comparison.data.name}, {len(trained)} random cells, searches and trainings as in found_versus_random "
        f"(C={arguments.channels}; RelativeNAS: {arguments.generations} generations of {arguments.population}); "
        f"losses in nats, of which chance has {np.log(classes):.2f}. Kendall's tau of a low loss with a high accuracy "
        "when the cell is trained by itself, and with a deep cell; mean ± standard deviation over searches.",
        "",
        *table(ranked, trained),
    ]
    if (seeds := between_seeds(trained)) is not None:
        lines += ["", f"Two trainings of the same cells with unlike seeds rank them alike with a tau of {seeds:.2f}."]
    return "\n".join(lines) + "\n"


def picture(ranked: Mapping[str, Sequence[Ranked]], trained: Sequence[Trained], chance: float, path: Path) -> None:
    """Draw accuracy over loss, a panel for each strategy and a colour for each search."""
    figure, panels = plt.subplots(1, max(1, len(ranked)), figsize=(4.5 * max(1, len(ranked)), 3.8), squeeze=False)
    for panel, (strategy, searches) in zip(panels.flat, ranked.items(), strict=False):
        for seed, each in enumerate(searches):
            panel.plot(each.losses, [cell.accuracy for cell in trained], "o", color=f"C{seed}", alpha=0.7)
        panel.axvline(chance, color="grey", linewidth=0.9, linestyle="--", label="chance")
        panel.set(title=strategy, xlabel="loss in the supernet, nats", ylabel="test accuracy trained by itself, %")
        panel.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def write_results(ranking: SupernetRanking) -> Path:
    """Write figures, table and picture of what there is; return the table's file."""
    ranked, trained = ranking.ranked(), ranking.trained()
    arguments = ranking.comparison.arguments
    target = arguments.output / f"supernet_ranking_{arguments.space}"
    content = {
        "random": [{"genotype": cell.genotype, "accuracies": list(cell.accuracies)} for cell in trained],
        "supernets": {strategy: [each._asdict() for each in searches] for strategy, searches in ranked.items()},
    }
    atomic_write(target.with_suffix(".json"), strict_json(content, indent=1) + "\n")
    picture(ranked, trained, float(np.log(ranking.comparison.data.num_classes)), target.with_suffix(".png"))
    return atomic_write(target.with_suffix(".md"), markdown(ranking, ranked, trained))


def make(arguments: argparse.Namespace) -> SupernetRanking:
    """Return the measurement.

    Raises
    ------
    ValueError
        If one of the strategies is NNI's, whose supernets cannot run one cell alone, or a random cell is not trained.
    """
    if theirs := [name for name in arguments.strategies if name in NAMES]:
        ours = " ".join(name for name in arguments.strategies if name not in NAMES) or "relative_nas"
        raise ValueError(
            f"--strategies must be our own, not {theirs[0]}, whose supernet cannot run one cell alone; give "
            f"--strategies {ours}."
        )
    ranking = SupernetRanking(Comparison(arguments, small_images(arguments)))
    ranking.trained()  # told before the searches, not after them
    return ranking


def main() -> int:
    arguments = parse()
    prepare()
    return run_to_results(lambda: make(arguments), write_results)


if __name__ == "__main__":
    sys.exit(main())
