"""``nni-plugins run``: an NNI experiment from its YAML file to its results."""

from __future__ import annotations

import argparse
from pathlib import Path

from nni_plugins.commands.arguments import add_out_of_remote, port

HELP = "run an NNI experiment from its YAML file and follow it to its end"
PARSER = {
    "description": (
        "Check an experiment's file and the machines that it needs, start it with NNI, show it while it runs, and at "
        "the end print a table of its trials. Ctrl-C leaves the experiment running."
    ),
    "epilog": "For example: nni-plugins run examples/bnas_v2.yml",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG.yml", help="the experiment's file; examples/ has some")
    parser.add_argument("--port", type=port, help="port of NNI's web UI (default: the first free one from 8080 on)")
    parser.add_argument("--open", action="store_true", help="let other machines reach the web UI, which has no login")
    add_out_of_remote(parser)


def run(arguments: argparse.Namespace) -> int:
    from nni_plugins.experiment import running

    return running.run(arguments.config, arguments.out, port=arguments.port, opened=arguments.open)
