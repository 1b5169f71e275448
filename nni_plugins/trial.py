"""One NNI trial: one search, its retraining, export and check. The only module that talks to NNI's manager.

    python -m nni_plugins.trial --data digits --set epochs=8

The trial's parameters come from NNI's search space: ``strategy``, ``space``, ``seed``, and any setting by the name that
``nni-plugins search --set`` takes; what is the same for all trials may stand on the command line.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nni
import torch

from .console import complain, quiet_libraries
from .data import load_data
from .pipeline import run
from .progress import EpochMetrics
from .settings import Settings, parse_assignments
from .strategies.bilevel_module import SearchDiverged

REPORTED = (
    "default",
    "validation_loss",
    "architecture_loss",
    "weights_loss",
    "alpha_entropy",
    "parameter_free",
    "skip_connect",
    "consistency_gap",
    "seconds",
    "memory_mb",
)
"""Metrics of an epoch that NNI's page shows; it takes the list from the first epoch, so all are sent from there on."""


def settings_of(parameters: Mapping[str, Any], arguments: argparse.Namespace) -> Settings:
    """Settings of the trial: NNI's parameters over the command line's.

    Raises
    ------
    ValueError
        If a parameter is not a setting of the strategy, or its value is not valid.
    """
    names = {name: parameters[name] for name in ("strategy", "space", "data", "seed") if name in parameters}
    overrides = parse_assignments(arguments.set) | {
        name: value for name, value in parameters.items() if name not in names
    }
    return Settings.of(
        **{"strategy": arguments.strategy, "space": arguments.space, "data": arguments.data, "seed": arguments.seed}
        | names,
        overrides=overrides,
    )


def report_epoch(metrics: EpochMetrics) -> None:
    """Send one epoch's numbers to NNI; a loss that the epoch did not have (warm-up) is sent as 0."""
    asked_for = [name for name in metrics if name.startswith("table_") or name == "hessian"]
    nni.report_intermediate_result({name: float(metrics.get(name, 0.0)) for name in (*REPORTED, *asked_for)})


def build_parser() -> argparse.ArgumentParser:
    """The command line of a trial."""
    parser = argparse.ArgumentParser(prog="python -m nni_plugins.trial", description=__doc__.split("\n\n")[0])
    parser.add_argument("--strategy", default="bnas_v2_pc", help="strategy, unless NNI's parameters name one")
    parser.add_argument("--space", default="bcnn", help="search space, unless NNI's parameters name one")
    parser.add_argument("--data", default="digits", help="data set, see nni-plugins search --help")
    parser.add_argument("--seed", type=int, default=0, help="seed, unless NNI's parameters name one")
    parser.add_argument("--data-root", default="data", help="folder of torchvision's data sets")
    parser.add_argument("--download", action="store_true", help="fetch a torchvision data set that is missing")
    parser.add_argument("--threads", type=int, help="threads on the CPU; one is fastest for very small networks")
    parser.add_argument("--exported", default="exported", help="folder that results go to")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of all trials")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the trial that NNI's manager started; exit status 2 for a user's mistake."""
    arguments = build_parser().parse_args(argv)
    quiet_libraries()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    parameters = nni.get_next_parameter() or {}
    try:
        settings = settings_of(parameters, arguments)
        data = load_data(settings.data, root=arguments.data_root, download=arguments.download)
        outcome = run(
            settings,
            data,
            out=Path(arguments.exported) / f"{nni.get_experiment_id()}-{nni.get_trial_id()}",
            work=Path(os.environ.get("NNI_OUTPUT_DIR", "runs/trial")),
            force=True,  # the folder carries this trial's id: only its own earlier attempt can be there
            on_epoch=report_epoch,
        )
    except (ValueError, OSError, SearchDiverged) as error:
        return complain(error)
    nni.report_final_result(outcome.summary())
    return 0


if __name__ == "__main__":
    sys.exit(main())
