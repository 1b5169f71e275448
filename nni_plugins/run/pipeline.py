"""One run from end to end: search -> genotype -> retraining -> export -> deployment check."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nni_plugins.data import ImageSet, StreamedImages, load_data
from nni_plugins.data.image_set import class_names_of, named_classes
from nni_plugins.deploy.export import (
    OPSET,
    export_result,
    load_weights,
    measure_accuracy,
    refuse_opset,
    refuse_too_small,
)
from nni_plugins.deploy.result_folder import GENOTYPE_FILE, REPORT_FILE, WEIGHTS_FILE, refuse_existing_result
from nni_plugins.methods.metric import ALPHA_GAP, CHANGED_SINCE_FIRST, DECIDED, EPOCHS_UNCHANGED
from nni_plugins.report.complexity import count_multiply_adds, count_parameters
from nni_plugins.run.epoch_report import EpochRecord
from nni_plugins.run.genotypes import read_report
from nni_plugins.run.initial_weights import InitialWeights
from nni_plugins.run.latency import latency_report, load_table
from nni_plugins.run.networks import build_net
from nni_plugins.run.rehearsal import rehearse, rehearse_retraining
from nni_plugins.run.report_page import pages
from nni_plugins.run.retrain import retrain
from nni_plugins.run.search import SearchResult, search
from nni_plugins.run.settings import Settings
from nni_plugins.run.work_folder import Stage, claim, leave
from nni_plugins.tools.atomic_files import atomic_write
from nni_plugins.tools.folder_lock import reserved
from search_spaces import Genotype

_logger = logging.getLogger(__name__)

ROUNDING = 0.1
"""Points of test accuracy by which another device or precision may change a network's answer."""

_DECISION = (DECIDED.name, ALPHA_GAP.name, CHANGED_SINCE_FIRST.name, EPOCHS_UNCHANGED.name)
"""What the final result of a trial says of how far its search has decided, where the method measures it."""


@dataclass(frozen=True)
class RunResult:
    """What a run leaves.

    Parameters
    ----------
    folder
        Where the files lie.
    genotype
        The found architecture.
    report
        The content of ``report.json``.
    """

    folder: Path
    genotype: Genotype
    report: dict[str, Any]

    def summary(self) -> dict[str, Any]:
        """Return the figures of the run as flat numbers and texts: what a trial reports as its final result."""
        deployment = self.report["deployment"]
        latency = deployment["latency"]
        settings, search = self.report["settings"], self.report["search"]
        return {
            "default": self.report["test_accuracy"],
            **{name: settings[name] for name in ("strategy", "space", "data", "seed")},
            "test_accuracy": self.report["test_accuracy"],
            **({"search_accuracy": search["validation_accuracy"]} if search else {}),
            **{name: search[name] for name in _DECISION if name in search},
            "parameters": self.report["parameters"],
            "multiply_adds": self.report["multiply_adds"],
            "onnx_latency_ms": latency["p50_ms"] if latency else -1.0,
            **{
                name: self.report["latency"][name]
                for name in ("predicted_ms", "measured_ms")
                if "latency" in self.report
            },
            "deployment_passed": int(deployment["passed"]),
            "genotype": self.genotype.to_json(),
            "folder": str(self.folder),
        }


def run(
    settings: Settings,
    data: ImageSet,
    *,
    out: Path,
    work: Path,
    force: bool = False,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> RunResult:
    """Search, retrain, export and check.

    Parameters
    ----------
    settings, data
        What to do, on what.
    out
        Folder of the results.
    work
        Folder of checkpoints and logs; a run interrupted there resumes. A finished search is used again where only
        settings of the retraining have changed. Its genotype lies there as soon as it ends; checkpoints are removed
        when the result is complete.
    force
        Replace ``out`` if it exists.
    on_epoch
        Called with the metrics of every epoch of the search.

    Raises
    ------
    FileExistsError
        If ``out`` exists and ``force`` is not set; nothing is done then.
    ValueError
        If a setting does not fit the data or the space, or ``work`` holds a run with other settings or other data.
    BlockingIOError
        If another process works in ``work`` or for ``out``.
    """
    refuse_existing_result(out, force=force)
    rehearse(settings, data)
    data_sha256 = data.fingerprint()
    with claim(work, out=out):
        threads = Stage.of_search(settings, data_sha256).enter(work)
        found = search(settings, data, work, on_epoch)
        atomic_write(work / GENOTYPE_FILE, found.genotype.to_json())
        threads += Stage.of_retraining(settings, found.genotype, data_sha256).enter(work, first=False)
        return _retrain_and_export(found, settings, data, data_sha256, threads, out, work, force)


def run_retraining(
    genotype: Genotype,
    settings: Settings,
    data: ImageSet,
    *,
    out: Path,
    work: Path,
    force: bool = False,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    initial: InitialWeights | None = None,
) -> RunResult:
    """Retrain, export and check a genotype that is known already; parameters and errors as :func:`run`.

    Parameters
    ----------
    on_epoch
        Called with the metrics of every epoch of the retraining.
    initial
        Weights of an earlier result to begin with; a line says which of them are taken.
    """
    refuse_existing_result(out, force=force)
    rehearse_retraining(genotype, settings, data, initial=initial)
    if initial is not None:
        print(initial.sentence(data), flush=True)
    data_sha256 = data.fingerprint()
    initial_sha256 = None if initial is None else initial.sha256
    with claim(work, out=out):
        threads = Stage.of_retraining(settings, genotype, data_sha256, initial_sha256).enter(work)
        found = SearchResult(genotype, genotype.to_sample(), [])
        return _retrain_and_export(found, settings, data, data_sha256, threads, out, work, force, on_epoch, initial)


def _retrain_and_export(
    found: SearchResult,
    settings: Settings,
    data: ImageSet,
    data_sha256: str,
    threads: Sequence[int],
    out: Path,
    work: Path,
    force: bool,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    initial: InitialWeights | None = None,
) -> RunResult:
    retrained = retrain(found.genotype, settings, data, work, on_epoch, sample=found.sample, initial=initial)
    last = found.history[-1] if found.history else {}
    report = {
        "settings": settings.to_dict(),
        "seed": settings.seed,
        "threads": [number for number, _ in itertools.groupby(threads)],
        "data": {
            "name": settings.data,
            "sha256": data_sha256,
            "classes": data.num_classes,
            "class_names": list(class_names_of(data)),
            "in_channels": data.in_channels,
            "image_size": data.image_size,
            "mean": list(data.mean),
            "std": list(data.std),
            "training_images": len(data.y_train),
            "test_images": len(data.y_test),
            "weights_fraction": settings.search.weights_fraction,
            "architecture_fraction": settings.search.architecture_fraction,
        },
        "initial_weights": None if initial is None else initial.record(data),
        "search": {name: value for name, value in last.items() if name != "genotype"},
        "search_history": found.history,
        "retrain_history": retrained.history,
        "test_accuracy": retrained.test_accuracy,
        "best_of_tests": retrained.best_of_tests(),
        "parameters": count_parameters(retrained.net),
        "parameters_with_auxiliary_head": count_parameters(retrained.net, auxiliary=True),
        "multiply_adds": count_multiply_adds(retrained.net, data.in_channels, data.image_size),
    }
    if (table := load_table(settings, data)) is not None:
        report["latency"] = latency_report(found.genotype, retrained.net, table, data)
    report = export_result(
        out, genotype=found.genotype, net=retrained.net, data=data, report=report, pages=pages, force=force
    )
    leave(work)
    return RunResult(out, found.genotype, report)


def export_again(
    folder: Path,
    *,
    out: Path,
    data: str | None = None,
    data_root: str | Path = "data",
    force: bool = False,
    opset: int = OPSET,
    image_size: int | None = None,
    class_names: Sequence[str] = (),
) -> RunResult:
    """Make a result folder anew from the genotype, the weights and the settings of an earlier one.

    Nothing that the folder names is imported: a user's own space, or data set, has to be allowed by the command line.

    Parameters
    ----------
    folder
        The earlier result.
    out
        Folder of the new one.
    data
        Data set to test on, as :func:`nni_plugins.data.load_data` takes it; by default the one that the report names.
    data_root
        Where torchvision's sets lie.
    force
        Replace ``out`` if it exists.
    opset, image_size, class_names
        As in :func:`nni_plugins.deploy.export.export_result`.

    Returns
    -------
    RunResult
        Its test accuracy is measured anew; a warning says where it is not the one of the earlier report.

    Raises
    ------
    FileNotFoundError
        If ``folder`` lacks one of the files.
    FileExistsError
        If ``out`` exists and ``force`` is not set.
    ValueError
        If a file of the folder is damaged, or does not fit the others; if the weights are not those that were exported;
        if the operator set, the size or the names are not possible.
    BlockingIOError
        If another process works for ``out``.
    """
    refuse_existing_result(out, force=force)
    refuse_opset(opset)
    for name in (GENOTYPE_FILE, WEIGHTS_FILE, REPORT_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}; give a folder that search or retrain has made.")
    genotype = Genotype.load(folder / GENOTYPE_FILE)
    report = read_report(folder)
    weights = load_weights(folder, report)
    settings = Settings.from_dict(report["settings"])
    if genotype.space != settings.space:
        raise ValueError(
            f"{folder / GENOTYPE_FILE} is a cell of the {genotype.space} space, but {REPORT_FILE} there is of the "
            f"{settings.space} space; restore the folder from a copy."
        )
    image_set = load_data(data or settings.data, root=data_root)
    net = build_net(genotype, settings, image_set)
    try:
        net.load_state_dict(weights)
    except RuntimeError:
        raise ValueError(
            f"The weights in {folder} are not those of the network that its {GENOTYPE_FILE}, the settings in its "
            f"{REPORT_FILE} and the data {image_set.name} make; restore the folder from a copy, or pass the --data "
            "that it was trained on."
        ) from None
    if image_size is not None:
        refuse_too_small(net, image_set, image_size)
    names = named_classes(
        "The class names", class_names or _recorded_names(report) or class_names_of(image_set), image_set.num_classes
    )
    if image_size is not None and isinstance(image_set, StreamedImages):
        image_set = replace(image_set, image_size=image_size)  # from the pictures themselves
    accuracy = measure_accuracy(net, image_set, image_size)
    _say_if_changed(report, accuracy, image_set)
    kept = {name: value for name, value in report.items() if name not in ("deployment", "versions")}
    kept |= {"test_accuracy": accuracy, "data": {**_recorded_data(report), "class_names": list(names)}}
    if image_size is not None:
        kept["multiply_adds"] = count_multiply_adds(net, image_set.in_channels, image_size)
    with reserved(out):
        exported = export_result(
            out,
            genotype=genotype,
            net=net,
            data=image_set,
            report=kept,
            pages=pages,
            force=force,
            opset=opset,
            image_size=image_size,
            class_names=names,
        )
    return RunResult(out, genotype, exported)


def _recorded_data(report: dict[str, Any]) -> dict[str, Any]:
    return report["data"] if isinstance(report.get("data"), dict) else {}


def _recorded_names(report: dict[str, Any]) -> tuple[str, ...]:
    """Return the class names of an earlier export; none for a report from before there were any."""
    names = _recorded_data(report).get("class_names")
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _say_if_changed(report: dict[str, Any], accuracy: float, data: ImageSet) -> None:
    before = report.get("test_accuracy")
    if isinstance(before, (int, float)) and abs(accuracy - before) <= ROUNDING:
        return
    reason = (
        ""
        if _recorded_data(report).get("sha256") == data.fingerprint()
        else f", whose test images are not those of the report: {data.name}"
    )
    _logger.warning("The test accuracy is %.2f %% now, and %s in the report%s.", accuracy, _percent(before), reason)


def _percent(value: Any) -> str:
    return f"{value:.2f} %" if isinstance(value, (int, float)) else "not a number"
