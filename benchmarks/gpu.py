"""All figures of a GPU with one command, in pieces of less than ten minutes that are kept and not done again.

    python benchmarks/gpu.py npz:CIFAR10.npz                         # everything that is not done yet
    python benchmarks/gpu.py npz:CIFAR10.npz --minutes 50            # what fits into 50 minutes; call it again for more
    python benchmarks/gpu.py npz:CIFAR10.npz --only 'step darts*'    # some pieces; --list names all
    python benchmarks/gpu.py digits --toy                            # a dry run of the smallest sizes, on a CPU as well

Every piece has a process of its own. One that fails is noted with its error, and done again with ``--retry`` alone; the
whole search resumes after its last epoch. After every piece ``gpu.json`` and ``gpu.md`` in the output folder hold what
is known; pieces that were done on another machine stand in tables of their own. On a machine without a GPU everything
but CUDA graphs is measured all the same, and the tables name the CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import importlib.metadata
import itertools
import json
import math
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from nni_plugins.tools.atomic_files import atomic_write, strict_json

LIMIT = 570.0
"""Seconds of a piece, the start of its process included."""
PRECISIONS = ("32-true", "bf16-mixed")
MODES: Mapping[str, Mapping[str, bool]] = {
    "eager": {},
    "merged": {"merge_edges": True},
    "graphed": {"cuda_graphs": True},
    "merged, graphed": {"merge_edges": True, "cuda_graphs": True},
}
NNI = "NNI DARTS"
STEPS: Mapping[str, Sequence[str]] = {
    "darts": (NNI, "FirstOrderDARTS", "SecondOrderDARTS", "PCDARTS", "RFDARTS", "RFPCDARTS", "EnTranNAS"),
    "darts_any": ("EnTranNASDST",),
    "bcnn": (NNI, "BNASD", "BNASv2CLR", "BNASv2PC"),
    "nasbench201": (NNI, "FirstOrderDARTS", "RFDARTS"),
}
"""Strategies whose step is measured, by space."""
CELLS = ("bnas_v2_clr_v1", "darts_v2")
"""Published cells whose training is measured."""
LAYOUTS = (("channels first", "32-true"), ("channels first", "bf16-mixed"), ("channels last", "bf16-mixed"))
CONTENDERS = ("nni_darts", "darts", "rf_darts")
"""Searches on NAS-Bench-201, by their names in nasbench201_search.py."""
CANDIDATE_EPOCHS = 1000
"""Of RelativeNAS as published: 20 learners, 50 generations, an epoch each."""


class Sizes(NamedTuple):
    """How large everything is; by default as published."""

    steps: int = 20
    warm_up: int = 5
    batch: int = 64
    side: int = 32
    space: Mapping[str, Mapping[str, Any]] = {
        "darts": {"channels": 16, "layers": 8},
        "darts_any": {"channels": 16, "layers": 8},
        "bcnn": {"channels": 16},
        "nasbench201": {"channels": 16, "cells": 5},
    }
    nasbench201_epochs: int = 2
    search: Mapping[str, Any] = {}
    candidates: Mapping[str, Any] = {}
    training: Mapping[str, Mapping[str, Any]] = {}
    """By space."""


_SMALL_BATCH = {"retrain.batch_size": 8, "retrain.cutout": 0}
TOY = Sizes(
    steps=2,
    warm_up=1,
    batch=4,
    side=8,
    space={
        "darts": {"channels": 4, "layers": 3},
        "darts_any": {"channels": 4, "layers": 3},
        "bcnn": {"channels": 4},
        "nasbench201": {"channels": 4, "cells": 1},
    },
    nasbench201_epochs=1,
    search={"epochs": 2, "warmup_epochs": 1, "batch_size": 16, "space.channels": 4, "retrain.cutout": 0},
    candidates={"population_size": 2, "batch_size": 16, "cutout": 0, "space.channels": 4, "space.layers": 3},
    training={
        "bcnn": {**_SMALL_BATCH, "net.channels": 4, "net.deep_cells": 0, "net.enhancement_cells": 1},
        "darts": {**_SMALL_BATCH, "net.channels": 4, "net.layers": 3, "net.auxiliary": False},
    },
)


class Run(NamedTuple):
    """What a piece is measured with: data, sizes, and a folder that outlives an interruption."""

    data: str
    sizes: Sizes
    folder: Path


class Piece(NamedTuple):
    """One measurement.

    Parameters
    ----------
    kind
        Which table it belongs to.
    row, column
        Its place there.
    work
        Measures its figures, by name.
    resumes
        Whether it is started again after :data:`LIMIT`.
    """

    kind: str
    row: str
    column: str
    work: Callable[[Run], Mapping[str, float]]
    resumes: bool = False

    @property
    def name(self) -> str:
        return f"{self.kind} {self.row}, {self.column}"


# What is measured


def make_space(case: str, sizes: Sizes) -> Any:
    from search_spaces import BCNN, AnyDARTSSpace, DARTSSpace, NASBench201

    classes = {"darts": DARTSSpace, "darts_any": AnyDARTSSpace, "bcnn": BCNN, "nasbench201": NASBench201}
    return classes[case](**sizes.space[case])


def make_strategy(name: str, mode: str) -> Any:
    import nni.nas.strategy

    import nni_plugins

    if name == NNI:
        return nni.nas.strategy.DARTS(gradient_clip_val=5.0)
    return getattr(nni_plugins, name)(warmup_epochs=0, **MODES[mode])


def modes_of(name: str) -> Iterator[str]:
    """Return how a strategy's step can run."""
    for mode in MODES:
        try:
            if mode == "eager" or name != NNI:
                make_strategy(name, mode)
                yield mode
        except ValueError:  # a combination that is refused
            pass


def search_step(run: Run, case: str, strategy: str, mode: str, precision: str) -> dict[str, float]:
    """Return what a step of the architecture and of the weights costs."""
    import torch
    from nni.nas.evaluator.pytorch import DataLoader, Lightning
    from step_costs import StepCosts, bare_trainer

    from nni_plugins.run.classifier import ImageClassifier
    from nni_plugins.run.recipes import SearchRecipe

    sizes = run.sizes
    torch.manual_seed(0)
    images = sizes.batch * (sizes.steps + sizes.warm_up)
    data = torch.utils.data.TensorDataset(
        torch.randn(images, 3, sizes.side, sizes.side), torch.randint(0, 10, (images,))
    )
    made, costs = make_strategy(strategy, mode), StepCosts(sizes.warm_up)
    supernet = made.mutate_model(make_space(case, sizes))
    loaders = [DataLoader(data, batch_size=sizes.batch) for _ in range(2)]
    module = ImageClassifier(SearchRecipe(epochs=1, lr=0.025), 10)
    made.mutate_evaluator(Lightning(module, bare_trainer(costs, precision), *loaders)).evaluate(supernet)
    return {"ms a step": 1000 * costs.seconds(), "peak MB": costs.peak_mb()}


def nasbench201(run: Run, contender: str, precision: str) -> dict[str, float]:
    """Return what a search costs, from its first epochs."""
    from nasbench201_search import run_search

    sizes = run.sizes
    epochs = sizes.nasbench201_epochs
    settings = argparse.Namespace(
        data=run.data, images=None, size=sizes.side, batch=sizes.batch, lr=0.025, arch_lr=3e-4, precision=precision,
        threads=1, epochs=epochs, **sizes.space["nasbench201"],
    )  # fmt: skip
    found = run_search(contender, 0, settings)
    seconds = found["seconds"] / epochs
    return {
        "s an epoch": seconds,
        "hours of 50 epochs, extrapolated": 50 * seconds / 3600,
        "peak MB": found["memory_mb"],
    }


def whole_search(run: Run, mode: str, precision: str) -> dict[str, float]:
    """Return what a BNAS-v2-PC search costs, from the first epoch to the last."""
    import published_search

    from nni_plugins.run.settings import Settings

    overrides = {**run.sizes.search, **MODES[mode], "precision": precision}
    settings = Settings.of(strategy="bnas_v2_pc", space="bcnn", data=run.data, overrides=overrides)
    result = run.folder / published_search.RESULT
    if not result.is_file():
        published_search.run(settings, run.folder)
    found = json.loads(result.read_text())
    return {
        "epochs": len(found["history"]),
        "hours": found["hours"],
        "decided": found["decided"],
        "validation accuracy, %": found["history"][-1]["validation_accuracy"],
    }


class _Enough(Exception):
    """The first generation is over."""


def candidate_epochs(run: Run, precision: str) -> dict[str, float]:
    """Return what RelativeNAS's candidates cost, from one generation: an epoch of training and a validation each."""
    from nni_plugins.data import load_data
    from nni_plugins.run.search import search
    from nni_plugins.run.settings import Settings

    overrides = {**run.sizes.candidates, "epochs": 1, "precision": precision}
    settings = Settings.of(strategy="relative_nas", space="darts", data=run.data, overrides=overrides)
    generations: list[float] = []

    def first(record: Any) -> None:
        generations.append(record.to_dict()["seconds"])
        raise _Enough

    with contextlib.suppress(_Enough):
        search(settings, load_data(run.data), run.folder, first)
    choices: Any = settings.make_strategy().choices
    candidates = choices.population_size
    seconds = generations[0] / candidates
    return {
        "candidate epochs": candidates,
        "s a candidate epoch": seconds,
        f"hours of {CANDIDATE_EPOCHS:,}, extrapolated": CANDIDATE_EPOCHS * seconds / 3600,
    }


def training(run: Run, cell: str, layout: str, precision: str) -> dict[str, float]:
    """Return what a training step of a published cell's network costs, with the paper's batch and sizes."""
    from step_costs import StepCosts, bare_trainer

    from nni_plugins.data import load_data
    from nni_plugins.run.retrain import build_retraining, retraining_settings
    from search_spaces.published import published

    genotype = published(cell)
    overrides = {"retrain.precision": precision, "retrain.channels_last": layout == "channels last"}
    overrides |= run.sizes.training.get(genotype.space, {})
    settings = retraining_settings(genotype, result=cell, data=run.data, overrides=overrides)
    parts, costs = build_retraining(genotype, settings, load_data(run.data)), StepCosts(run.sizes.warm_up)
    trainer = bare_trainer(
        costs, precision, limit_train_batches=run.sizes.steps + run.sizes.warm_up,
        gradient_clip_val=settings.retrain.gradient_clip_val,
    )  # fmt: skip
    trainer.fit(parts.module, parts.batches)
    batch = settings.retrain.batch_size
    return {
        "batch": batch,
        "ms a step": 1000 * costs.seconds(),
        "images a second": batch / costs.seconds(),
        "peak MB": costs.peak_mb(),
    }


TITLES = {
    "step": "Search step: one architecture step and one weight step, on random images",
    "training": "Training of published cells' networks",
    "candidates": "RelativeNAS's candidates, from one generation",
    "nasbench201": "Searches on NAS-Bench-201 at the published size, from their first epochs",
    "search": "A whole BNAS-v2-PC search on its data set",
}


def all_pieces() -> Iterator[Piece]:
    """Return every piece, the quick ones first."""
    for case, strategies in STEPS.items():
        for strategy in strategies:
            for mode, precision in itertools.product(modes_of(strategy), PRECISIONS):
                work = partial(search_step, case=case, strategy=strategy, mode=mode, precision=precision)
                yield Piece("step", f"{case} {strategy}", f"{mode}, {precision}", work)
    for cell, (layout, precision) in itertools.product(CELLS, LAYOUTS):
        work = partial(training, cell=cell, layout=layout, precision=precision)
        yield Piece("training", cell, f"{layout}, {precision}", work)
    for precision in PRECISIONS:
        yield Piece("candidates", "relative_nas", precision, partial(candidate_epochs, precision=precision))
    for contender, precision in itertools.product(CONTENDERS, PRECISIONS):
        work = partial(nasbench201, contender=contender, precision=precision)
        yield Piece("nasbench201", contender, precision, work)
    for mode, precision in (("eager", "32-true"), ("merged, graphed", "bf16-mixed")):
        work = partial(whole_search, mode=mode, precision=precision)
        yield Piece("search", "bnas_v2_pc", f"{mode}, {precision}", work, resumes=True)


# Pieces on disk


class Kept:
    """Outcomes on disk: figures and machine of what is done, the error of what has failed.

    Parameters
    ----------
    folder
        Outcomes lie in it, and a folder for every piece.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _file(self, piece: Piece) -> Path:
        return self._folder / f"{_slug(piece.name)}.json"

    def folder(self, piece: Piece) -> Path:
        """Return the folder of what outlives an interruption of the piece."""
        return self._folder / "work" / _slug(piece.name)

    def outcome(self, piece: Piece) -> dict[str, Any] | None:
        """Return the figures or the error of a piece; None if it is not done."""
        path = self._file(piece)
        return json.loads(path.read_text()) if path.is_file() else None

    def keep(self, piece: Piece, outcome: Mapping[str, Any]) -> None:
        place = {"kind": piece.kind, "row": piece.row, "column": piece.column, "machine": machine()}
        atomic_write(self._file(piece), strict_json({**place, **outcome}) + "\n")

    def forget(self, piece: Piece) -> None:
        self._file(piece).unlink(missing_ok=True)

    def do(self, piece: Piece, data: str, sizes: Sizes) -> None:
        """Do a piece in this process, and keep its figures or its error."""
        folder = self.folder(piece)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self.keep(piece, {"figures": dict(piece.work(Run(data, sizes, folder)))})
        except Exception as error:  # whatever it is: the other pieces can still be measured
            self.keep(piece, {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"})


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in name)


def machine() -> dict[str, str]:
    """Return what figures depend on: hardware and versions."""
    import torch
    from search_step import cpu_name

    names = ("nni-plugins", "nni", "pytorch-lightning")
    versions = {"Python": platform.python_version(), "torch": torch.__version__}
    versions |= {name: importlib.metadata.version(name) for name in names}
    cpu = f"{cpu_name()}, {torch.get_num_threads()} thread(s)"
    if not torch.cuda.is_available():
        return {"device": cpu, **versions}
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    cuda = {"CUDA": str(torch.version.cuda), "cuDNN": str(torch.backends.cudnn.version())}
    return {"device": f"{torch.cuda.get_device_name()}, {memory:.0f} GiB", "CPU": cpu, **cuda, **versions}


def do_all(
    pieces: Iterable[Piece], kept: Kept, do: Callable[[Piece, float], None], minutes: float | None
) -> Iterator[Piece]:
    """Do what is not done yet, piece by piece, until the minutes are over; yield a piece after every try.

    Parameters
    ----------
    do
        Does a piece, for at most so many seconds; called again until there is an outcome.
    """
    ends = time.monotonic() + 60 * (math.inf if minutes is None else minutes)
    for piece in pieces:
        while kept.outcome(piece) is None:
            left = ends - time.monotonic()
            if left <= 0:
                return
            do(piece, min(LIMIT, left))
            yield piece


def in_a_process(piece: Piece, kept: Kept, command: Sequence[str], seconds: float) -> None:
    """Do a piece in a process of its own.

    One that has not ended after all of :data:`LIMIT` has failed, unless it resumes and has come further; one that was
    given less is done again next time.
    """
    before = _checkpoints(kept.folder(piece))
    try:
        done = subprocess.run(
            [*command, "--piece", piece.name],
            timeout=seconds, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        further = piece.resumes and _checkpoints(kept.folder(piece)) != before
        if seconds >= LIMIT and not further:
            kept.keep(piece, {"error": f"it was not done after {LIMIT:.0f} seconds"})
        return
    if kept.outcome(piece) is None:
        last = (done.stderr.strip().splitlines() or ["without a word"])[-1]
        kept.keep(piece, {"error": f"its process ended with status {done.returncode}: {last[:400]}"})


def _checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.ckpt"))


# Tables


def write_tables(pieces: Sequence[Piece], kept: Kept, output: Path) -> None:
    """Write ``gpu.json`` and ``gpu.md``: a table for every kind of figure and machine, and what has failed."""
    outcomes = [outcome for piece in pieces if (outcome := kept.outcome(piece)) is not None]
    atomic_write(output / "gpu.json", strict_json(outcomes) + "\n")
    lines = ["# Figures of a GPU", ""]
    machines = list(dict.fromkeys(json.dumps(outcome["machine"]) for outcome in outcomes))
    for told in machines:
        lines += [", ".join(f"{name} {value}" for name, value in json.loads(told).items()), ""]
        there = [outcome for outcome in outcomes if json.dumps(outcome["machine"]) == told]
        for kind, title in TITLES.items():
            lines += table(title, [outcome for outcome in there if outcome["kind"] == kind and "figures" in outcome])
        failed = [outcome for outcome in there if "error" in outcome]
        lines += ["## Failed", ""] if failed else []
        lines += [f"- {each['kind']} {each['row']}, {each['column']}: {each['error']}" for each in failed]
        lines += [""] if failed else []
    lines.append(f"{len(outcomes)} of {len(pieces)} pieces are done.")
    atomic_write(output / "gpu.md", "\n".join(lines) + "\n")


def table(title: str, outcomes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a section of Markdown with a row for every outcome; nothing without any."""
    if not outcomes:
        return []
    names = list(dict.fromkeys(name for outcome in outcomes for name in outcome["figures"]))
    lines = [f"## {title}", "", f"| | | {' | '.join(names)} |", "| --- " * (2 + len(names)) + "|"]
    for outcome in outcomes:
        figures = [_shown(outcome["figures"].get(name)) for name in names]
        lines.append(f"| {' | '.join([outcome['row'], outcome['column'], *figures])} |")
    return [*lines, ""]


def in_words(outcome: Mapping[str, Any] | None) -> str:
    if outcome is None:
        return "to be continued"
    return outcome.get("error") or ", ".join(f"{name} {_shown(value)}" for name, value in outcome["figures"].items())


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if isinstance(value, int) or value >= 100 else f"{value:.3g}"


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("data", help="CIFAR-10, as nni-plugins takes it: npz:FILE, cifar10, ...")
    parser.add_argument("--minutes", type=float, help="end early; the next call goes on")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="names of pieces, with * and ?")
    parser.add_argument("--list", action="store_true", help="name the pieces and do none")
    parser.add_argument("--retry", action="store_true", help="do again what has failed")
    parser.add_argument("--toy", action="store_true", help="smallest sizes, all in this process: a dry run")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder for the results")
    parser.add_argument("--piece", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)

    import nni.nas.strategy  # noqa: F401  before nni.nas.oneshot, or NNI's own DARTS is left unusable

    from nni_plugins.tools.console import quiet_libraries

    warnings.simplefilter("ignore")
    quiet_libraries()
    pieces = list(all_pieces())
    sizes = TOY if arguments.toy else Sizes()
    kept = Kept(arguments.output / ("gpu_toy" if arguments.toy else "gpu"))
    if arguments.piece is not None:
        kept.do(next(piece for piece in pieces if piece.name == arguments.piece), arguments.data, sizes)
        return 0
    chosen = [piece for piece in pieces if any(fnmatch.fnmatch(piece.name, pattern) for pattern in arguments.only)]
    if not chosen:
        parser.error(f"no piece has a name like {' or '.join(arguments.only)}; --list names all.")
    if arguments.list:
        print("\n".join(piece.name for piece in chosen))
        return 0
    arguments.output.mkdir(parents=True, exist_ok=True)
    for piece in chosen if arguments.retry else []:
        if "error" in (kept.outcome(piece) or {}):
            kept.forget(piece)

    def do(piece: Piece, seconds: float) -> None:
        if arguments.toy:
            kept.do(piece, arguments.data, sizes)
        else:
            in_a_process(piece, kept, [sys.executable, os.path.abspath(__file__), *argv], seconds)

    for piece in do_all(chosen, kept, do, arguments.minutes):
        write_tables(pieces, kept, arguments.output)
        print(f"{piece.name}: {in_words(kept.outcome(piece))}", flush=True)
    write_tables(pieces, kept, arguments.output)
    print((arguments.output / "gpu.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
