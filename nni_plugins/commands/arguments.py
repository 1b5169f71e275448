"""Arguments and help texts that several commands share."""

from __future__ import annotations

import argparse
import os.path
from pathlib import Path

from nni_plugins.data.names import DATA_NAMES, OWN_DATA
from nni_plugins.methods.registry import built_in_specs
from nni_plugins.run.recipes import RetrainRecipe, SearchRecipe
from search_spaces.published import published_names
from search_spaces.registry import built_in_spaces

DATA_HELP = f"{', '.join((*DATA_NAMES, *OWN_DATA))}"
GENOTYPE_HELP = (
    "genotype.json, a result folder, a NAS-Bench-201 string, or the name of a published genotype: "
    f"{', '.join(published_names())}"
)
STRATEGY_HELP = f"{', '.join(built_in_specs())}, that of an installed package, or module:Class for your own"
SPACE_HELP = f"{', '.join(built_in_spaces())}, that of an installed package, or module:function for your own"
OWN_SPACE_HELP = "module:function of your own space; that a file names it does not import it"
FORCE_HELP = "replace the result in the folder if there is one"
VARIANTS_HELP = "then make and compare INT8, float16 and PyTorch as well, see nni-plugins variants"
SET_HELP = (
    "one setting: of the strategy or the search (epochs=50, warmup_epochs=15, 'arch_lr=Confident(power=2)'), of the "
    "retraining (retrain.epochs=600), of the search space (space.channels=16) or of the evaluation network "
    "(net.channels=48); may be repeated"
)
SETTINGS_HELP = (
    f"Settings of a search: {', '.join(SearchRecipe.names())}, and the strategy's. Settings of a retraining: "
    f"{', '.join(RetrainRecipe.names(prefix='retrain.'))}. With meaning and range, and those of strategies, spaces and "
    "networks: nni-plugins list settings"
)


def port(text: str) -> int:
    """Return the number of a port."""
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 1 to 65535, got {text!r}")
    return int(text)


def add_out_of_remote(parser: argparse.ArgumentParser) -> None:
    """Add the folder that results of an experiment on remote machines go to."""
    text = "folder for results of remote machines (default: %(default)s)"
    parser.add_argument("--out", type=Path, default=Path("exported"), help=text)


def add_data(parser: argparse.ArgumentParser, *, default: str) -> None:
    """Add what chooses the data set, the seed and single settings."""
    parser.add_argument("--data", help=f"{DATA_HELP} (default: {default})")
    add_data_root(parser)
    parser.add_argument("--download", action="store_true", help="fetch a torchvision data set that is missing")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, data split and data order")
    add_settings(parser, SET_HELP)


def add_data_root(parser: argparse.ArgumentParser) -> None:
    """Add where torchvision's data sets lie."""
    parser.add_argument(
        "--data-root",
        type=os.path.expanduser,
        default="data",
        help="folder of torchvision's sets (default: %(default)s)",
    )


def add_settings(parser: argparse.ArgumentParser, help_text: str) -> None:
    """Add ``--set NAME=VALUE``."""
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=help_text)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def add_out(parser: argparse.ArgumentParser) -> None:
    """Add the folder of the result."""
    parser.add_argument(
        "--out",
        type=os.path.expanduser,
        required=True,
        help="folder to make; checkpoints and logs go to OUT.run meanwhile",
    )
    parser.add_argument("--force", action="store_true", help=FORCE_HELP)
    parser.add_argument("--variants", action="store_true", help=VARIANTS_HELP)
