"""``nni-plugins leftovers``: end what a killed NNI manager has left running."""

from __future__ import annotations

import argparse

HELP = "end what a killed NNI manager has left running"
PARSER = {"description": "List tuners and trials whose NNI manager was killed, and end them after asking."}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment", nargs="?", help="NNI's name of the experiment (default: all)")
    parser.add_argument("--yes", action="store_true", help="end them without asking")


def run(arguments: argparse.Namespace) -> int:
    from nni_plugins.experiment import leftovers

    return leftovers.main(arguments.experiment, yes=arguments.yes)
