"""``nni-plugins search``: the work of one NNI trial without NNI's manager."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from nni_plugins.commands.arguments import SETTINGS_HELP, SPACE_HELP, STRATEGY_HELP, add_data, add_out
from nni_plugins.commands.finishing import finish, scaled
from nni_plugins.data.names import refuse_unknown_data
from nni_plugins.deploy.result_folder import refuse_existing_result
from nni_plugins.run.settings import Settings
from nni_plugins.run.values import parse_assignments
from search_spaces.image_shapes import stem_of

HELP = "search an architecture, retrain it, export it and check it"
PARSER = {
    "description": "The work of one NNI trial without NNI's manager. If it is interrupted, run it again to resume.",
    "epilog": SETTINGS_HELP,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--strategy", default="bnas_v2_pc", help=f"{STRATEGY_HELP} (default: %(default)s)")
    parser.add_argument("--space", default="bcnn", help=f"{SPACE_HELP} (default: %(default)s)")
    add_data(parser, default="digits")
    add_out(parser)


def run(arguments: argparse.Namespace) -> int:
    out = refuse_existing_result(arguments.out, force=arguments.force)
    if arguments.data is not None:
        refuse_unknown_data(arguments.data)
    settings_of = partial(
        Settings.of,
        strategy=arguments.strategy,
        space=arguments.space,
        data=arguments.data or "digits",
        seed=arguments.seed,
        overrides=parse_assignments(arguments.set),
    )
    settings = settings_of()  # mistakes come before the data is read
    from nni_plugins.data import load_data
    from nni_plugins.run import pipeline
    from nni_plugins.run.scaling import advice_on_deciding

    data = load_data(settings.data, root=arguments.data_root, download=arguments.download)
    settings = scaled(settings_of(stem=stem_of(data.image_size)), data, arguments)
    if advice := advice_on_deciding(data, settings, parse_assignments(arguments.set)):
        print(advice, flush=True)  # before the lines of other ranks
    result = pipeline.run(settings, data, out=out, work=Path(f"{out}.run"), force=arguments.force)
    return finish(result, variants_on=data if arguments.variants else None)
