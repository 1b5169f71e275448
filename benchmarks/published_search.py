"""One search of published size on the CPU: days of one core, in the background, resumed after an interruption.

    python benchmarks/published_search.py npz:CIFAR10.npz --out FOLDER                        # BNAS-v2-PC
    python benchmarks/published_search.py npz:CIFAR10.npz --out FOLDER --strategy entrannas

The first call starts the search in a process that outlives the terminal, with the lowest priority and one thread. A
later one says how far it is, how long it will take, and starts it again after its last finished epoch if it was
interrupted. At the end FOLDER holds ``genotype.json``, ``history.svg`` and ``search.json`` (settings, decidedness,
hours, versions, the metrics of every epoch); until then ``progress.json``, ``log.txt``, and checkpoints in ``run``.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from searching import decision, without_cells

from nni_plugins.data import load_data
from nni_plugins.methods.metric import DECIDED
from nni_plugins.methods.registry import method_spec
from nni_plugins.report.history_picture import draw_history
from nni_plugins.run.epoch_report import EpochRecord
from nni_plugins.run.rehearsal import rehearse
from nni_plugins.run.search import search
from nni_plugins.run.settings import Settings
from nni_plugins.run.values import parse_assignments
from nni_plugins.run.work_folder import Stage, claim, leave
from nni_plugins.tools.atomic_files import atomic_write, strict_json
from nni_plugins.tools.console import quiet_libraries
from search_spaces import Genotype

RESULT, PROGRESS, LOG, RUN = "search.json", "progress.json", "log.txt", "run"
VERSIONS = ("nni-plugins", "nni", "torch", "pytorch-lightning")


class Progress:
    """The metrics of the epochs so far, on disk, so that a later call need not ask the process that searches."""

    def __init__(self, out: Path) -> None:
        self._file = out / PROGRESS

    def epochs(self) -> list[dict[str, Any]]:
        return json.loads(self._file.read_text()) if self._file.is_file() else []

    def keep(self, record: EpochRecord) -> None:
        """Add an epoch; one that is done again after an interruption takes the place of its first time."""
        before = [epoch for epoch in self.epochs() if epoch["epoch"] < record.epoch]
        atomic_write(self._file, strict_json([*before, record.to_dict()], indent=None))

    def sentence(self, total: int) -> str:
        """Return how many of ``total`` epochs are done, and the hours that the others will take."""
        done = self.epochs()
        if not done:
            return f"No epoch of {total} is done yet."
        seconds = sum(epoch["seconds"] for epoch in done) / len(done)
        hours = seconds * (total - len(done)) / 3600
        return f"{len(done)} of {total} epochs done, {seconds / 60:.1f} minutes each; {hours:.1f} hours left."


def run(settings: Settings, out: Path) -> None:
    """Search, or resume, in this process; write the result set to ``out``.

    Raises
    ------
    ValueError
        If a setting does not fit, or ``out`` holds a search with other settings or other data.
    BlockingIOError
        If another process searches there.
    """
    data, work = load_data(settings.data), out / RUN
    rehearse(settings, data)
    progress = Progress(out)
    with claim(work):
        threads = Stage.of_search(settings, data.fingerprint()).enter(work)
        found = search(settings, data, work, progress.keep)
        genotypes = [Genotype.from_json(epoch["genotype"]) for epoch in found.history]
        decided = [epoch.get(DECIDED.name, math.nan) for epoch in found.history]
        atomic_write(out / "history.svg", draw_history(genotypes, curves={DECIDED.name: decided}))
        atomic_write(out / "genotype.json", found.genotype.to_json())
        result = {
            "settings": {**settings.to_dict(), "data": data.name},
            "data_sha256": data.fingerprint(),
            **decision(found.history),
            "hours": sum(epoch["seconds"] for epoch in found.history) / 3600,
            "machine": f"{platform.machine()} CPU, {' then '.join(map(str, threads))} thread(s)",
            "versions": {"python": platform.python_version()}
            | {name: importlib.metadata.version(name) for name in VERSIONS},
            "history": without_cells(found.history),
        }
        atomic_write(out / RESULT, strict_json(result) + "\n")
        leave(work)


def start(arguments: Sequence[str], out: Path) -> int:
    """Start this script in the background with the given arguments; return the number of its process."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / LOG, "a") as log:
        process = subprocess.Popen(
            [sys.executable, __file__, *arguments, "--here"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    return process.pid


def searching(out: Path) -> bool:
    """Return whether a process searches in ``out``."""
    try:
        with claim(out / RUN):
            return False
    except BlockingIOError:
        return True


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("data", help="data set, as nni-plugins takes it: npz:FILE, cifar10, ...")
    parser.add_argument("--out", type=Path, required=True, help="folder for progress, checkpoints and result")
    parser.add_argument("--strategy", default="bnas_v2_pc")
    parser.add_argument("--space", help="search space (default: the one that the strategy's paper searches)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="one setting that differs from the published"
    )
    parser.add_argument("--nice", type=int, default=19, help="priority of the search, 19 the lowest")
    parser.add_argument("--here", action="store_true", help="search in this process")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    arguments = parse(argv)
    out: Path = arguments.out
    warnings.simplefilter("ignore")
    quiet_libraries()
    try:
        space = arguments.space or next(iter(method_spec(arguments.strategy).spaces))
        settings = Settings.of(
            strategy=arguments.strategy, space=space, data=arguments.data, seed=arguments.seed,
            overrides=parse_assignments(arguments.set),
        )  # fmt: skip
        if (out / RESULT).is_file():
            result = json.loads((out / RESULT).read_text())
            print(f"{out} is complete: {result['hours']:.1f} hours, decided {result['decided']}, gap {result['gap']}.")
        elif arguments.here:
            os.nice(max(0, arguments.nice - os.nice(0)))
            run(settings, out)
        else:
            print(Progress(out).sentence(settings.search.epochs + settings.make_strategy().extra_epochs))
            if searching(out):
                print("It is running.")
            else:
                rehearse(settings, load_data(settings.data))
                print(f"Started as process {start(argv, out)}; it writes to {out / LOG}.")
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
