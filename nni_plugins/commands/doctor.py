"""``nni-plugins doctor``: what usually breaks in an installation."""

from __future__ import annotations

import argparse

HELP = "check what usually breaks in the installation"
PARSER = {"description": "Check the installation; exit status 0 only when all is well."}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=_port, default=8080, help="port of NNI's web UI (default: %(default)s)")


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 1 to 65535, got {text!r}")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    from nni_plugins.experiment import doctor

    return doctor.main(arguments.port)
