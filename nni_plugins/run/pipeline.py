"""One run from end to end: search -> genotype -> retraining -> export -> deployment check."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nni_plugins.data import ImageSet, load_data
from nni_plugins.deploy.export import export_result, load_weights
from nni_plugins.report.complexity import count_multiply_adds, count_parameters
from nni_plugins.report.history_picture import draw_history
from nni_plugins.run.epoch_report import EpochRecord
from nni_plugins.run.genotypes import read_report
from nni_plugins.run.networks import build_net
from nni_plugins.run.retrain import retrain
from nni_plugins.run.search import SearchResult, search
from nni_plugins.run.settings import Settings
from nni_plugins.run.work_folder import Claim, claim, reserved
from nni_plugins.tools.atomic_files import refuse_existing
from search_spaces import Genotype


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
        """The figures of the run as flat numbers and texts: what a trial reports as its final result."""
        deployment = self.report["deployment"]
        latency = deployment["latency"]
        settings = self.report["settings"]
        return {
            "default": self.report["test_accuracy"],
            **{name: settings[name] for name in ("strategy", "space", "data", "seed")},
            "test_accuracy": self.report["test_accuracy"],
            "search_accuracy": self.report["search"]["validation_accuracy"],
            "parameters": self.report["parameters"],
            "multiply_adds": self.report["multiply_adds"],
            "onnx_latency_ms": latency["p50_ms"] if latency else -1.0,
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
        Folder of checkpoints and logs; a run interrupted there resumes. Checkpoints are removed at the end.
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
    refuse_existing(out, force=force)
    with claim(work, settings, data, out=out) as claimed:
        return _retrain_and_export(search(settings, data, work, on_epoch), settings, data, out, work, force, claimed)


def run_retraining(
    genotype: Genotype, settings: Settings, data: ImageSet, *, out: Path, work: Path, force: bool = False
) -> RunResult:
    """Retrain, export and check a genotype that is known already; parameters and errors as :func:`run`."""
    refuse_existing(out, force=force)
    with claim(work, settings, data, genotype=genotype, out=out) as claimed:
        found = SearchResult(genotype, genotype.to_sample(), [])
        return _retrain_and_export(found, settings, data, out, work, force, claimed)


def _retrain_and_export(
    found: SearchResult, settings: Settings, data: ImageSet, out: Path, work: Path, force: bool, claimed: Claim
) -> RunResult:
    retrained = retrain(found.genotype, settings, data, work, sample=found.sample)
    last = found.history[-1] if found.history else {}
    report = {
        "settings": settings.to_dict(),
        "seed": settings.seed,
        "threads": list(claimed.threads),
        "data": {
            "name": settings.data,
            "sha256": claimed.data_sha256,
            "classes": data.num_classes,
            "in_channels": data.in_channels,
            "image_size": data.image_size,
            "mean": list(data.mean),
            "std": list(data.std),
            "training_images": len(data.y_train),
            "test_images": len(data.y_test),
            "weights_fraction": settings.search.weights_fraction,
            "architecture_fraction": settings.search.architecture_fraction,
        },
        "search": {name: value for name, value in last.items() if name != "genotype"},
        "search_history": found.history,
        "retrain_history": retrained.history,
        "test_accuracy": retrained.test_accuracy,
        "parameters": count_parameters(retrained.net),
        "multiply_adds": count_multiply_adds(retrained.net, data.in_channels, data.image_size),
    }
    genotypes = [Genotype.from_json(metrics["genotype"]) for metrics in found.history]
    files = {"history.svg": draw_history(genotypes)} if genotypes and genotypes[0].cells else {}
    report = export_result(
        out, genotype=found.genotype, net=retrained.net, data=data, report=report, files=files, force=force
    )
    for stage in ("search", "retrain"):
        shutil.rmtree(work / stage, ignore_errors=True)
    return RunResult(out, found.genotype, report)


def export_again(
    folder: Path, *, out: Path, data: str | None = None, data_root: str | Path = "data", force: bool = False
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

    Raises
    ------
    FileNotFoundError
        If ``folder`` lacks one of the files.
    FileExistsError
        If ``out`` exists and ``force`` is not set.
    ValueError
        If a file of the folder is damaged, or does not fit the others; if the weights are not those that were exported.
    BlockingIOError
        If another process works for ``out``.
    """
    refuse_existing(out, force=force)
    for name in ("genotype.json", "weights.safetensors", "report.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}; give a folder that search or retrain has made.")
    genotype = Genotype.load(folder / "genotype.json")
    report = read_report(folder)
    settings = Settings.from_dict(report["settings"])
    image_set = load_data(data or settings.data, root=data_root)
    net = build_net(genotype, settings, image_set)
    net.load_state_dict(load_weights(folder, report))
    kept = {name: value for name, value in report.items() if name not in ("deployment", "versions")}
    with reserved(out):
        exported = export_result(out, genotype=genotype, net=net, data=image_set, report=kept, force=force)
    return RunResult(out, genotype, exported)
