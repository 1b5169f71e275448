"""Is a found cell better than one drawn at random and trained as long?

    python benchmarks/found_versus_random.py digits --space bcnn                 # minutes
    python benchmarks/found_versus_random.py npz:CIFAR10.npz --space bcnn --images 10000 --size 16 --hours 2

Cells found by each strategy with several seeds, the published cells of the space and random ones (NNI's random
strategy) are trained by one recipe with several seeds and tested on the test images. NNI's own DARTS and its
regularized evolution take part at about equal seconds: NNI's DARTS has fewer epochs, since its step takes longer, and
the evolution trains candidates for a short time until it has used as many seconds as our searches of that seed did on
average. Random cells, the evolution and NNI's DARTS draw from the candidates without ``none``, which our searches never
derive.

Every search and every training is a piece with a process of its own. A piece that is done is kept under
``OUTPUT/pieces`` by all that it depends on and not done again; one that is interrupted resumes after its last epoch.
The first seed of everything comes first, found and random cells in turn, so that a run that ``--hours`` ends early
says something: table and picture are made of what there is. Seconds are the process's CPU time.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import math
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nni_contenders import POPULATION, TOURNAMENT, evolve, random_cells
from pieces import Clock, Pieces, Work, run_to_results
from ranking import Trained, correlations, figures, picture, rank_test, seed_noise, table
from searching import decision, prepare, search_arguments, small_images, without_cells

from nni_plugins.data import ImageData
from nni_plugins.report.complexity import count_parameters
from nni_plugins.run.candidate import evaluate_candidate
from nni_plugins.run.networks import make_space, shape_arguments
from nni_plugins.run.retrain import retrain
from nni_plugins.run.search import search
from nni_plugins.run.settings import Settings
from nni_plugins.run.values import parse_assignments
from nni_plugins.run.work_folder import Stage
from nni_plugins.tools.atomic_files import atomic_write, strict_json
from search_spaces import Genotype
from search_spaces.operation_names import DARTS_OPERATIONS_WITHOUT_NONE
from search_spaces.published import published, published_names

NNI_DARTS, EVOLUTION = "nni_darts", "nni_evolution"
NNI_DARTS_CODE = "nni_contenders:NNI_DARTS"
NAMES = {NNI_DARTS: "NNI's DARTS", EVOLUTION: "NNI's evolution"}
"""What results call the contenders that are not ours."""

CONTENDERS: Mapping[str, tuple[str, ...]] = {
    "bcnn": ("bnas_d", "bnas_v2_clr", "bnas_v2_pc", "relative_nas", NNI_DARTS, EVOLUTION),
    "darts": ("entrannas", "pc_darts", "relative_nas", "darts", "rf_darts", "rf_pcdarts", NNI_DARTS, EVOLUTION),
}
TRAVEL = {"bnas_v2_clr": 90.0}
USUAL_TRAVEL = 30.0
"""Architecture learning rate times steps of a search. Adam moves alpha by at most about its rate a step, so that this
is how far alpha could go. Not stated in the papers, whose searches are ten times as long: the confident rate is at a
third of its last value on average."""
PARTIAL = {"arch_weight_decay": 0.0, "channels": "PartialChannels(fraction=2)"}
OWN_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    **dict.fromkeys(("bnas_v2_pc", "pc_darts", "rf_pcdarts"), PARTIAL),
    "relative_nas": {"cutout": 0, "drop_path": 0.0},
}
"""Where a short search of a small supernet cannot have the published settings. Half of 8 channels are 4, as a quarter
of the published 16 are; the gradient that so few give alpha is outweighed by its published decay, 1e-3, at any rate.
RelativeNAS trains its weights without regularisation, as the trainings do."""

SIZES: Mapping[str, Mapping[str, Any]] = {
    "bcnn": {"net.deep_cells": 0, "net.enhancement_cells": 1},
    "darts": {"space.layers": 3, "net.layers": 5, "net.auxiliary": False},
}
"""Depth of supernets and evaluation networks."""

SMALL: dict[str, Any] = {
    "images": 10_000, "size": 16, "channels": 8, "epochs": 6, "batch": 64, "lr": 0.05, "random": 24,
    "train_epochs": 4, "train_batch": 128, "train_lr": 0.1, "generations": 24, "population": 6, "nni_epochs": 2,
}  # fmt: skip
DIGITS = {**SMALL, "images": None, "channels": 2, "epochs": 3, "random": 8, "seeds": 2, "train_seeds": 1,
          "train_epochs": 2, "train_batch": 64, "train_lr": 0.05, "generations": 1, "population": 4,
          "nni_epochs": 1}  # fmt: skip
"""Sizes for CIFAR-10 and for the embedded digits."""


# One piece, in a process of its own


@dataclass(frozen=True)
class Piece:
    """A search, a training or an evolution.

    Parameters
    ----------
    kind
        ``search``, ``training`` or ``evolution``.
    name
        What the log and the file's name call it.
    settings
        Of the piece.
    genotype
        The cell, of a training.
    budget
        CPU seconds, of an evolution.
    """

    kind: str
    name: str
    settings: Settings
    genotype: Genotype | None = None
    budget: float = 0.0

    def file_name(self, data_sha256: str) -> str:
        """Return the name of the piece's file, with a hash of all that its outcome depends on.

        The budget of an evolution is not in it: it follows from searches, and is measured.
        """
        if self.genotype is not None:
            depends_on = Stage.of_retraining(self.settings, self.genotype, data_sha256).depends_on
        elif self.kind == "search":
            depends_on = Stage.of_search(self.settings, data_sha256).depends_on
        else:
            depends_on = {**self.settings.to_dict(), "evolution": [POPULATION, TOURNAMENT]}
        text = strict_json([self.kind, data_sha256, {**depends_on, "data": ""}], indent=None)
        return f"{self.kind}_{self.name}_{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def work(piece: Piece, data: ImageData) -> Work:
    """Return how ``piece`` is done."""
    do = {"search": do_search, "training": do_training, "evolution": do_evolution}[piece.kind]
    return lambda folder, clock: {"seed": piece.settings.seed, **do(piece, data, folder, clock)}


def do_search(piece: Piece, data: ImageData, folder: Path, clock: Clock) -> dict[str, Any]:
    """Search; return the cell, its seconds, and how far the search has decided."""
    found = search(piece.settings, data, folder, clock.keep)
    return {
        "genotype": found.genotype.to_json(),
        "seconds": clock.seconds(),
        **decision(found.history),
        "validation_accuracy": found.history[-1].get("validation_accuracy"),
        "history": without_cells(found.history),
    }


def do_training(piece: Piece, data: ImageData, folder: Path, clock: Clock) -> dict[str, Any]:
    """Train a cell's network; return its accuracy on the test images, in percent, and its size."""
    assert piece.genotype is not None
    trained = retrain(piece.genotype, piece.settings, data, folder, clock.keep)
    return {
        "genotype": piece.genotype.to_json(),
        "accuracy": trained.test_accuracy,
        "training_accuracy": trained.history[-1]["training_accuracy"],
        "parameters": count_parameters(trained.net),
        "seconds": clock.seconds(),
    }


def do_evolution(piece: Piece, data: ImageData, folder: Path, clock: Clock) -> dict[str, Any]:
    """Evolve cells for the piece's budget; return the one that validated best.

    Candidates are kept, so that an interrupted evolution has its answers at hand when NNI asks again.
    """
    candidates: dict[str, dict[str, Any]] = {}

    def evaluate(sample: Mapping[str, Any]) -> float:
        genotype = Genotype.from_sample(sample, piece.settings.space).to_json()
        name = hashlib.sha256(genotype.encode()).hexdigest()[:16]
        kept = folder / f"{name}.json"
        if not kept.is_file():
            started = time.process_time()
            own = folder / name
            result = evaluate_candidate(sample, piece.settings, data, out=own, work=own)
            seconds = time.process_time() - started
            answer = {"genotype": genotype, "accuracy": result["validation_accuracy"], "seconds": seconds}
            atomic_write(kept, strict_json(answer))
            shutil.rmtree(own)
        candidates[name] = json.loads(kept.read_text())
        return candidates[name]["accuracy"]

    def used() -> float:
        return sum(candidate["seconds"] for candidate in candidates.values())

    evolve(sampled_space(piece.settings.space, data), evaluate, lambda: used() >= piece.budget, piece.settings.seed)
    best = max(candidates.values(), key=lambda candidate: candidate["accuracy"])
    return {
        "genotype": best["genotype"],
        "seconds": used(),
        "candidates": len(candidates),
        "validation_accuracy": best["accuracy"],
    }


def sampled_space(name: str, data: ImageData) -> Any:
    """Return the space that cells are drawn from."""
    return make_space(name, **shape_arguments(name, data), channels=2, operations=DARTS_OPERATIONS_WITHOUT_NONE)


# All pieces


class Comparison:
    """The pieces of one comparison, in their order, and their outcomes.

    Parameters
    ----------
    arguments
        Of the command line.
    data
        The images.
    """

    def __init__(self, arguments: argparse.Namespace, data: ImageData) -> None:
        self.arguments = arguments
        self.data = data
        self.data_sha256 = data.fingerprint()
        self.done = Pieces(arguments.output, arguments.hours)
        space = arguments.space
        sampled = sampled_space(space, data)
        self.random = random_cells(sampled, space, arguments.random, seed=0)
        self.published = {name: cell for name in published_names() if (cell := published(name)).space == space}

    def settings(self, seed: int, strategy: str | None = None, **overrides: Any) -> Settings:
        """Return the settings of a piece: sizes of the comparison, then ``overrides``, then the user's own."""
        arguments = self.arguments
        values = {
            "batch_size": arguments.batch,
            "retrain.epochs": arguments.train_epochs,
            "retrain.batch_size": arguments.train_batch,
            "retrain.lr": arguments.train_lr,
            "retrain.cutout": 0,
            "retrain.drop_path": 0.0,
            "retrain.auxiliary_weight": 0.0,
            "space.channels": arguments.channels,
            "net.channels": arguments.channels,
            **SIZES[arguments.space],
            **overrides,
        }
        for name, value in arguments.set.items():
            owner, colon, rest = name.rpartition(":")
            if not colon or owner == strategy:
                values[rest] = value
        named = {} if strategy is None else {"strategy": NNI_DARTS_CODE if strategy == NNI_DARTS else strategy}
        return Settings.of(**named, space=arguments.space, data=arguments.data, seed=seed, overrides=values)

    def search_of(self, strategy: str, seed: int) -> Piece | None:
        """Return the search of a contender; None for an evolution whose budget is not known yet."""
        arguments = self.arguments
        name = f"{strategy}_{seed}"
        if strategy == EVOLUTION:
            seconds = [
                outcome["seconds"]
                for other in arguments.strategies
                if other not in NAMES and (outcome := self.outcome(self.search_of(other, seed))) is not None
            ]
            settings = self.settings(seed, **{"retrain.epochs": arguments.candidate_epochs})
            return Piece("evolution", name, settings, budget=float(np.mean(seconds))) if seconds else None
        others = {"relative_nas": arguments.generations, NNI_DARTS: arguments.nni_epochs}
        epochs = others.get(strategy, arguments.epochs)
        own: dict[str, Any] = {"epochs": epochs, "lr": arguments.lr, **OWN_SETTINGS.get(strategy, {})}
        if strategy == "relative_nas":
            own |= {"population_size": arguments.population}
        else:
            steps = epochs * (len(self.data.x_train) // 2 // arguments.batch)
            own["arch_learning_rate"] = round(TRAVEL.get(strategy, USUAL_TRAVEL) / steps, 4)
        if strategy == NNI_DARTS:
            own["space.operations"] = DARTS_OPERATIONS_WITHOUT_NONE
        elif strategy != "relative_nas":
            own["consistency_batches"] = 0
        return Piece("search", name, self.settings(seed, strategy, **own))

    def training_of(self, name: str, cell: Genotype, seed: int) -> Piece:
        """Return the training of a cell with one seed."""
        return Piece("training", f"{name}_{seed}", self.settings(seed), cell)

    def pieces(self) -> Iterator[Piece]:
        """Return the pieces in their order; what a search has found is asked for once it is done."""
        arguments = self.arguments
        others = {**self.published, **{f"random_{n}": cell for n, cell in enumerate(self.random)}}
        for seed in range(max(arguments.seeds, arguments.train_seeds)):
            waiting = [self.training_of(name, cell, seed) for name, cell in others.items()]
            waiting = waiting if seed < arguments.train_seeds else []
            for position, strategy in enumerate(arguments.strategies):
                for search_seed in range(min(seed + 1, arguments.seeds)):
                    piece = self.search_of(strategy, search_seed)
                    if piece is not None:
                        yield piece
                        yield from self.trainings_of_found(piece, strategy, min(seed + 1, arguments.train_seeds))
                share = math.ceil(len(waiting) / (len(arguments.strategies) - position))
                yield from waiting[:share]
                waiting = waiting[share:]

    def trainings_of_found(self, piece: Piece, strategy: str, seeds: int) -> Iterator[Piece]:
        outcome = self.outcome(piece)
        if outcome is not None:
            cell = Genotype.from_json(outcome["genotype"])
            yield from (self.training_of(piece.name, cell, seed) for seed in range(seeds))

    def outcome(self, piece: Piece | None) -> dict[str, Any] | None:
        """Return what came out of a piece; None if it is not done."""
        return None if piece is None else self.done.outcome(piece.file_name(self.data_sha256))

    def run(self) -> None:
        """Do what is not done yet, one piece after the other.

        Raises
        ------
        TimeIsUp
            When the hours are over; the piece that was in work resumes next time.
        """
        for piece in self.pieces():
            self.done.do(piece.file_name(self.data_sha256), work(piece, self.data))

    def trained(self, name: str, cell: Genotype, found_by: Mapping[str, Any] | None = None) -> Trained | None:
        """Return a cell with the accuracies that there are; None if there is none."""
        pieces = (self.training_of(name, cell, seed) for seed in range(self.arguments.train_seeds))
        outcomes = [outcome for piece in pieces if (outcome := self.outcome(piece)) is not None]
        if not outcomes:
            return None
        accuracies = tuple(outcome["accuracy"] for outcome in outcomes)
        return Trained(cell.to_json(), outcomes[0]["parameters"], accuracies, found_by or {})

    def collect(self) -> tuple[dict[str, list[Trained]], list[Trained]]:
        """Return found and published cells by group, and the random ones, as far as they are trained."""
        groups: dict[str, list[Trained]] = {}
        for strategy in self.arguments.strategies:
            groups[NAMES.get(strategy, strategy)] = cells = []
            for seed in range(self.arguments.seeds):
                piece = self.search_of(strategy, seed)
                outcome = self.outcome(piece)
                if piece is None or outcome is None:
                    continue
                known = {name: value for name, value in outcome.items() if name not in ("genotype", "history")}
                cell = self.trained(piece.name, Genotype.from_json(outcome["genotype"]), known)
                cells.extend([cell] if cell else [])
        for name, genotype in self.published.items():
            # a published cell may have the name of the strategy that found it
            groups[f"{name} (published)"] = [cell] if (cell := self.trained(name, genotype)) else []
        random = [self.trained(f"random_{n}", cell) for n, cell in enumerate(self.random)]
        return {name: cells for name, cells in groups.items() if cells}, [cell for cell in random if cell]


# Results


def markdown(comparison: Comparison, groups: Mapping[str, Sequence[Trained]], random: Sequence[Trained]) -> str:
    """Return the figures as a page of Markdown."""
    arguments = comparison.arguments
    noise = seed_noise(random)
    ours = [cell for strategy in arguments.strategies if strategy not in NAMES for cell in groups.get(strategy, ())]
    p = rank_test(ours, random)
    own = ", ".join(f"{name}={value}" for name, value in arguments.set.items())
    lines = [
        f"# Found cells among random ones, {arguments.space} space",
        "",
        f"{comparison.data.name}, {len(comparison.data.x_train):,} training and {len(comparison.data.x_test):,} test "
        f"images at {arguments.size}x{arguments.size}. Searches: C={arguments.channels}, {arguments.epochs} epochs, "
        f"batch {arguments.batch}, learning rate {arguments.lr:g} (RelativeNAS: {arguments.generations} generations of "
        f"{arguments.population}; NNI's DARTS: {arguments.nni_epochs} epoch(s); its evolution: "
        f"{arguments.candidate_epochs} epoch(s) a candidate). Trainings: "
        f"C={arguments.channels}, {arguments.train_epochs} epochs, batch {arguments.train_batch}, learning rate "
        f"{arguments.train_lr:g}.{f' But {own}.' if own else ''} {platform.machine()} CPU, one thread, "
        f"torch {importlib.metadata.version('torch')}, Python {platform.python_version()}.",
        "",
        "Means ± standard deviations over cells. Percentile: share of the random cells that are less accurate, and of "
        "those within 15 % of the cell's parameters (*equally large*). Depth: operations on the longest path to a "
        "node, mean over the nodes. Search s: CPU seconds. Decided: 1 - entropy / ln K of alpha's operation weights, "
        "of RelativeNAS how far the learners have come together; gap: lead of an edge's best operation; validation: "
        "accuracy of the supernet, or of the candidate. p: one-sided test of Mann and Whitney against the random "
        "cells.",
        "",
        *table(figures(groups, random), random),
    ]
    if p is not None:
        lines += [
            "",
            f"All {len(ours)} cells that our strategies found against {len(random)} random ones: p = {p:.2g}.",
        ]
    if noise is not None:
        lines += [
            "",
            f"Standard deviation of a random cell's accuracy between seeds of its training: {noise[0]:.2f} points; "
            f"between cells: {noise[1]:.2f} points.",
        ]
    if (found := correlations(random)) is not None:
        lines += [
            "",
            f"Correlation of a random cell's accuracy with its number of parameters: {found[0]:.2f}; with its "
            f"depth: {found[1]:.2f}.",
        ]
    return "\n".join(lines) + "\n"


def write_results(comparison: Comparison) -> Path:
    """Write figures, table and picture of what there is; return the table's file."""
    groups, random = comparison.collect()
    arguments = comparison.arguments
    target = arguments.output / f"found_versus_random_{arguments.space}"
    sizes = {name: value for name, value in vars(arguments).items() if name not in ("data", "output", "hours")}
    content = {
        "settings": {**sizes, "data": comparison.data.name},
        "found": figures(groups, random),
        "random": figures({"random": random}, random)["random"]["cells"],
    }
    atomic_write(target.with_suffix(".json"), strict_json(content, indent=1) + "\n")
    title = f"{arguments.space} space, {comparison.data.name}: found and published cells over {len(random)} random ones"
    picture(groups, random, title, target.with_suffix(".png"))
    return atomic_write(target.with_suffix(".md"), markdown(comparison, groups, random))


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the arguments; for digits their defaults are small."""
    parser = search_arguments(__doc__.split("\n\n")[0], **SMALL)
    parser.add_argument("--space", choices=list(CONTENDERS), default="bcnn")
    parser.add_argument("--strategies", nargs="+", help="contenders (default: all that suit the space)")
    parser.add_argument("--random", type=int, help="random cells")
    parser.add_argument("--train-seeds", type=int, default=2, help="seeds of every cell's training")
    parser.add_argument("--train-epochs", type=int)
    parser.add_argument("--train-batch", type=int)
    parser.add_argument("--train-lr", type=float)
    parser.add_argument("--candidate-epochs", type=int, default=1, help="epochs of every candidate of the evolution")
    parser.add_argument("--nni-epochs", type=int, help="of NNI's DARTS, whose epochs take longer than ours")
    parser.add_argument("--generations", type=int, help="of RelativeNAS")
    parser.add_argument("--population", type=int, help="of RelativeNAS")
    parser.add_argument(
        "--set", action="append", default=[], metavar="[STRATEGY:]NAME=VALUE",
        help="one setting as nni-plugins search takes it, of all pieces or of one strategy's searches; may be repeated",
    )  # fmt: skip
    parser.add_argument("--hours", type=float, help="stop after that long")
    if parser.parse_known_args(argv)[0].data == "digits":
        parser.set_defaults(**DIGITS)
    arguments = parser.parse_args(argv)
    known = CONTENDERS[arguments.space]
    arguments.strategies = list(arguments.strategies or known)
    if unknown := [name for name in arguments.strategies if name not in known]:
        parser.error(f"--strategies must be among {', '.join(known)} for the {arguments.space} space, not {unknown[0]}")
    for name in ("seeds", "train_seeds", "random"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, not {getattr(arguments, name)}")
    try:
        arguments.set = parse_assignments(arguments.set)
    except ValueError as error:
        parser.error(str(error))
    return arguments


def main() -> int:
    arguments = parse()
    prepare(NNI_DARTS_CODE)
    return run_to_results(lambda: Comparison(arguments, small_images(arguments)), write_results)


if __name__ == "__main__":
    sys.exit(main())
