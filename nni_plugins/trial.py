"""One NNI trial: one search, its retraining, export and check. The only module of a trial that talks to NNI's manager.

    python -m nni_plugins.trial --data digits --set epochs=8

or, with ``--evaluate``, one cell that a tuner has sampled from the file of ``nni-plugins space NAME --json``:

    python -m nni_plugins.trial --evaluate --space darts --data digits --set retrain.epochs=2

or, with ``--retrain``, one known cell, trained with the seed that NNI's parameters say:

    python -m nni_plugins.trial --retrain bnas_v2_clr_v1 --data digits

A search's parameters come from NNI's search space: ``strategy``, ``space``, ``seed``, and any setting by the name that
``nni-plugins search --set`` takes; what is the same for all trials may stand on the command line.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nni
import torch

from nni_plugins.data import DATA_SETS, ImageSet, load_data
from nni_plugins.methods.divergence import Diverged
from nni_plugins.run.candidate import evaluate_candidate, look_up_candidate, sample_of
from nni_plugins.run.epoch_report import EpochRecord
from nni_plugins.run.genotypes import load_genotype
from nni_plugins.run.pipeline import RunResult, run, run_retraining
from nni_plugins.run.retrain import retraining_settings
from nni_plugins.run.scaling import advice_on_deciding, scaled_to
from nni_plugins.run.settings import Settings, by_section
from nni_plugins.run.trial_record import TrialRecord
from nni_plugins.run.values import parse_assignments
from nni_plugins.run.variants import QUICK_VARIANTS, VariantSettings, make_variants
from nni_plugins.run.variants import summary as variants_summary
from nni_plugins.tools.console import complain, quiet_libraries
from nni_plugins.tools.own_code import allow_own_code, is_own, own
from nni_plugins.tools.stopping import Stopped, say_stopped, stopping_on_signals
from search_spaces import Genotype
from search_spaces.arguments import refuse_unknown
from search_spaces.image_shapes import stem_of

_CHOSEN = ("strategy", "space", "data", "seed")
"""Parameters that choose what a trial runs; all others are settings."""

_FILES = ("table", "latency_table")
"""Settings that name files."""

_OF_AN_EVALUATION = (
    "weights_fraction",
    "architecture_fraction",
    "devices",
    *_FILES,
    "latency_weight",
    "latency_target",
)
"""Settings of a search that mean something to a trial that evaluates one cell: how data is split, tables, latency."""


def settings_of(parameters: Mapping[str, Any], arguments: argparse.Namespace, *, stem: str = "cifar") -> Settings:
    """Return the settings of the trial: NNI's parameters over the command line's.

    Parameters
    ----------
    parameters, arguments
        NNI's, and the command line.
    stem
        That of the data's images, where they are known.

    NNI's page takes parameters from whoever reaches it. They may choose among what is registered; code to import, and
    files to read as data, are named by the command line alone.

    Raises
    ------
    ValueError
        If a parameter is not a setting of the strategy, its value is not valid, or it names a file or code that the
        command line does not.
    """
    chosen = {name: parameters[name] for name in _CHOSEN if name in parameters}
    if chosen.get("data", arguments.data) not in (*DATA_SETS, arguments.data):
        raise ValueError(
            f"NNI's parameters name the data set {chosen['data']!r}; they may choose among {', '.join(DATA_SETS)}, and "
            "files or code are named on the trial's command line, --data."
        )
    if named := [name for name in _FILES if name in parameters]:
        raise ValueError(
            f"NNI's parameters name a {named[0].replace('_', ' ')}; files are named on the trial's command line, --set "
            f"{named[0]}=FILE."
        )
    overrides = parse_assignments(arguments.set) | {
        name: value for name, value in parameters.items() if name not in chosen
    }
    return Settings.of(**{name: getattr(arguments, name) for name in _CHOSEN} | chosen, overrides=overrides, stem=stem)


def retraining_settings_of(
    parameters: Mapping[str, Any], arguments: argparse.Namespace, genotype: Genotype, *, stem: str = "cifar"
) -> Settings:
    """Return the settings of a trial that retrains ``genotype``, the cell that the command line names.

    Parameters
    ----------
    parameters, arguments, stem
        As in :func:`settings_of`.
    genotype
        The cell.

    Raises
    ------
    ValueError
        If NNI's parameters say more than a seed and settings of the retraining, or a value is not valid.
    """
    overrides = parse_assignments(arguments.set) | {name: each for name, each in parameters.items() if name != "seed"}
    by_section(overrides, ("retrain", "space" if is_own(genotype.space) else "net"))
    return retraining_settings(
        genotype,
        result=arguments.retrain,
        data=arguments.data,
        seed=parameters.get("seed", arguments.seed),
        overrides=overrides,
        stem=stem,
    )


def evaluation_settings_of(arguments: argparse.Namespace, *, stem: str = "cifar") -> Settings:
    """Return the settings of a trial that evaluates one cell, which are the command line's alone.

    Parameters
    ----------
    arguments, stem
        As in :func:`settings_of`.

    Raises
    ------
    ValueError
        If a setting means nothing to such a trial, or its value is not valid.
    """
    given = by_section(parse_assignments(arguments.set))["search"]
    refuse_unknown(given, list(_OF_AN_EVALUATION), owner="A trial that evaluates one cell has")
    return settings_of({}, arguments, stem=stem)


def planned_epochs(parameters: Mapping[str, Any], arguments: argparse.Namespace) -> tuple[int, ...]:
    """Return the epochs of each stage of the trial, as far as its data need not be read to know them.

    Parameters
    ----------
    parameters, arguments
        As in :func:`settings_of`.

    Returns
    -------
    tuple of int
        Epochs of the search, where there is one, and of the retraining; none for a cell that is looked up in a table.

    Raises
    ------
    ValueError
        If a parameter or an argument is not valid.
    OSError
        If a file cannot be read that the command line names.
    """
    if arguments.evaluate:
        settings = evaluation_settings_of(arguments)
        return (settings.retrain.epochs,) if settings.search.table is None else ()
    if arguments.retrain is not None:
        genotype = load_genotype(arguments.retrain)
        return (retraining_settings_of(parameters, arguments, genotype).retrain.epochs,)
    settings = settings_of(parameters, arguments)
    return settings.search.epochs, settings.retrain.epochs


def scaled(
    settings: Settings, data: ImageSet, parameters: Mapping[str, Any], arguments: argparse.Namespace
) -> Settings:
    """Return the settings scaled to a user's own data, and say so; what parameters and command line set stays."""
    settings, sentence = scaled_to(data, settings, {*parse_assignments(arguments.set), *parameters})
    if sentence:
        print(sentence, flush=True)
    return settings


def report_epoch(record: EpochRecord) -> None:
    """Send one epoch's numbers to NNI."""
    nni.report_intermediate_result(record.on_page())


def build_parser(kind: type[argparse.ArgumentParser] = argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Return the command line of a trial, as a parser of ``kind``."""
    parser = kind(prog="python -m nni_plugins.trial", description=__doc__.split("\n\n")[0])
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--evaluate", action="store_true", help="train and validate the cell that NNI's parameters say"
    )
    instead.add_argument(
        "--retrain", metavar="GENOTYPE", help="retrain this cell; NNI's parameters are a seed and retrain.* settings"
    )
    parser.add_argument("--strategy", default="bnas_v2_pc", help="strategy, unless NNI's parameters name one")
    parser.add_argument("--space", default="bcnn", help="search space, unless NNI's parameters name one")
    parser.add_argument("--data", default="digits", help="data set, see nni-plugins search --help")
    parser.add_argument("--seed", type=int, default=0, help="seed, unless NNI's parameters name one")
    parser.add_argument("--data-root", default="data", help="folder of torchvision's data sets")
    parser.add_argument("--download", action="store_true", help="fetch a torchvision data set that is missing")
    parser.add_argument("--threads", type=int, help="threads on the CPU; one is fastest for very small networks")
    parser.add_argument("--variants", action="store_true", help="compare the result as INT8 and float16 as well")
    parser.add_argument("--exported", default="exported", help="folder that results go to")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of all trials")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the trial that NNI's manager started.

    Returns
    -------
    int
        0 if all is well, 2 for a user's mistake, 130 after Ctrl-C and 143 after SIGTERM.
    """
    arguments = build_parser().parse_args(argv)
    quiet_libraries()
    try:
        with stopping_on_signals():
            return _run(arguments, sys.argv[1:] if argv is None else argv)
    except Stopped as stopped:
        return say_stopped(
            stopped, f"nnictl resume, or this command with NNI_OUTPUT_DIR={work_folder()}, resumes the trial."
        )


def _run(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    try:
        if arguments.threads is not None:
            set_threads(arguments.threads)
        parameters = parameters_of_trial(arguments, words)
        allow_own_code(arguments)
        work = evaluate_cell if arguments.evaluate else search_cell if arguments.retrain is None else retrain_cell
        final = work(parameters, arguments)
    except (ValueError, OSError, MemoryError, Diverged) as error:
        return complain(error)
    nni.report_final_result(final)
    return 0


def parameters_of_trial(arguments: argparse.Namespace, words: Sequence[str]) -> dict[str, Any]:
    """Return what NNI asks of this trial and leave it in the work folder, or return what it has asked there before.

    So a trial whose folder has been brought to another machine is finished by its command alone.

    Parameters
    ----------
    arguments, words
        The command line, parsed and as it was given.
    """
    parameters = dict(nni.get_next_parameter() or {})
    if not _is_of_nni():
        record = TrialRecord.read(work_folder())
        return parameters if record is None else record.parameters
    command = ("python", "-m", "nni_plugins.trial", *words)
    TrialRecord(_name(), parameters, command, str(result_folder(arguments).absolute())).write(work_folder())
    return parameters


def set_threads(threads: int) -> None:
    """Let torch compute with ``threads`` threads on the CPU.

    Raises
    ------
    ValueError
        If there would be none.
    """
    if threads < 1:
        raise ValueError(f"--threads must be at least 1, got {threads}.")
    torch.set_num_threads(threads)


def search_cell(parameters: Mapping[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Search, retrain, export and check; return the final result."""
    settings = settings_of(parameters, arguments)  # mistakes come before the data is read
    data = load_data(settings.data, root=arguments.data_root, download=arguments.download)
    settings = scaled(settings_of(parameters, arguments, stem=stem_of(data.image_size)), data, parameters, arguments)
    if advice := advice_on_deciding(data, settings, {*parse_assignments(arguments.set), *parameters}):
        print(advice, flush=True)
    result = run(
        settings,
        data,
        out=result_folder(arguments),
        work=work_folder(),
        force=True,  # the folder carries this trial's id: only its own earlier attempt can be there
        on_epoch=report_epoch,
    )
    return final_result(result, data, arguments)


def retrain_cell(parameters: Mapping[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Train, export and check the cell that the command line names; return the final result.

    Raises
    ------
    ValueError
        If NNI's parameters say more than a seed and settings of the retraining.
    """
    genotype = load_genotype(arguments.retrain)
    if is_own(genotype.space):
        own(genotype.space, "search space", "--space")
    settings = retraining_settings_of(parameters, arguments, genotype)  # mistakes come before the data is read
    data = load_data(settings.data, root=arguments.data_root, download=arguments.download)
    settings = retraining_settings_of(parameters, arguments, genotype, stem=stem_of(data.image_size))
    settings = scaled(settings, data, parameters, arguments)
    result = run_retraining(
        genotype, settings, data, out=result_folder(arguments), work=work_folder(), force=True, on_epoch=report_epoch
    )
    return final_result(result, data, arguments)


def final_result(result: RunResult, data: ImageSet, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what NNI is told of a result, with its variants made and compared if the command line asks for it."""
    if not arguments.variants:
        return result.summary()
    return {
        **result.summary(),
        **variants_summary(make_variants(result.folder, data, VariantSettings(only=QUICK_VARIANTS))),
    }


def evaluate_cell(parameters: Mapping[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Train the cell of the parameters for a short time and validate it, or look it up; return the final result."""
    settings = evaluation_settings_of(arguments)
    data = load_data(settings.data, root=arguments.data_root, download=arguments.download)
    settings = scaled(evaluation_settings_of(arguments, stem=stem_of(data.image_size)), data, {}, arguments)
    sample = sample_of(parameters, settings, data)
    if settings.search.table is not None:
        return look_up_candidate(sample, settings, out=result_folder(arguments))
    return evaluate_candidate(
        sample, settings, data, out=result_folder(arguments), work=work_folder(), on_epoch=report_epoch
    )


def result_folder(arguments: argparse.Namespace) -> Path:
    """Return where this trial's results go."""
    record = None if _is_of_nni() else TrialRecord.read(work_folder())
    return Path(arguments.exported) / (_name() if record is None else record.name)


def _name() -> str:
    return f"{nni.get_experiment_id()}-{nni.get_trial_id()}"


def _is_of_nni() -> bool:
    return "NNI_PLATFORM" in os.environ


def work_folder() -> Path:
    """Return where this trial's checkpoints and logs go; NNI gives a resumed trial the same folder again."""
    return Path(os.environ.get("NNI_OUTPUT_DIR", "runs/trial"))


if __name__ == "__main__":
    sys.exit(main())
