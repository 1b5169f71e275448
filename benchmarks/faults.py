"""Kill searches at random moments, run each again, and compare the results with those of uninterrupted ones.

    python benchmarks/faults.py                  # 30 kills; 10 to 15 minutes of one core
    python benchmarks/faults.py --kills 2

Every run is the command ``nni-plugins search`` in a process of its own, with small settings on made-up images; the
kill is SIGKILL. Kills take turns in strategies and in phases: search, the write of a checkpoint, retraining, export.
Within its phase the moment is random (seeded), as a share of the time that the uninterrupted run spent in that phase.
The phase that is counted is what the folders show of the dead process.

Equal means: all files of the result byte for byte, and the report but for measured times and memory. What is done is
kept in the folder given by ``--work`` and not done again when the script is.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nni_plugins.deploy.result_folder import PAGE_FILE, REPORT_FILE
from nni_plugins.tools.atomic_files import atomic_write, strict_json

PHASES = ("search", "checkpoint write", "retraining", "export")
BROAD = {"space.channels": 4, "net.channels": 4, "net.deep_cells": 0, "net.enhancement_cells": 1}
STRATEGIES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "bnas_v2_pc": ("bcnn", {**BROAD, "warmup_epochs": 1}),
    "bnas_v2_clr": ("bcnn", BROAD),
    "entrannas_dst": (
        "darts_any",
        {"space.channels": 4, "space.layers": 3, "net.channels": 4, "net.layers": 3, "net.auxiliary": False},
    ),
    "relative_nas": ("bcnn", {**BROAD, "population_size": 2, "cutout": 2}),
    "rf_darts": ("nasbench201", {"space.channels": 4, "space.cells": 1, "net.channels": 4, "net.cells": 1}),
}
"""The space and the settings of each."""
SMALL = {"epochs": 3, "batch_size": 16, "retrain.epochs": 2, "retrain.batch_size": 16, "retrain.cutout": 0}
MEASURED = ("seconds", "memory_mb", "latency")
"""What of a report differs from run to run."""

POLL = 0.005
"""Seconds between two looks at the folders; the write of a checkpoint is short."""
ATTEMPTS = 8


def made_up_images(path: Path) -> str:
    """Write a data set of 64 + 32 images of 8x8 in two classes, dark and bright; return its ``--data`` text."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, number in (("train", 64), ("test", 32)):
        labels = np.arange(number) % 2
        arrays[f"x_{split}"] = (rng.integers(0, 90, (number, 8, 8)) + 150 * labels[:, None, None]).astype(np.uint8)
        arrays[f"y_{split}"] = labels
    np.savez(path, **arrays)
    return f"npz:{path}"


def start(strategy: str, data: str, out: Path) -> subprocess.Popen[bytes]:
    """Start a search; its output is added to a log beside ``out``."""
    space, own = STRATEGIES[strategy]
    settings = [word for name, value in {**SMALL, **own}.items() for word in ("--set", f"{name}={value}")]
    words = ["search", "--strategy", strategy, "--space", space, "--data", data, "--out", str(out), *settings]
    with open(f"{out}.log", "a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "nni_plugins.cli", *words],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def finish(process: subprocess.Popen[bytes], out: Path) -> None:
    """Wait for a search to end well.

    Raises
    ------
    ChildProcessError
        If it does not; with its log.
    """
    if status := process.wait():
        raise ChildProcessError(f"A search has ended with status {status}: {Path(f'{out}.log').read_text()}")


def phase_of(out: Path) -> str | None:
    """Return what the folders show a run for ``out`` to be doing; None before its search has begun."""
    run = Path(f"{out}.run")
    if out.exists() or any(out.parent.glob(f".{out.name}.*.partial")):
        return "export"
    if any(run.glob("*/.epoch-*")):
        return "checkpoint write"
    if (run / "retrain" / "settings.json").exists():
        return "retraining"
    return "search" if (run / "search" / "settings.json").exists() else None


def watch(
    process: subprocess.Popen[bytes], out: Path, stop: Callable[[str | None, Mapping[str, float]], bool]
) -> dict[str, float]:
    """Watch a run until it ends or ``stop(phase, seconds)`` says so; return the seconds seen in each phase."""
    seconds = dict.fromkeys(PHASES, 0.0)
    before = time.monotonic()
    while process.poll() is None:
        phase, now = phase_of(out), time.monotonic()
        if phase is not None:
            seconds[phase] += now - before
        before = now
        if stop(phase, seconds):
            break
        time.sleep(POLL)
    return seconds


def kill(strategy: str, data: str, out: Path, phase: str, moment: float) -> str | None:
    """Start a search and kill it after ``moment`` seconds of ``phase``; return where it died, None if it ended."""
    process = start(strategy, data, out)
    watch(process, out, lambda now, seconds: now == phase and seconds[phase] >= moment)
    process.kill()
    return phase_of(out) if process.wait() < 0 else None


def differences(result: Path, expected: Path) -> list[str]:
    """Return the files of two results that are not equal, those that only one has included.

    The page is left out: it shows what the report holds, measured times included.
    """
    names = {path.name for folder in (result, expected) for path in folder.iterdir()} - {PAGE_FILE}
    return sorted(name for name in names if _content(result / name) != _content(expected / name))


def _content(path: Path) -> Any:
    if not path.is_file():
        return None
    return _without_measured(json.loads(path.read_text())) if path.name == REPORT_FILE else path.read_bytes()


def _without_measured(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_measured(each) for name, each in value.items() if name not in MEASURED}
    return [_without_measured(each) for each in value] if isinstance(value, list) else value


def uninterrupted(strategy: str, data: str, work: Path) -> tuple[Path, dict[str, float]]:
    """Return the result of an uninterrupted search and the seconds it spent in each phase."""
    out, timing = work / strategy, work / f"{strategy}.json"
    if not timing.is_file():
        _clear(out)
        process = start(strategy, data, out)
        seconds = watch(process, out, lambda *_: False)
        finish(process, out)
        atomic_write(timing, strict_json(seconds))
    return out, json.loads(timing.read_text())


def fault(number: int, seed: int, data: str, work: Path) -> dict[str, Any]:
    """Return what became of the kill with this number: its strategy, the phase and what of the result is not equal."""
    name = list(STRATEGIES)[number % len(STRATEGIES)]
    aimed_at = PHASES[number % len(PHASES)]  # five strategies, four phases: they meet in every way
    out = work / f"kill_{seed}_{number}"
    piece = Path(f"{out}.json")
    if not piece.is_file():
        expected, seconds = uninterrupted(name, data, work)
        moment = random.Random(f"{seed} {number}").random() * seconds[aimed_at]
        for _ in range(ATTEMPTS):
            _clear(out)
            if (phase := kill(name, data, out, aimed_at, moment)) is not None:
                break
            moment /= 2  # this time the phase was shorter
        else:
            raise TimeoutError(f"{ATTEMPTS} searches with {name} ended before they could be killed in {aimed_at}.")
        complete = (out / REPORT_FILE).is_file()
        if not complete:
            finish(start(name, data, out), out)
        record = {
            "strategy": name,
            "phase": phase,
            "seconds_of_the_phase": moment,
            "complete_before": complete,
            "differing": differences(out, expected),
        }
        atomic_write(piece, strict_json(record))
        _clear(out)
    return json.loads(piece.read_text())


def _clear(out: Path) -> None:
    """Remove what runs for ``out`` have left, the killed ones' hidden files included."""
    for path in (out, Path(f"{out}.run"), *out.parent.glob(f".{out.name}.*")):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def table(kills: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table: how many kills of each strategy in each phase, and how many results are equal."""
    rows = ["| strategy | " + " | ".join(PHASES) + " | equal to the uninterrupted result |", "| --- " * 6 + "|"]
    for name, which in {**{name: (name,) for name in STRATEGIES}, "all": tuple(STRATEGIES)}.items():
        of = [each for each in kills if each["strategy"] in which]
        in_phase = Counter(each["phase"] for each in of)
        equal = sum(not each["differing"] for each in of)
        rows.append(f"| {name} | {' | '.join(str(in_phase[phase]) for phase in PHASES)} | {equal} of {len(of)} |")
    return "\n".join(rows) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Do all kills and write ``faults.json`` and ``faults.md``; status 1 if a result is not equal."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--work", type=Path, help="folder of what is done already (default: one that is removed)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder for the results")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="faults-") as temporary:
        work = (arguments.work or Path(temporary)).absolute()
        work.mkdir(parents=True, exist_ok=True)
        data = made_up_images(work / "images.npz")
        kills = []
        for number in range(arguments.kills):
            kills.append(fault(number, arguments.seed, data, work))
            print(f"{number + 1}/{arguments.kills}: {kills[-1]}", flush=True)
    result = {
        "kills": kills,
        "seed": arguments.seed,
        "settings": {name: {"space": space, **SMALL, **own} for name, (space, own) in STRATEGIES.items()},
        "machine": f"{platform.machine()} CPU, 1 thread a process",
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("nni-plugins", "nni", "torch", "pytorch-lightning")},
    }
    atomic_write(arguments.output / "faults.json", strict_json(result) + "\n")
    atomic_write(arguments.output / "faults.md", table(kills))
    return int(any(each["differing"] for each in kills))


if __name__ == "__main__":
    sys.exit(main())
