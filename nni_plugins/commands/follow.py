"""``nni-plugins follow``: a running or ended experiment, as ``nni-plugins run`` shows it."""

from __future__ import annotations

import argparse

from nni_plugins.commands.arguments import add_out_of_remote

HELP = "show an NNI experiment, running or ended, as run does"
PARSER = {
    "description": (
        "Show an experiment until it has ended, print a table of its trials and end its manager; of one that has ended "
        "already, print the table. Ctrl-C leaves the experiment running."
    ),
    "epilog": "Run it where the experiment was started; nnictl experiment list --all names the experiments.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment", metavar="ID", help="NNI's name of the experiment")
    add_out_of_remote(parser)


def run(arguments: argparse.Namespace) -> int:
    from nni_plugins.experiment import running

    return running.follow(arguments.experiment, arguments.out)
