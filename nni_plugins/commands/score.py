"""``nni-plugins score``: a NAS-Bench-201 cell in a table."""

from __future__ import annotations

import argparse
import os.path

from nni_plugins.commands.arguments import GENOTYPE_HELP, add_json
from nni_plugins.run.genotypes import load_genotype
from nni_plugins.tools.atomic_files import strict_json

HELP = "look a NAS-Bench-201 cell up in a table"
PARSER = {"description": "Test accuracies of a NAS-Bench-201 cell on three data sets, and its rank among all cells."}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("genotype", type=os.path.expanduser, help=GENOTYPE_HELP)
    parser.add_argument("--table", required=True, help=".npz file, or nni for NNI's own benchmark database")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from nni_plugins.report.nasbench201_table import Table, score
    from nni_plugins.report.tables import print_description

    table = Table.from_nni() if arguments.table == "nni" else Table.load(arguments.table)
    found = score(load_genotype(arguments.genotype), table).to_dict()
    if arguments.json:
        print(strict_json(found))
    else:
        print_description(found)
    return 0
