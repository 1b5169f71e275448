"""The command ``nni-plugins``: search, retrain, export, check, draw, describe, space, score, list, doctor, leftovers.

Only what a command needs is imported: help, mistakes in names, ``draw``, ``check``, ``score`` and ``list`` (but for the
settings) load neither torch nor NNI.
"""

from __future__ import annotations

import argparse
import os.path
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from nni_plugins.data.names import DATA_NAMES, OWN_DATA, refuse_unknown_data
from nni_plugins.deploy.result_folder import refuse_existing_result
from nni_plugins.methods.registry import built_in_specs
from nni_plugins.run.genotypes import load_genotype
from nni_plugins.run.lists import LISTS
from nni_plugins.run.recipes import RetrainRecipe, SearchRecipe
from nni_plugins.run.settings import Settings, by_section
from nni_plugins.run.values import parse_assignments
from nni_plugins.tools.atomic_files import refuse_existing, strict_json
from nni_plugins.tools.console import complain, quiet_libraries
from nni_plugins.tools.diverged import Diverged
from nni_plugins.tools.own_code import allow_own_code, is_own, own
from nni_plugins.tools.stopping import Stopped, say_stopped, stopping_on_signals
from search_spaces.image_shapes import IMAGE_SHAPES, image_shape
from search_spaces.published import published_names
from search_spaces.registry import built_in_spaces

if TYPE_CHECKING:
    from nni_plugins.data import ImageSet
    from nni_plugins.run.pipeline import RunResult

DATA_HELP = f"{', '.join((*DATA_NAMES, *OWN_DATA))}"
GENOTYPE_HELP = (
    "genotype.json, a result folder, a NAS-Bench-201 string, or the name of a published genotype: "
    f"{', '.join(published_names())}"
)
STRATEGY_HELP = f"{', '.join(built_in_specs())}, that of an installed package, or module:Class for your own"
SPACES = ", ".join(built_in_spaces())
SPACE_HELP = f"{SPACES}, that of an installed package, or module:function for your own"
OWN_SPACE_HELP = "module:function of your own space; that a file names it does not import it"
RESUME_ADVICE = "run the same command again to resume after the last finished epoch."
FORCE_HELP = "replace the result in the folder if there is one"
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


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one sentence, as all of ours."""

    def error(self, message: str) -> NoReturn:
        """Print the mistake and where help is, and exit with status 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = Parser(
        prog="nni-plugins",
        description="Find, train, export and check convolutional networks with NAS methods for NNI.",
        epilog="Start with: nni-plugins search --out exported/first",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    search = commands.add_parser(
        "search",
        help="search an architecture, retrain it, export it and check it",
        epilog=SETTINGS_HELP,
        description="The work of one NNI trial without NNI's manager. If it is interrupted, run it again to resume.",
    )
    search.add_argument("--strategy", default="bnas_v2_pc", help=f"{STRATEGY_HELP} (default: %(default)s)")
    search.add_argument("--space", default="bcnn", help=f"{SPACE_HELP} (default: %(default)s)")
    _add_data(search, default="digits")
    _add_out(search)

    retrain = commands.add_parser(
        "retrain",
        help="train the network of a genotype, export it and check it",
        epilog=SETTINGS_HELP,
        description="Train a published genotype or one from a file from scratch on the whole training set. Of a result "
        "folder, data set and network sizes are taken over unless given.",
    )
    retrain.add_argument("genotype", type=os.path.expanduser, help=GENOTYPE_HELP)
    retrain.add_argument("--space", help=OWN_SPACE_HELP)
    retrain.add_argument("--epoch", type=int, help="of a search's result folder, take the cell of this epoch (from 1)")
    _add_data(retrain, default="that of a result folder, or else digits")
    _add_out(retrain)

    export = commands.add_parser(
        "export",
        help="write the ONNX model of trained weights again",
        description="From genotype.json and weights.safetensors of a result folder, make a new result folder.",
    )
    export.add_argument("folder", type=os.path.expanduser, help="folder of an earlier result")
    export.add_argument("--out", type=os.path.expanduser, required=True, help="folder to make")
    export.add_argument("--force", action="store_true", help=FORCE_HELP)
    export.add_argument("--data", help=f"{DATA_HELP} (default: what the folder's report names)")
    export.add_argument("--space", help=OWN_SPACE_HELP)
    export.add_argument(
        "--data-root", type=os.path.expanduser, default="data", help="folder of torchvision's data sets"
    )

    commands.add_parser(
        "check",
        help="check an exported model; needs neither torch nor NNI",
        description="Run the deployment check of DIR from model.onnx and reference.npz alone.",
        add_help=False,
    )

    draw = commands.add_parser(
        "draw", help="draw the cells of a genotype as SVG", description="Draw the cells of a genotype as an SVG file."
    )
    draw.add_argument("genotype", type=os.path.expanduser, help=GENOTYPE_HELP)
    draw.add_argument(
        "--out", type=os.path.expanduser, default="cells.svg", help="file to write (default: %(default)s)"
    )
    draw.add_argument("--force", action="store_true", help="replace the file if it exists")

    describe = commands.add_parser(
        "describe",
        help="cells, parameters and multiply-adds of a genotype or a supernet",
        description="Describe a genotype's evaluation network, or with --strategy the supernet of a search.",
    )
    describe.add_argument("genotype", nargs="?", type=os.path.expanduser, help=GENOTYPE_HELP)
    describe.add_argument("--strategy", help=f"describe the supernet of this strategy: {STRATEGY_HELP}")
    describe.add_argument("--space", help=f"search space of the supernet: {SPACE_HELP} (default: bcnn)")
    describe.add_argument(
        "--dataset",
        default="cifar10",
        help=f"what gives classes and image size: {', '.join(IMAGE_SHAPES)} (default: %(default)s)",
    )
    describe.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=SET_HELP)
    describe.add_argument("--json", action="store_true", help="print JSON for programs")

    space = commands.add_parser(
        "space",
        help="choices of a search space, as the searchSpace of an nnictl experiment",
        description="List the choices of a search space, for an evolution with one trial per cell "
        "(python -m nni_plugins.trial --evaluate).",
    )
    space.add_argument("space", help=SPACE_HELP)
    space.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="space.NAME=VALUE, an argument")
    space.add_argument("--json", action="store_true", help="print the search space file for nnictl")

    score = commands.add_parser(
        "score",
        help="look a NAS-Bench-201 cell up in a table",
        description="Test accuracies of a NAS-Bench-201 cell on three data sets, and its rank among all cells.",
    )
    score.add_argument("genotype", type=os.path.expanduser, help=GENOTYPE_HELP)
    score.add_argument("--table", required=True, help=".npz file, or nni for NNI's own benchmark database")
    score.add_argument("--json", action="store_true", help="print JSON for programs")

    lists = commands.add_parser(
        "list",
        help="strategies, spaces, published genotypes, data sets and settings, each with what it is",
        description="List what there is to choose from.",
    )
    lists.add_argument("what", nargs="?", choices=tuple(LISTS), help="one of the lists (default: all but settings)")

    doctor = commands.add_parser(
        "doctor",
        help="check what usually breaks in the installation",
        description="Check the installation; exit status 0 only when all is well.",
    )
    doctor.add_argument("--port", type=_port, default=8080, help="port of NNI's web UI (default: %(default)s)")

    leftovers = commands.add_parser(
        "leftovers",
        help="end what a killed NNI manager has left running",
        description="List tuners and trials whose NNI manager was killed, and end them after asking.",
    )
    leftovers.add_argument("experiment", nargs="?", help="NNI's name of the experiment (default: all)")
    leftovers.add_argument("--yes", action="store_true", help="end them without asking")
    return parser


def _add_data(parser: argparse.ArgumentParser, *, default: str) -> None:
    parser.add_argument("--data", help=f"{DATA_HELP} (default: {default})")
    parser.add_argument(
        "--data-root",
        type=os.path.expanduser,
        default="data",
        help="folder of torchvision's sets (default: %(default)s)",
    )
    parser.add_argument("--download", action="store_true", help="fetch a torchvision data set that is missing")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, data split and data order")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=SET_HELP)


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=os.path.expanduser,
        required=True,
        help="folder to make; checkpoints and logs go to OUT.run meanwhile",
    )
    parser.add_argument("--force", action="store_true", help=FORCE_HELP)


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 1 to 65535, got {text!r}")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns
    -------
    int
        0 if all is well, 1 if a check failed, 2 for a mistake in the command, 130 after Ctrl-C and 143 after SIGTERM.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        with stopping_on_signals():
            return _run(words)
    except Stopped as stopped:
        resumable = words[:1] in (["search"], ["retrain"])
        return say_stopped(stopped, RESUME_ADVICE if resumable else "")


def _run(words: Sequence[str]) -> int:
    if words[:1] == ["check"]:  # a process of its own that imports neither torch nor NNI
        from nni_plugins.deploy import check

        return check.main(words[1:])
    arguments = build_parser().parse_args(words)
    if arguments.command == "doctor":
        from nni_plugins.experiment import doctor

        return doctor.main(arguments.port)
    if arguments.command == "leftovers":
        from nni_plugins.experiment import leftovers

        return leftovers.main(arguments.experiment, yes=arguments.yes)
    quiet_libraries()
    try:
        allow_own_code(arguments)
        return {
            "search": _search,
            "retrain": _retrain,
            "export": _export,
            "draw": _draw,
            "describe": _describe,
            "space": _space,
            "score": _score,
            "list": _list,
        }[arguments.command](arguments)
    except (ValueError, OSError, Diverged) as error:
        return complain(error)


def _search(arguments: argparse.Namespace) -> int:
    out = refuse_existing_result(arguments.out, force=arguments.force)
    if arguments.data is not None:
        refuse_unknown_data(arguments.data)
    settings = Settings.of(
        strategy=arguments.strategy,
        space=arguments.space,
        data=arguments.data or "digits",
        seed=arguments.seed,
        overrides=parse_assignments(arguments.set),
    )
    from nni_plugins.data import load_data
    from nni_plugins.run.pipeline import run

    data = load_data(settings.data, root=arguments.data_root, download=arguments.download)
    settings = _scaled(settings, data, arguments)
    return _finish(run(settings, data, out=out, work=Path(f"{out}.run"), force=arguments.force))


def _retrain(arguments: argparse.Namespace) -> int:
    out = refuse_existing_result(arguments.out, force=arguments.force)
    if arguments.data is not None:
        refuse_unknown_data(arguments.data)
    genotype = load_genotype(arguments.genotype, arguments.epoch)
    if is_own(genotype.space):
        own(genotype.space, "search space", "--space")
    overrides = parse_assignments(arguments.set)
    by_section(overrides, ("retrain", "space" if is_own(genotype.space) else "net"))
    from nni_plugins.data import load_data
    from nni_plugins.run.pipeline import run_retraining
    from nni_plugins.run.retrain import retraining_settings

    settings = retraining_settings(
        genotype, result=arguments.genotype, data=arguments.data, seed=arguments.seed, overrides=overrides
    )
    data = load_data(settings.data, root=arguments.data_root, download=arguments.download)
    settings = _scaled(settings, data, arguments)
    return _finish(run_retraining(genotype, settings, data, out=out, work=Path(f"{out}.run"), force=arguments.force))


def _scaled(settings: Settings, data: ImageSet, arguments: argparse.Namespace) -> Settings:
    from nni_plugins.run.scaling import scaled_to

    settings, sentence = scaled_to(data, settings, parse_assignments(arguments.set))
    if sentence:
        print(sentence)
    return settings


def _export(arguments: argparse.Namespace) -> int:
    out = refuse_existing_result(arguments.out, force=arguments.force)
    if arguments.data is not None:
        refuse_unknown_data(arguments.data)
    from nni_plugins.run.pipeline import export_again

    return _finish(
        export_again(
            Path(arguments.folder), out=out, data=arguments.data, data_root=arguments.data_root, force=arguments.force
        )
    )


def _finish(result: RunResult) -> int:
    from nni_plugins.deploy import check

    print(f"test accuracy {result.report['test_accuracy']:.2f} %, {result.report['parameters']:,} parameters")
    print(f"the result lies in {result.folder}; nni-plugins check {result.folder} repeats the check below")
    return check.main([str(result.folder)])


def _draw(arguments: argparse.Namespace) -> int:
    from nni_plugins.report.cell_picture import draw_cells

    genotype = load_genotype(arguments.genotype)
    path = refuse_existing(arguments.out, force=arguments.force)
    draw_cells(genotype, path)
    print(f"drawn to {path}")
    return 0


def _space(arguments: argparse.Namespace) -> int:
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


def _score(arguments: argparse.Namespace) -> int:
    from nni_plugins.report.nasbench201_table import Table, score
    from nni_plugins.report.tables import print_description

    table = Table.from_nni() if arguments.table == "nni" else Table.load(arguments.table)
    found = score(load_genotype(arguments.genotype), table).to_dict()
    if arguments.json:
        print(strict_json(found))
    else:
        print_description(found)
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from nni_plugins.report.tables import print_table

    for name in [arguments.what] if arguments.what else [name for name in LISTS if name != "settings"]:
        for listing in LISTS[name]():
            print_table(*listing)
    return 0


def _describe(arguments: argparse.Namespace) -> int:
    from nni_plugins.report.tables import print_description

    assignments = parse_assignments(arguments.set)
    image_shape(arguments.dataset)
    if arguments.genotype is not None:
        if arguments.strategy is not None or (arguments.space is not None and not is_own(arguments.space)):
            raise ValueError("Give a genotype for its network, or --strategy and --space for a supernet, not both.")
        genotype, sizes = load_genotype(arguments.genotype), by_section(assignments, ("net",))["net"]
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


if __name__ == "__main__":
    sys.exit(main())
