"""The commands of ``nni-plugins``, a module each.

A command is a module of its name with

    HELP                     one line for the list of commands
    PARSER                   what else its parser is made with: ``description``, ``epilog``
    add_arguments(parser)    its command line
    run(arguments) -> int    its work; returns the exit status and raises ValueError or OSError for a user's mistake

Modules here import neither torch nor NNI before ``run`` needs them, so that help and mistakes come at once.
"""

from __future__ import annotations

import argparse
from typing import Any, Protocol


class Command(Protocol):
    """What a module of this package has."""

    HELP: str
    PARSER: dict[str, Any]

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments of the command."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do the work and return the exit status."""


COMMANDS = (
    "search",
    "retrain",
    "export",
    "check",
    "predict",
    "variants",
    "report",
    "compare",
    "draw",
    "describe",
    "space",
    "score",
    "latency",
    "list",
    "run",
    "follow",
    "collect",
    "doctor",
    "leftovers",
)
"""In the order of the help page."""
