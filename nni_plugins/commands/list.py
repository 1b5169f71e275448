"""``nni-plugins list``: what there is to choose from."""

from __future__ import annotations

import argparse

from nni_plugins.run.lists import LISTS

HELP = "strategies, spaces, published genotypes, data sets and settings, each with what it is"
PARSER = {"description": "List what there is to choose from."}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="?", choices=tuple(LISTS), help="one of the lists (default: all but settings)")


def run(arguments: argparse.Namespace) -> int:
    from nni_plugins.report.tables import print_table

    for name in [arguments.what] if arguments.what else [name for name in LISTS if name != "settings"]:
        for listing in LISTS[name]():
            print_table(*listing)
    return 0
