"""What became faster since a commit: the demo's searches on digits, and published networks in onnxruntime.

    python benchmarks/against_commit.py 33b2b83^
    python benchmarks/against_commit.py 33b2b83^ --parts networks

The commit is checked out into a temporary folder, and both versions do the same in processes of their own, in turn: the
searches of the demo with the settings of today, in seconds of their processor on one thread; and the networks of
published cells, exported by each version with the same weights and timed together on one thread with one image.
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
STRATEGIES = ("bnas_d", "bnas_v2_clr", "bnas_v2_pc")
NETWORKS = ("darts_v2", "pc_darts_cifar")
PARTS = ("search", "networks")


def is_commit(name: str) -> bool:
    """Return whether the repository has a commit of this name."""
    git = ["git", "-C", str(ROOT), "rev-parse", "--quiet", "--verify", f"{name}^{{commit}}"]
    return subprocess.run(git, capture_output=True, check=False).returncode == 0


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """Give a folder with ``commit``, for as long as it is used."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), commit], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def in_version(tree: Path, *words: str) -> str:
    """Run this file with the package of ``tree`` on one thread; return the last line that it prints."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(Path(__file__).resolve()), "--as", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tree)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} with {tree} ended with status {done.returncode}:\n{done.stderr}")
    return done.stdout.splitlines()[-1]


def demo_settings(strategy: str, epochs: int | None) -> str:
    """Return the settings of the demo's search as JSON, all of them, so that no default of another version counts."""
    from nni_plugins.run.settings import Settings

    settings = Settings.of(strategy=strategy, space="bcnn", data="digits", seed=1)
    recipe = settings.search
    overrides = {
        "epochs": epochs or recipe.epochs,
        "batch_size": recipe.batch_size,
        "lr": recipe.lr,
        **settings.choices,
        **{f"space.{name}": value for name, value in settings.space_arguments.items()},
    }
    return json.dumps(overrides)


def search_seconds(strategy: str, overrides: str) -> float:
    """Search on digits with the package that is imported; return the processor's seconds, without loading it."""
    from nni_plugins.data import load_data
    from nni_plugins.run.search import search
    from nni_plugins.run.settings import Settings

    settings = Settings.of(strategy=strategy, space="bcnn", data="digits", seed=1, overrides=json.loads(overrides))
    data = load_data("digits")
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        search(settings, data, Path(folder))
        return time.process_time() - started


def export(network: str, file: str) -> None:
    """Export a published network at its size for CIFAR-10 with the package that is imported."""
    import torch

    from nni_plugins.deploy.export import export_onnx
    from search_spaces import evaluation_net
    from search_spaces.published import published

    torch.manual_seed(0)
    export_onnx(evaluation_net(published(network), "cifar10"), torch.randn(2, 3, 32, 32), file)


def searches(before: Path, strategies: Sequence[str], rounds: int, epochs: int | None) -> list[str]:
    """Return rows of a table: seconds of a search before and now."""
    rows = []
    for strategy in strategies:
        overrides = demo_settings(strategy, epochs)
        found: list[tuple[float, float]] = []
        for _ in range(rounds):
            then, now = (float(in_version(tree, "search", strategy, overrides)) for tree in (before, ROOT))
            found.append((then, now))
            print(f"{strategy}: {then:.1f} s before, {now:.1f} s now", file=sys.stderr, flush=True)
        then, now = (statistics.median(each) for each in zip(*found, strict=True))
        rows.append(f"| search, {strategy} | {then:.1f} s | {now:.1f} s | {now / then:.2f} |")
    return rows


def networks(before: Path, names: Sequence[str], runs: int) -> list[str]:
    """Return rows of a table: milliseconds of a network before and now, from sessions that run in turn."""
    import numpy as np

    from nni_plugins.deploy.latency import sessions_ms
    from nni_plugins.deploy.session import open_session

    rows = []
    image = np.random.RandomState(0).randn(1, 3, 32, 32).astype(np.float32)
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / "before.onnx", Path(folder) / "now.onnx"]
            for tree, file in zip((before, ROOT), files, strict=True):
                in_version(tree, "export", name, str(file))
            models = [file.read_bytes() for file in files]
        logits = [open_session(model, 1).run(None, {"images": image})[0] for model in models]
        off = float(np.abs(logits[0] - logits[1]).max() / np.abs(logits[0]).max())
        then, now = sessions_ms(models, image, runs=runs, threads=1)
        rows.append(
            f"| onnxruntime, {name} (logits differ by {off:.0e}) | {then:.2f} ms | {now:.2f} ms | {now / then:.2f} |"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("commit", nargs="?", help="what to compare with")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=3, help="searches of each version")
    parser.add_argument("--epochs", type=int, help="of a search (default: the demo's)")
    parser.add_argument("--runs", type=int, default=400, help="of a network")
    parser.add_argument("--out", type=Path, help="Markdown file to write as well")
    parser.add_argument("--as", dest="one", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        what, *words = arguments.one
        print({"search": search_seconds, "export": export}[what](*words))
        return
    if arguments.commit is None:
        parser.error("name the commit to compare with, such as 33b2b83^")
    if not is_commit(arguments.commit):
        parser.error(f"{arguments.commit} is no commit of this repository; name one that git log shows.")
    rows: list[str] = []
    with checked_out(arguments.commit) as before:
        if "search" in arguments.parts:
            rows += searches(before, arguments.strategies, arguments.rounds, arguments.epochs)
        if "networks" in arguments.parts:
            rows += networks(before, arguments.networks, arguments.runs)
    import torch

    from nni_plugins.deploy.latency import machine

    now = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True)
    text = "\n".join(
        [
            f"One thread of {machine()}; torch {torch.__version__}, Python {platform.python_version()}",
            "",
            f"| what | {arguments.commit} | {now.stdout.strip()} | of it |",
            f"|{' --- |' * 4}",
            *rows,
        ]
    )
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
