"""``nni-plugins describe``: cells, parameters and multiply-adds."""

from __future__ import annotations

import argparse
import os.path

from nni_plugins.commands.arguments import GENOTYPE_HELP, SET_HELP, SPACE_HELP, STRATEGY_HELP, add_json, add_settings
from nni_plugins.methods.registry import method_spec
from nni_plugins.run.genotypes import load_genotype
from nni_plugins.run.settings import Settings, by_section
from nni_plugins.run.values import parse_assignments
from nni_plugins.tools.atomic_files import strict_json
from nni_plugins.tools.own_code import is_own
from search_spaces.image_shapes import IMAGE_SHAPES, image_shape
from search_spaces.published import published_by, published_names

HELP = "cells, parameters and multiply-adds of a genotype or a supernet"
PARSER = {"description": "Describe a genotype's evaluation network, or with --strategy the supernet of a search."}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("genotype", nargs="?", type=os.path.expanduser, help=GENOTYPE_HELP)
    parser.add_argument("--strategy", help=f"describe the supernet of this strategy: {STRATEGY_HELP}")
    parser.add_argument("--space", help=f"search space of the supernet: {SPACE_HELP} (default: bcnn)")
    parser.add_argument(
        "--dataset",
        default="cifar10",
        help=f"what gives classes and image size: {', '.join(IMAGE_SHAPES)} (default: %(default)s)",
    )
    add_settings(parser, SET_HELP)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from nni_plugins.report.tables import print_description

    assignments = parse_assignments(arguments.set)
    image_shape(arguments.dataset)
    if arguments.genotype is not None:
        if arguments.strategy is not None or (arguments.space is not None and not is_own(arguments.space)):
            raise ValueError("Give a genotype for its network, or --strategy and --space for a supernet, not both.")
        genotype, sizes = load_genotype(arguments.genotype), by_section(assignments, ("net",))["net"]
        if arguments.genotype in published_names():
            own = method_spec(published_by(arguments.genotype)).on(genotype.space)
            sizes = {**own.sizes.get(image_shape(arguments.dataset).stem, {}), **sizes}
        from nni_plugins.run.description import describe_genotype

        description = describe_genotype(genotype, arguments.dataset, sizes)
    elif arguments.strategy is not None:
        settings = Settings.of(
            strategy=arguments.strategy,
            space=arguments.space or "bcnn",
            data="",
            overrides=assignments,
            sections=("search", "space"),
        )
        from nni_plugins.run.description import describe_supernet

        description = describe_supernet(settings, arguments.dataset)
    else:
        raise ValueError("Give a genotype (a file or a published name), or --strategy for a supernet.")
    if arguments.json:
        print(strict_json(description))
    else:
        print_description(description)
    return 0
