"""``nni-plugins check``: the deployment check, which needs neither torch nor NNI."""

from __future__ import annotations

import argparse

HELP = "check an exported model; needs neither torch nor NNI"
PARSER = {"description": "Run the deployment check of DIR from model.onnx and reference.npz alone.", "add_help": False}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs=argparse.REMAINDER, help="those of python -m nni_plugins.deploy.check")


def run(arguments: argparse.Namespace) -> int:
    from nni_plugins.deploy import check

    return check.main(arguments.words)
