"""The command ``nni-plugins``: search, retrain, export, check, draw, describe, space, score, doctor, leftovers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nni_plugins.tools.atomic_files import strict_json
from nni_plugins.tools.console import complain, quiet_libraries
from nni_plugins.tools.stopping import Stopped, say_stopped, stopping_on_signals

if TYPE_CHECKING:
    from nni_plugins.run.pipeline import RunResult

DATA_HELP = (
    "digits (embedded), cifar10, cifar100, svhn, mnist, fashion_mnist, imagefolder:PATH, npz:FILE, or module:function "
    "for your own"
)
GENOTYPE_HELP = "genotype.json, a result folder, the name of a published genotype, or a NAS-Bench-201 string"
SPACE_HELP = "module:function of your own space; that a file names it does not import it"
RESUME_ADVICE = "run the same command again to resume after the last finished epoch."
FORCE_HELP = "replace the result in the folder if there is one"
SET_HELP = (
    "one setting: of the strategy or the search (epochs=50, warmup_epochs=15, 'arch_lr=Confident(power=2)'), of the "
    "retraining (retrain.epochs=600), of the search space (space.channels=16) or of the evaluation network "
    "(net.channels=48); may be repeated"
)


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="nni-plugins",
        description="Find, train, export and check convolutional networks with NAS methods for NNI.",
        epilog="Start with: nni-plugins search --out exported/first",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    search = commands.add_parser(
        "search",
        help="search an architecture, retrain it, export it and check it",
        description="The work of one NNI trial without NNI's manager. If it is interrupted, run it again to resume.",
    )
    search.add_argument("--strategy", default="bnas_v2_pc", help="method, or module:Class (default: %(default)s)")
    search.add_argument("--space", default="bcnn", help="search space, or module:function (default: %(default)s)")
    _add_data(search, default="digits")
    _add_out(search)

    retrain = commands.add_parser(
        "retrain",
        help="train the network of a genotype, export it and check it",
        description="Train a published genotype or one from a file from scratch on the whole training set. Of a result "
        "folder, data set and network sizes are taken over unless given.",
    )
    retrain.add_argument("genotype", help=GENOTYPE_HELP)
    retrain.add_argument("--space", help=SPACE_HELP)
    retrain.add_argument("--epoch", type=int, help="of a search's result folder, take the cell of this epoch (from 1)")
    _add_data(retrain, default="that of a result folder, or else digits")
    _add_out(retrain)

    export = commands.add_parser(
        "export",
        help="write the ONNX model of trained weights again",
        description="From genotype.json and weights.safetensors of a result folder, make a new result folder.",
    )
    export.add_argument("folder", help="folder of an earlier result")
    export.add_argument("--out", required=True, help="folder to make")
    export.add_argument("--force", action="store_true", help=FORCE_HELP)
    export.add_argument("--data", help=f"{DATA_HELP} (default: what the folder's report names)")
    export.add_argument("--space", help=SPACE_HELP)
    export.add_argument("--data-root", default="data", help="folder of torchvision's data sets")

    commands.add_parser(
        "check",
        help="check an exported model; needs neither torch nor NNI",
        description="Run the deployment check of DIR from model.onnx and reference.npz alone.",
        add_help=False,
    )

    draw = commands.add_parser(
        "draw", help="draw the cells of a genotype as SVG", description="Draw the cells of a genotype as an SVG file."
    )
    draw.add_argument("genotype", help=GENOTYPE_HELP)
    draw.add_argument("--out", default="cells.svg", help="file to write (default: %(default)s)")
    draw.add_argument("--force", action="store_true", help="replace the file if it exists")

    describe = commands.add_parser(
        "describe",
        help="cells, parameters and multiply-adds of a genotype or a supernet",
        description="Describe a genotype's evaluation network, or with --strategy the supernet of a search.",
    )
    describe.add_argument("genotype", nargs="?", help=GENOTYPE_HELP)
    describe.add_argument("--space", default="bcnn", help="search space of the supernet (default: %(default)s)")
    describe.add_argument("--strategy", help="describe the supernet of this strategy")
    describe.add_argument("--dataset", default="cifar10", help="size of the evaluation network (default: %(default)s)")
    describe.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=SET_HELP)
    describe.add_argument("--json", action="store_true", help="print JSON for programs")

    space = commands.add_parser(
        "space",
        help="choices of a search space, as the searchSpace of an nnictl experiment",
        description="List the choices of a search space, for an evolution with one trial per cell "
        "(python -m nni_plugins.trial --evaluate).",
    )
    space.add_argument("space", help="search space, or module:function for your own")
    space.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="space.NAME=VALUE, an argument")
    space.add_argument("--json", action="store_true", help="print the search space file for nnictl")

    score = commands.add_parser(
        "score",
        help="look a NAS-Bench-201 cell up in a table",
        description="Test accuracies of a NAS-Bench-201 cell on three data sets, and its rank among all cells.",
    )
    score.add_argument("genotype", help=GENOTYPE_HELP)
    score.add_argument("--table", required=True, help=".npz file, or nni for NNI's own benchmark database")
    score.add_argument("--json", action="store_true", help="print JSON for programs")

    doctor = commands.add_parser(
        "doctor",
        help="check what usually breaks in the installation",
        description="Check the installation; exit status 0 only when all is well.",
    )
    doctor.add_argument("--port", type=int, default=8080, help="port of NNI's web UI (default: %(default)s)")

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
    parser.add_argument("--data-root", default="data", help="folder of torchvision's sets (default: %(default)s)")
    parser.add_argument("--download", action="store_true", help="fetch a torchvision data set that is missing")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, data split and data order")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=SET_HELP)


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, help="folder to make; checkpoints and logs go to OUT.run meanwhile")
    parser.add_argument("--force", action="store_true", help=FORCE_HELP)


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
    from nni_plugins.methods.divergence import Diverged
    from nni_plugins.tools.own_code import allow_own_code

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
        }[arguments.command](arguments)
    except (ValueError, OSError, Diverged) as error:
        return complain(error)


def _search(arguments: argparse.Namespace) -> int:
    from nni_plugins.data import load_data
    from nni_plugins.deploy.result_folder import refuse_existing_result
    from nni_plugins.run.pipeline import run
    from nni_plugins.run.settings import Settings
    from nni_plugins.run.values import parse_assignments

    out = refuse_existing_result(arguments.out, force=arguments.force)
    settings = Settings.of(
        strategy=arguments.strategy,
        space=arguments.space,
        data=arguments.data or "digits",
        seed=arguments.seed,
        overrides=parse_assignments(arguments.set),
    )
    data = load_data(settings.data, root=arguments.data_root, download=arguments.download)
    return _finish(run(settings, data, out=out, work=Path(f"{out}.run"), force=arguments.force))


def _retrain(arguments: argparse.Namespace) -> int:
    from nni_plugins.data import load_data
    from nni_plugins.deploy.result_folder import refuse_existing_result
    from nni_plugins.run.genotypes import load_genotype
    from nni_plugins.run.pipeline import run_retraining
    from nni_plugins.run.retrain import retraining_settings
    from nni_plugins.run.values import parse_assignments

    out = refuse_existing_result(arguments.out, force=arguments.force)
    genotype = load_genotype(arguments.genotype, arguments.epoch)
    settings = retraining_settings(
        genotype,
        result=arguments.genotype,
        data=arguments.data,
        seed=arguments.seed,
        overrides=parse_assignments(arguments.set),
    )
    data = load_data(settings.data, root=arguments.data_root, download=arguments.download)
    return _finish(run_retraining(genotype, settings, data, out=out, work=Path(f"{out}.run"), force=arguments.force))


def _export(arguments: argparse.Namespace) -> int:
    from nni_plugins.deploy.result_folder import refuse_existing_result
    from nni_plugins.run.pipeline import export_again

    out = refuse_existing_result(arguments.out, force=arguments.force)
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
    from nni_plugins.run.genotypes import load_genotype
    from nni_plugins.tools.atomic_files import refuse_existing

    genotype = load_genotype(arguments.genotype)
    path = refuse_existing(arguments.out, force=arguments.force)
    draw_cells(genotype, path)
    print(f"drawn to {path}")
    return 0


def _space(arguments: argparse.Namespace) -> int:
    from nni_plugins.run.description import describe_choices, print_choices
    from nni_plugins.run.settings import Settings
    from nni_plugins.run.values import parse_assignments

    assignments = parse_assignments(arguments.set)
    choices = describe_choices(
        Settings.of(strategy="relative_nas", space=arguments.space, data="", overrides=assignments)
    )
    if arguments.json:
        print(strict_json(choices))
    else:
        print_choices(choices)
    return 0


def _score(arguments: argparse.Namespace) -> int:
    from nni_plugins.report.nasbench201_table import Table, score
    from nni_plugins.run.description import print_description
    from nni_plugins.run.genotypes import load_genotype

    table = Table.from_nni() if arguments.table == "nni" else Table.load(arguments.table)
    found = score(load_genotype(arguments.genotype), table).to_dict()
    if arguments.json:
        print(strict_json(found))
    else:
        print_description(found)
    return 0


def _describe(arguments: argparse.Namespace) -> int:
    from nni_plugins.run.description import describe_genotype, describe_supernet, print_description
    from nni_plugins.run.genotypes import load_genotype
    from nni_plugins.run.settings import Settings
    from nni_plugins.run.values import parse_assignments, parse_value

    assignments = parse_assignments(arguments.set)
    if arguments.strategy is not None:
        settings = Settings.of(strategy=arguments.strategy, space=arguments.space, data="", overrides=assignments)
        description = describe_supernet(settings)
    elif arguments.genotype is None:
        raise ValueError("Give a genotype (a file or a published name), or --strategy for a supernet.")
    else:
        sizes = {name.removeprefix("net."): parse_value(value) for name, value in assignments.items()}
        description = describe_genotype(load_genotype(arguments.genotype), arguments.dataset, sizes)
    if arguments.json:
        print(strict_json(description))
    else:
        print_description(description)
    return 0


if __name__ == "__main__":
    sys.exit(main())
