"""``nni-plugins space``: the choices of a search space, for an evolution with one trial per cell."""

from __future__ import annotations

import argparse

from nni_plugins.commands.arguments import SPACE_HELP, add_settings
from nni_plugins.run.settings import Settings
from nni_plugins.run.values import parse_assignments
from nni_plugins.tools.atomic_files import strict_json

HELP = "choices of a search space, as the searchSpace of an nnictl experiment"
PARSER = {
    "description": "List the choices of a search space, for an evolution with one trial per cell "
    "(python -m nni_plugins.trial --evaluate).",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("space", help=SPACE_HELP)
    add_settings(parser, "space.NAME=VALUE, an argument")
    parser.add_argument("--json", action="store_true", help="print the search space file for nnictl")


def run(arguments: argparse.Namespace) -> int:
    from nni_plugins.report.tables import print_choices

    overrides = parse_assignments(arguments.set)
    settings = Settings.of(
        strategy="relative_nas", space=arguments.space, data="", overrides=overrides, sections=("space",)
    )
    from nni_plugins.run.description import describe_choices

    choices = describe_choices(settings)
    if arguments.json:
        print(strict_json(choices))
    else:
        print_choices(choices)
    return 0
