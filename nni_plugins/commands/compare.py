"""``nni-plugins compare``: results side by side on the terminal."""

from __future__ import annotations

import argparse
import os.path
from pathlib import Path

from nni_plugins.commands.arguments import add_json
from nni_plugins.deploy.result_folder import REPORT_FILE
from nni_plugins.run.genotypes import read_report
from nni_plugins.tools.atomic_files import strict_json

HELP = "compare results: accuracy, sizes, latency, settings; needs neither torch nor NNI"
PARSER = {
    "description": "Print the figures of result folders as a table, the best test accuracy first, and the settings in "
    "which they differ.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", metavar="FOLDER", type=os.path.expanduser, help="result folder")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from nni_plugins.report.figures import Figures, differing_settings

    results = []
    for folder in arguments.folders:
        report = read_report(folder)
        results.append((folder, Figures.of(report, source=Path(folder) / REPORT_FILE), report["settings"]))
    results.sort(key=lambda result: -(result[1].test_accuracy or 0.0))
    differing = differing_settings([settings for _, _, settings in results])
    if arguments.json:
        print(
            strict_json(
                {
                    "results": [{"folder": folder, **figures.to_dict()} for folder, figures, _ in results],
                    "differing_settings": differing,
                }
            )
        )
        return 0
    from nni_plugins.report.comparison import print_comparison

    print_comparison([(folder, figures) for folder, figures, _ in results], differing)
    return 0
