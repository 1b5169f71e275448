"""Time and memory of one search step (one architecture step and one weight step), ours beside NNI's DARTS.

    python benchmarks/search_step.py                                   # on the CPU
    python benchmarks/search_step.py --precision 32-true bf16-mixed    # both precisions in one table
    python benchmarks/search_step.py --compile                         # each of ours as it is and compiled

Every contender runs in a process of its own, in turn, for several rounds; same space, batch and evaluator.
Reported: median seconds of a step, and CPU seconds, which tell more on a machine that others use as well; the share of
it that deriving the connections takes; peak memory above what the process held before the first step; by how much the
first two steps were longer (compilation, from an empty cache); and the step at the machine's limit: nothing but its
multiplications, or nothing but moving every operation's input and output, at the pace of a plain product and copy.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
NNI = "NNI DARTS"
MEDIANS = ("seconds", "cpu_seconds", "start", "multiplying", "moving")

CASES: dict[str, dict[str, Any]] = {
    "darts": {
        "title": "NNI hub's DARTS space, C=16, 8 cells, batch 16, 32x32",
        "batch": 16,
        "contenders": [NNI, "FirstOrderDARTS", "PCDARTS", "RFDARTS", "RFPCDARTS", "EnTranNAS"],
    },
    "bcnn": {
        "title": "BCNN, C=16, batch 64, 32x32",
        "batch": 64,
        "contenders": [NNI, "BNASD", "BNASv2CLR", "BNASv2PC"],
    },
    "nasbench201": {
        "title": "NAS-Bench-201, C=16, N=1, batch 64, 32x32",
        "batch": 64,
        "contenders": [NNI, "FirstOrderDARTS", "RFDARTS"],
    },
}


class Variant(NamedTuple):
    """A contender, and how it runs."""

    contender: str
    precision: str = "32-true"
    compiled: bool = False

    def __str__(self) -> str:
        told = [self.contender, *([self.precision] if self.precision != "32-true" else [])]
        return ", ".join([*told, *(["compiled"] if self.compiled else [])])


def make_space(case: str) -> Any:
    from nni.nas.hub.pytorch import DARTS as HubDARTS

    from search_spaces import BCNN, NASBench201

    if case == "darts":
        return HubDARTS(width=16, num_cells=8, dataset="cifar")
    return BCNN(channels=16) if case == "bcnn" else NASBench201(channels=16, cells=1)


def make_strategy(name: str) -> Any:
    import nni.nas.strategy

    import nni_plugins

    if name == NNI:
        return nni.nas.strategy.DARTS(gradient_clip_val=5.0)
    return getattr(nni_plugins, name)(warmup_epochs=0)


def measure(
    variant: Variant, make_space: Callable[[], Any], *, batch: int, side: int = 32, steps: int
) -> dict[str, Any]:
    """Run ``steps`` steps on a fresh space after two of warm-up; return medians and peak.

    Parameters
    ----------
    variant
        What runs.
    make_space
        The space; NNI's must not be imported before this function has imported NNI's strategies.
    batch, side
        Images in a batch, and pixels of their side.
    steps
        Steps that are timed.
    """
    warnings.simplefilter("ignore")
    import nni.nas.strategy  # noqa: F401, I001  before nni.nas.oneshot, or NNI's own DARTS is left unusable

    import pytorch_lightning as pl
    import torch
    from nni.nas.evaluator.pytorch import DataLoader, Lightning, Trainer

    from machine_limit import counted, machine_limit
    from memory import PeakMemory

    from nni_plugins.run.classifier import ImageClassifier
    from nni_plugins.run.compiled import CompiledSteps, compile_cells
    from nni_plugins.tools.console import quiet_libraries
    from nni_plugins.run.settings import SearchRecipe

    quiet_libraries()
    cuda = torch.cuda.is_available()
    torch.manual_seed(0)
    images = torch.utils.data.TensorDataset(
        torch.randn(batch * (steps + 3), 3, side, side), torch.randint(0, 10, (batch * (steps + 3),))
    )

    class Timer(pl.Callback):
        seconds: list[float] = []  # noqa: RUF012  one process, one timer
        cpu_seconds: list[float] = []  # noqa: RUF012
        memory: PeakMemory
        peak: float

        def on_train_start(self, *_: Any) -> None:
            self.memory = PeakMemory()

        def on_train_batch_start(self, *_: Any) -> None:
            if len(self.seconds) == steps + 2:  # the last step is counted and not timed
                self.peak = self.memory.mb()
                self.counting = counted()
                self.work = self.counting.__enter__()
            self.started, self.cpu_started = self._now(), time.process_time()

        def on_train_batch_end(self, *_: Any) -> None:
            self.seconds.append(self._now() - self.started)
            self.cpu_seconds.append(time.process_time() - self.cpu_started)
            if len(self.seconds) == steps + 3:
                self.counting.__exit__(None, None, None)

        def _now(self) -> float:
            if cuda:
                torch.cuda.synchronize()
            return time.perf_counter()

    strategy, timer = make_strategy(variant.contender), Timer()
    supernet = strategy.mutate_model(make_space())
    if variant.compiled:
        compile_cells(supernet)
    trainer = Trainer(
        max_epochs=1, accelerator="gpu" if cuda else "cpu", devices=1, precision=variant.precision,
        callbacks=[timer, *([CompiledSteps()] if variant.compiled else [])], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    loader = DataLoader(images, batch_size=batch)
    module = ImageClassifier(SearchRecipe(epochs=1, lr=0.025), 10)
    strategy.mutate_evaluator(Lightning(module, trainer, loader, loader)).evaluate(supernet)
    seconds = statistics.median(timer.seconds[2:-1])
    product, copy = machine_limit()
    threads = torch.get_num_threads()
    return {
        "seconds": seconds,
        "cpu_seconds": statistics.median(timer.cpu_seconds[2:-1]),
        "start": sum(timer.seconds[:2]) - 2 * seconds,
        "derivation": derivation_seconds(supernet),
        "peak_mb": timer.peak,
        "multiplying": timer.work.flops / product,
        "moving": timer.work.bytes / copy,
        "device": torch.cuda.get_device_name() if cuda else f"{cpu_name()}, {threads} thread{'s' * (threads > 1)}",
        "torch": torch.__version__,
    }


def derivation_seconds(supernet: Any) -> float | None:
    """Measure what deriving the connections takes after an architecture step; None for NNI's own supernet."""
    from nni_plugins.supernet.architecture import CellArchitecture

    architectures = [module for module in supernet.modules() if isinstance(module, CellArchitecture)]
    architectures = list(dict.fromkeys(architectures))
    seconds = []
    for _ in range(20 if architectures else 0):
        for architecture in architectures:
            architecture.temperature.mul_(1)  # what was derived is stale now, as after a step
        started = time.perf_counter()
        for architecture in architectures:
            architecture.derive()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) if seconds else None


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.machine()


def compare(case: str, variants: list[Variant], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Run every variant ``rounds`` times in turn; return the median of medians and the largest of peaks."""
    runs: dict[Variant, list[dict[str, Any]]] = {variant: [] for variant in variants}
    for _ in range(arguments.rounds):
        for variant in variants:
            command = [sys.executable, __file__, "--one", case, json.dumps(variant), "--steps", str(arguments.steps)]
            with tempfile.TemporaryDirectory() as cache:
                settings = {"PYTHONPATH": str(ROOT), "TORCHINDUCTOR_CACHE_DIR": cache}
                done = subprocess.run(
                    command, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, **settings}
                )
            if done.returncode:
                raise RuntimeError(f"{variant} on {case} ended with status {done.returncode}:\n{done.stderr}")
            runs[variant].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{case}: {variant} {runs[variant][-1]['seconds']:.3f} s a step", file=sys.stderr, flush=True)
    rows = []
    for variant, results in runs.items():
        middle = {name: statistics.median(result[name] for result in results) for name in MEDIANS}
        peak = max(result["peak_mb"] for result in results)
        rows.append({**results[0], "name": str(variant), "compiled": variant.compiled, **middle, "peak_mb": peak})
    return rows


def table(title: str, rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown, relative to the first, without columns that nothing is in."""
    base = rows[0]
    cells = [described(row, base) for row in rows]
    columns = [name for name in cells[0] if any(cell[name] for cell in cells)]
    lines = [
        f"{title}; {base['device']}; torch {base['torch']}, NNI 3.0, Python {platform.python_version()}",
        "",
        *(f"| {' | '.join(line)} |" for line in (columns, ["---"] * len(columns))),
        *(f"| {' | '.join(cell[name] for name in columns)} |" for cell in cells),
    ]
    return "\n".join(lines) + "\n"


def described(row: dict[str, Any], base: dict[str, Any]) -> dict[str, str]:
    """Return the cells of a row by their columns."""
    return {
        "strategy": row["name"],
        "s/step": f"{row['seconds']:.3f}",
        f"faster than {base['name']}": f"{base['seconds'] / row['seconds']:.2f}x",
        "CPU s/step": f"{row['cpu_seconds']:.3f}",
        "faster by CPU": f"{base['cpu_seconds'] / row['cpu_seconds']:.2f}x",
        "peak MB": f"{row['peak_mb']:.0f}",
        "of its peak": f"{row['peak_mb'] / base['peak_mb']:.2f}",
        "derivation": "" if row["derivation"] is None else f"{row['derivation'] / row['seconds']:.2%}",
        "compilation, s": f"{row['start']:.0f}" if row["compiled"] else "",
        "only multiplying, s": f"{row['multiplying']:.3f}",
        "only moving, s": f"{row['moving']:.3f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--contenders", nargs="+", help="the first is the measure of all (default: NNI's, then ours)")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", nargs="+", choices=("32-true", "bf16-mixed"), default=["32-true"])
    parser.add_argument("--compile", action="store_true", help="measure each of our strategies compiled as well")
    parser.add_argument("--out", type=Path, help="Markdown file to write as well")
    parser.add_argument("--one", nargs=2, metavar=("CASE", "VARIANT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        case, variant = arguments.one
        told = Variant(*json.loads(variant))
        costs = measure(told, partial(make_space, case), batch=CASES[case]["batch"], steps=arguments.steps)
        print(json.dumps(costs))
        return
    tables = []
    for case in arguments.cases:
        names = arguments.contenders or CASES[case]["contenders"]
        variants = [
            Variant(name, precision, compiled)
            for name in names
            for precision in arguments.precision
            for compiled in ((False, True) if arguments.compile and name != NNI else (False,))
        ]
        tables.append(table(CASES[case]["title"], compare(case, variants, arguments)))
        print(tables[-1])
    if arguments.out:
        arguments.out.write_text("\n".join(tables))


if __name__ == "__main__":
    main()
