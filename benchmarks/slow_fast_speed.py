"""Time of slow-fast learning itself: a candidate's share of ask and tell, and a tuner fed with finished trials.

    python benchmarks/slow_fast_speed.py

All over the 32 choices of the two DARTS cells: the pure core at N = 20, then the NNI tuner beside NNI's own TPE, driven
through the methods that NNI calls. Results come from a hash of the cell, which costs nothing. TPE is not given the
imported trials: it meets cells again and then loses itself in a grid of 7^16 x 14400^2 points.
"""

from __future__ import annotations

import argparse
import platform
import time
import zlib
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

from nni.algorithms.hpo.tpe_tuner import TpeTuner

from nni_plugins.methods.relative_nas import slow_fast
from nni_plugins.methods.relative_nas.encoding import Choice, darts_encoding
from nni_plugins.methods.relative_nas.tuner import RelativeNASTuner
from nni_plugins.tools.console import quiet_libraries

POPULATION = 20
SPACE = {
    name: {"_type": "choice", "_value": list(variable.values)}
    for name, variable in darts_encoding().variables.items()
    if isinstance(variable, Choice)
}


def accuracy(architecture: Hashable) -> float:
    return zlib.crc32(repr(architecture).encode()) / 2**32


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def core(generations: int, *, reevaluate: bool) -> float:
    """Measure the seconds of ask and tell together per candidate."""
    encoding = darts_encoding()
    state = slow_fast.start(encoding.upper, population_size=POPULATION, reevaluate=reevaluate)
    spent, candidates = 0.0, 0
    for _ in range(generations):
        started = time.perf_counter()
        state, asked = slow_fast.ask(state, decode=encoding.decode)
        spent += time.perf_counter() - started
        losses = [accuracy(architecture) for architecture in asked]
        candidates += len(asked)
        started = time.perf_counter()
        state = slow_fast.tell(state, losses)
        spent += time.perf_counter() - started
    return spent / candidates


def trials(tuner: Any, count: int) -> float:
    """Measure the seconds of a tuner per trial, one trial at a time."""
    tuner.update_search_space(SPACE)

    def run() -> None:
        for number in range(count):
            parameters = tuner.generate_parameters(number)
            tuner.receive_trial_result(number, parameters, accuracy(tuple(parameters.values())))
            tuner.trial_end(number, True)

    return seconds(run) / count


def ours() -> RelativeNASTuner:
    return RelativeNASTuner(restart_on_collapse=True)


def resumed(count: int) -> float:
    """Measure the seconds until a new tuner has taken ``count`` finished trials and proposed the next one."""
    source = ours()
    source.update_search_space(SPACE)
    finished = []
    for number in range(count):
        parameters = source.generate_parameters(number)
        finished.append({"parameter": parameters, "value": accuracy(tuple(parameters.values()))})
        source.receive_trial_result(number, parameters, finished[-1]["value"])
        source.trial_end(number, True)

    def run() -> None:
        tuner = ours()
        tuner.update_search_space(SPACE)
        tuner.import_data(finished)
        tuner.generate_parameters(count)

    return seconds(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--generations", type=int, default=200)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--imported", type=int, default=10_000)
    parser.add_argument("--out", type=Path, help="Markdown file to write as well")
    arguments = parser.parse_args()
    quiet_libraries()

    core_ms = [1000 * core(arguments.generations, reevaluate=mode) for mode in (False, True)]
    tuner_ms = [1000 * trials(tuner, arguments.trials) for tuner in (ours(), TpeTuner(seed=0))]
    ready = resumed(arguments.imported)
    lines = [
        f"32 choices, N = {POPULATION}; one core of {platform.machine()}, Python {platform.python_version()}, NNI 3.0",
        "",
        "| | slow-fast | NNI's TPE |",
        "| --- | --- | --- |",
        f"| ask and tell, ms per candidate, moved individuals only | {core_ms[0]:.3f} | |",
        f"| ask and tell, ms per candidate, all re-evaluated | {core_ms[1]:.3f} | |",
        f"| tuner, ms per trial ({arguments.trials} trials) | {tuner_ms[0]:.2f} | {tuner_ms[1]:.2f} |",
        f"| tuner ready with {arguments.imported:,} imported trials, s | {ready:.2f} | |",
    ]
    print("\n".join(lines))
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
