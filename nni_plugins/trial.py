"""One NNI trial: one search, its retraining, export and check. The only module that talks to NNI's manager.

    python -m nni_plugins.trial --data digits --set epochs=8

or, with ``--evaluate``, one cell that a tuner has sampled from the file of ``nni-plugins space NAME --json``:

    python -m nni_plugins.trial --evaluate --space darts --data digits --set retrain.epochs=2

A search's parameters come from NNI's search space: ``strategy``, ``space``, ``seed``, and any setting by the name that
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

from nni_plugins.data import load_data
from nni_plugins.methods.bilevel.step import SearchDiverged
from nni_plugins.run.candidate import evaluate_candidate, look_up_candidate, sample_of
from nni_plugins.run.epoch_report import EpochMetrics
from nni_plugins.run.pipeline import run
from nni_plugins.run.settings import Settings, parse_assignments
from nni_plugins.tools.console import complain, quiet_libraries

REPORTED = (
    "default",
    "training_loss",
    "training_accuracy",
    "validation_loss",
    "architecture_loss",
    "weights_loss",
    "alpha_entropy",
    "parameter_free",
    "skip_connect",
    "consistency_gap",
    "hessian",
    "best_loss",
    "mean_loss",
    "loss_spread",
    "diversity",
    "table_cifar10",
    "table_cifar100",
    "table_imagenet16",
    "seconds",
    "memory_mb",
)
"""Metrics of an epoch that NNI's page shows, where the search has them."""

LATER = {"architecture_loss": 0.0}
"""What an epoch of warm-up does not have; NNI takes the list of metrics from the first epoch."""


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
    found = (LATER if "weights_loss" in metrics else {}) | metrics
    nni.report_intermediate_result({name: float(found[name]) for name in REPORTED if name in found})


def build_parser() -> argparse.ArgumentParser:
    """The command line of a trial."""
    parser = argparse.ArgumentParser(prog="python -m nni_plugins.trial", description=__doc__.split("\n\n")[0])
    parser.add_argument("--evaluate", action="store_true", help="train and validate the cell that NNI's parameters say")
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
        final = (evaluate_cell if arguments.evaluate else search_cell)(parameters, arguments)
    except (ValueError, OSError, SearchDiverged) as error:
        return complain(error)
    nni.report_final_result(final)
    return 0


def search_cell(parameters: Mapping[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Search, retrain, export and check; the final result."""
    settings = settings_of(parameters, arguments)
    data = load_data(settings.data, root=arguments.data_root, download=arguments.download)
    return run(
        settings,
        data,
        out=result_folder(arguments),
        work=work_folder(),
        force=True,  # the folder carries this trial's id: only its own earlier attempt can be there
        on_epoch=report_epoch,
    ).summary()


def evaluate_cell(parameters: Mapping[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Train the cell that the parameters describe for a short time and validate it, or look it up; the final result."""
    settings = settings_of({}, arguments)
    data = load_data(settings.data, root=arguments.data_root, download=arguments.download)
    sample = sample_of(parameters, settings, data)
    if settings.search.table is not None:
        return look_up_candidate(sample, settings, out=result_folder(arguments))
    return evaluate_candidate(
        sample, settings, data, out=result_folder(arguments), work=work_folder(), on_epoch=report_epoch
    )


def result_folder(arguments: argparse.Namespace) -> Path:
    """Where this trial's results go."""
    return Path(arguments.exported) / f"{nni.get_experiment_id()}-{nni.get_trial_id()}"


def work_folder() -> Path:
    """Where this trial's checkpoints and logs go; NNI gives a resumed trial the same folder again."""
    return Path(os.environ.get("NNI_OUTPUT_DIR", "runs/trial"))


if __name__ == "__main__":
    sys.exit(main())
