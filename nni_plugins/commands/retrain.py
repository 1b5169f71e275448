"""``nni-plugins retrain``: train the network of a genotype, export it and check it."""

from __future__ import annotations

import argparse
import os.path
from functools import partial
from pathlib import Path

from nni_plugins.commands.arguments import GENOTYPE_HELP, OWN_SPACE_HELP, SETTINGS_HELP, add_data, add_out
from nni_plugins.commands.finishing import finish, scaled
from nni_plugins.data.names import refuse_unknown_data
from nni_plugins.deploy.result_folder import refuse_existing_result
from nni_plugins.run.genotypes import load_genotype
from nni_plugins.run.settings import by_section
from nni_plugins.run.values import parse_assignments
from nni_plugins.tools.own_code import is_own, own
from search_spaces.image_shapes import stem_of

HELP = "train the network of a genotype, export it and check it"
PARSER = {
    "description": "Train a published genotype or one from a file from scratch on the whole training set. Of a result "
    "folder, data set and network sizes are taken over unless given. With --from, it is not from scratch: the "
    "weights of a result folder are where it begins.",
    "epilog": SETTINGS_HELP,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("genotype", type=os.path.expanduser, help=GENOTYPE_HELP)
    parser.add_argument("--space", help=OWN_SPACE_HELP)
    parser.add_argument("--epoch", type=int, help="of a search's result folder, take the cell of this epoch (from 1)")
    parser.add_argument(
        "--recipe",
        metavar="STRATEGY",
        help="train as the paper of this method does (default: the one that found the cell)",
    )
    parser.add_argument(
        "--from",
        dest="initial",
        metavar="FOLDER",
        type=os.path.expanduser,
        help="begin with the trained weights of this result folder, of the same cell and sizes, on its data or others; "
        "the classifier starts anew",
    )
    add_data(parser, default="that of a result folder, or else digits")
    add_out(parser)


def run(arguments: argparse.Namespace) -> int:
    out = refuse_existing_result(arguments.out, force=arguments.force)
    if arguments.data is not None:
        refuse_unknown_data(arguments.data)
    genotype = load_genotype(arguments.genotype, arguments.epoch)
    if is_own(genotype.space):
        own(genotype.space, "search space", "--space")
    overrides = parse_assignments(arguments.set)
    by_section(overrides, ("retrain", "space" if is_own(genotype.space) else "net"))
    from nni_plugins.data import load_data
    from nni_plugins.run.initial_weights import InitialWeights
    from nni_plugins.run.pipeline import run_retraining
    from nni_plugins.run.retrain import retraining_settings

    initial = None if arguments.initial is None else InitialWeights.of(arguments.initial)
    settings_of = partial(
        retraining_settings,
        genotype,
        result=arguments.genotype,
        data=arguments.data,
        recipe=arguments.recipe,
        seed=arguments.seed,
        overrides=overrides,
    )
    settings = settings_of()  # mistakes come before the data is read
    data = load_data(settings.data, root=arguments.data_root, download=arguments.download)
    settings = scaled(settings_of(stem=stem_of(data.image_size)), data, arguments)
    result = run_retraining(
        genotype, settings, data, out=out, work=Path(f"{out}.run"), force=arguments.force, initial=initial
    )
    return finish(result, variants_on=data if arguments.variants else None)
