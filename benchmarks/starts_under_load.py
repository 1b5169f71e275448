"""Whether NNI experiments start on a machine that is busy otherwise.

Starts experiments of two empty trials one after the other beside processes that do nothing but take time, closed
managers as the demo starts them; prints the seconds from ``nnictl create`` to the first trial of each.

    python benchmarks/starts_under_load.py --starts 5 --load 6
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from nni_plugins.experiment.nnictl import free_port, start, stop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--starts", type=int, default=5, help="experiments to start (default: %(default)s)")
    parser.add_argument("--load", type=int, default=6, help="busy processes beside them (default: %(default)s)")
    arguments = parser.parse_args()
    started = 0
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(arguments.load)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            for number in range(1, arguments.starts + 1):
                begin = time.monotonic()
                try:
                    experiment = start("create", "--config", str(write_config(Path(folder))), port=free_port(18280))
                except OSError as error:
                    print(f"start {number}: failed after {time.monotonic() - begin:.1f} s: {error}", flush=True)
                    continue
                print(f"start {number}: first trial after {time.monotonic() - begin:.1f} s", flush=True)
                started += 1
                stop(experiment)
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    print(f"{started} of {arguments.starts} started, beside {arguments.load} busy processes")


def write_config(folder: Path) -> Path:
    """Write the configuration of an experiment that lives in ``folder``."""
    path = folder / "experiment.yml"
    content = {
        "experimentWorkingDirectory": str(folder),
        "searchSpace": {"x": {"_type": "choice", "_value": [0, 1]}},
        "trialCommand": "true",
        "trialConcurrency": 1,
        "maxTrialNumber": 2,
        "tuner": {"name": "Random"},
        "trainingService": {"platform": "local"},
    }
    path.write_text(yaml.safe_dump(content))
    return path


if __name__ == "__main__":
    main()
