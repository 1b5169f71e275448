"""``nni-plugins collect``: bring the results of a remote experiment home."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "bring the results of an experiment on remote machines home"
PARSER = {
    "description": (
        "Fetch, over SSH, the result folder, the TensorBoard logs and, while it is unfinished, the last checkpoint of "
        "every trial of an experiment on remote machines; each file is checked by its SHA-256. Run it again to fetch "
        "the rest after a broken connection, or what is new."
    ),
    "epilog": "Run it where the experiment was started. docs/how-to/remote_machines.md tells all of it.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment", help="NNI's name of the experiment")
    parser.add_argument("--out", type=Path, default=Path("exported"), help="folder for results (default: %(default)s)")
    parser.add_argument("--config", type=Path, help="YAML file whose machineList to use, if machines have changed")


def run(arguments: argparse.Namespace) -> int:
    from nni_plugins.experiment.remote import collect

    return collect.main(arguments.experiment, arguments.out, arguments.config)
