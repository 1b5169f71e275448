"""How much faster several devices search: seconds of an epoch on one and on several, with the same batches.

    python benchmarks/data_parallel.py
    python benchmarks/data_parallel.py --strategy bnas_v2_pc --space bcnn --devices 4 --data cifar10

Without a GPU a device is a process with one thread, and a row more shows one process with as many threads. Seconds are
the median of all epochs but the first of each search; measuring consistency is left out. On cores that others use the
figures say nothing.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import torch

from nni_plugins.data import ImageSet, load_data
from nni_plugins.deploy.latency import machine
from nni_plugins.run.search import search
from nni_plugins.run.settings import Settings
from nni_plugins.run.values import parse_assignments
from nni_plugins.tools.atomic_files import atomic_write
from nni_plugins.tools.console import quiet_libraries


def epoch_seconds(settings: Settings, data: ImageSet) -> float:
    """Return the median seconds of an epoch but the first, which warms up."""
    with tempfile.TemporaryDirectory() as folder:
        history = search(settings, data, Path(folder)).history
    return statistics.median(epoch["seconds"] for epoch in history[1:])


def main() -> None:
    """Search with each number of devices, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--strategy", default="darts", help="strategy (default: %(default)s)")
    parser.add_argument("--space", default="nasbench201", help="space (default: %(default)s)")
    parser.add_argument("--data", default="digits", help="data set (default: %(default)s)")
    parser.add_argument("--data-root", default="data", help="folder of torchvision's sets (default: %(default)s)")
    parser.add_argument("--devices", type=int, default=2, help="devices beside one (default: %(default)s)")
    parser.add_argument(
        "--epochs", type=int, default=4, help="epochs of every search, at least 2 (default: %(default)s)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the table")
    arguments = parser.parse_args()
    quiet_libraries()
    data = load_data(arguments.data, root=arguments.data_root)
    on_gpu = torch.cuda.is_available()
    cases = [(1, 1), (arguments.devices, 1)] if on_gpu else [(1, 1), (1, arguments.devices), (arguments.devices, 1)]
    rows: list[tuple[int, int, float]] = []
    for devices, threads in cases:
        torch.set_num_threads(devices * threads)  # what the ranks share
        overrides = {"epochs": arguments.epochs, "consistency_batches": 0, **parse_assignments(arguments.set)}
        settings = Settings.of(
            strategy=arguments.strategy,
            space=arguments.space,
            data=arguments.data,
            overrides={**overrides, "devices": devices},
        )
        rows.append((devices, threads, epoch_seconds(settings, data)))
    where = torch.cuda.get_device_name() if on_gpu else machine()
    title = f"{arguments.strategy} on {arguments.space}, {arguments.data}; {where}, torch {torch.__version__}"
    table = [f"| {n} | {threads} | {seconds:.2f} | {rows[0][2] / seconds:.2f}x |" for n, threads, seconds in rows]
    head = ["| devices | threads each | s/epoch | faster |", "| --- | --- | --- | --- |"]
    text = "\n".join([title, "", *head, *table]) + "\n"
    print(f"\n{text}", end="")
    atomic_write(arguments.output / f"data_parallel_{arguments.strategy}_{arguments.space}.md", text)


if __name__ == "__main__":
    main()
