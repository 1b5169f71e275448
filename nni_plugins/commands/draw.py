"""``nni-plugins draw``: the cells of a genotype as a picture."""

from __future__ import annotations

import argparse
import os.path

from nni_plugins.commands.arguments import GENOTYPE_HELP
from nni_plugins.run.genotypes import load_genotype
from nni_plugins.tools.atomic_files import refuse_existing

HELP = "draw the cells of a genotype as SVG"
PARSER = {"description": "Draw the cells of a genotype as an SVG file."}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("genotype", type=os.path.expanduser, help=GENOTYPE_HELP)
    parser.add_argument(
        "--out", type=os.path.expanduser, default="cells.svg", help="file to write (default: %(default)s)"
    )
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")


def run(arguments: argparse.Namespace) -> int:
    from nni_plugins.report.cell_picture import draw_cells

    genotype = load_genotype(arguments.genotype)
    path = refuse_existing(arguments.out, force=arguments.force)
    draw_cells(genotype, path)
    print(f"drawn to {path}")
    return 0
