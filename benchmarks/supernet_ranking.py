"""Does a supernet's loss say which random cells train well?

    python benchmarks/supernet_ranking.py npz:CIFAR10_10K.npz --space bcnn --strategies relative_nas --seeds 1

After a search of :mod:`found_versus_random`, with the arguments of that benchmark, the supernet runs each of its random
cells alone on the validation images, twice: with its weights as they are, BatchNorm with each batch's statistics, and
after that cell has trained a copy of them for an epoch, which is how RelativeNAS estimates a candidate. The losses, and
Kendall's tau between these and the accuracies that the cells have when they are trained by themselves. Only what
OUTPUT/pieces holds of the trainings counts; ``found_versus_random.py`` does them. Resumable as that is.
"""

from __future__ import annotations

import argparse
import copy
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
from ranking import Trained
from searching import prepare, small_images
from torch import nn
from torch.nn.functional import cross_entropy

from nni_plugins.data import ImageData
from nni_plugins.data.loaders import EpochLoader
from nni_plugins.run.checkpoint import VerifiedCheckpointIO, newest_intact
from nni_plugins.run.recipes import Recipe
from nni_plugins.run.search import build_search
from nni_plugins.supernet.consistency import derived_subgraph, evaluating
from nni_plugins.tools.atomic_files import atomic_write, strict_json
from search_spaces import Genotype

SUPERNET = "training_module._model."
"""Where Lightning's checkpoint of a search has the supernet's weights."""
LARGEST_GRADIENT = 5.0
"""To which norm the weights' gradient is clipped, in all searches here."""

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
    with evaluating(supernet):
        for cell in cells:
            with derived_subgraph(supernet, cell.to_sample()):
                found.append(mean_loss(supernet, batches))
    return found


@torch.no_grad()
def mean_loss(net: nn.Module, batches: Batches) -> float:
    """Return the cross-entropy of what ``net`` runs, nats, the mean over all images."""
    total = images = 0.0
    for x, labels in batches:
        total += float(cross_entropy(net(x), labels, reduction="sum"))
        images += len(labels)
    return total / images


def estimates(
    supernet: nn.Module, cells: Sequence[Genotype], training: EpochLoader, validation: Batches, recipe: Recipe
) -> list[float]:
    """Return each cell's cross-entropy, nats, after it alone has trained the supernet's weights for one epoch.

    That is RelativeNAS's estimate of a candidate at the learning rate with which the search starts: each cell starts
    from the same weights with an SGD of its own, and is validated with the running statistics of BatchNorm. Unlike
    there, all cells see the same batches.
    """
    before, found = copy.deepcopy(supernet.state_dict()), []
    weights = [parameter for parameter in supernet.parameters() if parameter.requires_grad]
    for cell in cells:
        optimizer = torch.optim.SGD(weights, recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
        supernet.load_state_dict(before)
        supernet.train()
        training.set_epoch(0)
        with derived_subgraph(supernet, cell.to_sample()):
            for x, labels in training:
                optimizer.zero_grad()
                cross_entropy(supernet(x), labels).backward()
                nn.utils.clip_grad_norm_(weights, LARGEST_GRADIENT)
                optimizer.step()
            with evaluating(supernet, running_statistics=True):
                found.append(mean_loss(supernet, validation))
    supernet.load_state_dict(before)
    return found


def do_ranking(piece: Piece, cells: Sequence[Genotype], data: ImageData, folder: Path, clock: Clock) -> dict[str, Any]:
    """Search; return what :func:`~found_versus_random.do_search` does, losses and estimates of the random cells."""
    searched = do_search(piece, data, folder, clock)
    supernet, loaders = (parts := build_search(piece.settings, data)).supernet, parts.loaders
    load_trained(supernet, folder / "search")
    return {
        **searched,
        "seed": piece.settings.seed,
        "losses": losses(supernet, cells, loaders.validation),
        "estimates": estimates(supernet, cells, loaders.weights, loaders.validation, piece.settings.search),
    }


class Ranked(NamedTuple):
    """The random cells in one supernet, and its accuracy in percent.

    Parameters
    ----------
    losses
        Of each cell, with the weights as they are, nats.
    estimates
        Of each cell, after an epoch of its own, nats.
    validation_accuracy
        Of the supernet.
    """

    losses: Sequence[float]
    estimates: Sequence[float]
    validation_accuracy: float


WHEN: Mapping[str, str] = {"losses": "as it is", "estimates": "after an epoch of the cell's own"}
"""What a supernet says of the cells, by the field of :class:`Ranked`, and when."""


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
                found.setdefault(strategy, []).append(Ranked(*(outcome[name] for name in Ranked._fields)))
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
    depths = [cell.depth for cell in trained]
    columns = ["supernet", "searches", "its accuracy"]
    for when in WHEN.values():
        columns += [f"losses {when}", "tau, accuracy", "tau, depth"]
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    for strategy, searches in ranked.items():
        row = [strategy, str(len(searches)), f"{np.mean([each.validation_accuracy for each in searches]):.1f}"]
        for found in ([getattr(each, name) for each in searches] for name in WHEN):
            row.append(f"{np.min(found):.2f} to {np.max(found):.2f}")
            row += [_mean([tau([-loss for loss in each], by) for each in found]) for by in (accuracies, depths)]
        lines.append(f"| {' | '.join(row)} |")
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
        f"losses of the random cells in nats, of which chance has {np.log(classes):.2f}. Kendall's tau of a low loss "
        "with a high accuracy when the cell is trained by itself, and with a deep cell; mean ± standard deviation over "
        "searches.",
        "",
        *table(ranked, trained),
    ]
    if (seeds := between_seeds(trained)) is not None:
        lines += ["", f"Two trainings of the same cells with unlike seeds rank them alike with a tau of {seeds:.2f}."]
    return "\n".join(lines) + "\n"


def picture(ranked: Mapping[str, Sequence[Ranked]], trained: Sequence[Trained], chance: float, path: Path) -> None:
    """Draw accuracy over loss, above as the supernets are, below after an epoch of the cells' own.

    A column for each strategy, a colour for each search.
    """
    width = max(1, len(ranked))
    figure, panels = plt.subplots(2, width, figsize=(4.5 * width, 7), squeeze=False, sharey=True, layout="constrained")
    for column, (strategy, searches) in enumerate(ranked.items()):
        for row, (name, when) in enumerate(WHEN.items()):
            panel = panels[row, column]
            for seed, each in enumerate(searches):
                panel.plot(getattr(each, name), [cell.accuracy for cell in trained], "o", color=f"C{seed}", alpha=0.7)
            panel.axvline(chance, color="grey", linewidth=0.9, linestyle="--", label="chance")
            panel.set(title=strategy, xlabel=f"loss {when}, nats", ylabel="test accuracy trained by itself, %")
            panel.legend(frameon=False, fontsize=8)
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
