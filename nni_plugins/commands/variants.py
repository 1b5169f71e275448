"""``nni-plugins variants``: a result as float32, INT8 and float16, and in PyTorch, side by side."""

from __future__ import annotations

import argparse
import os.path
from pathlib import Path

from nni_plugins.commands.arguments import DATA_HELP, OWN_SPACE_HELP, add_data_root, add_json
from nni_plugins.data.names import refuse_unknown_data

HELP = "compare a result as float32, INT8, float16 and in PyTorch: accuracy, size, latency"
PARSER = {
    "description": "Make the INT8 and float16 models of a result folder, measure all of them on the whole test set and "
    "in time, and keep models and variants.json in FOLDER/variants.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=os.path.expanduser, help="result folder")
    parser.add_argument("--data", help=f"{DATA_HELP} (default: what the folder's report names)")
    add_data_root(parser)
    parser.add_argument("--space", help=OWN_SPACE_HELP)
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help="some of float32 int8 float16 pytorch compiled")
    parser.add_argument(
        "--provider", default="CPUExecutionProvider", help="onnxruntime's execution provider (default: %(default)s)"
    )
    parser.add_argument(
        "--calibration-images",
        type=int,
        default=256,
        help="training images that the ranges of INT8 are taken from (default: %(default)s)",
    )
    parser.add_argument(
        "--calibration", default="minmax", help="how: minmax, entropy or percentile (default: %(default)s)"
    )
    parser.add_argument(
        "--reduce-range", action="store_true", help="use 7 bits for weights, for a CPU without VNNI instructions"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of training images (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=100, help="timed runs on one image (default: %(default)s)")
    parser.add_argument(
        "--threads", type=int, nargs="+", help="numbers of threads to time with (default: 1, and one for each CPU)"
    )
    parser.add_argument("--force", action="store_true", help="replace variants that are there already")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    folder = Path(arguments.folder)
    if arguments.data is not None:
        refuse_unknown_data(arguments.data)
    from nni_plugins.data import load_data
    from nni_plugins.deploy.variants import VARIANTS, print_variants
    from nni_plugins.run.genotypes import read_report
    from nni_plugins.run.variants import VariantSettings, make_variants, refuse_existing_variants
    from nni_plugins.tools.atomic_files import strict_json

    settings = VariantSettings(
        **({"threads": tuple(arguments.threads)} if arguments.threads else {}),
        only=tuple(arguments.only or VARIANTS),
        provider=arguments.provider,
        calibration_images=arguments.calibration_images,
        calibration=arguments.calibration,
        reduce_range=arguments.reduce_range,
        seed=arguments.seed,
        runs=arguments.runs,
    )
    refuse_existing_variants(folder, force=arguments.force)
    data = load_data(arguments.data or read_report(folder)["settings"]["data"], root=arguments.data_root)
    report = make_variants(folder, data, settings, force=arguments.force)
    if arguments.json:
        print(strict_json(report))
    else:
        print_variants(report, folder)
    return 0
