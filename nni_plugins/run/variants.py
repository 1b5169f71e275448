"""The variants of a result: float32, INT8, float16, and PyTorch beside them, measured and kept in its folder."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nni_plugins.data import ImageSet
from nni_plugins.data.loaders import seeded
from nni_plugins.data.streamed import available_cpus
from nni_plugins.deploy.check import Reference, load_reference
from nni_plugins.deploy.precision import CALIBRATION_METHODS, to_float16, to_int8
from nni_plugins.deploy.result_folder import (
    MODEL_FILE,
    PAGE_FILE,
    REFERENCE_FILE,
    REPORT_FILE,
    VARIANTS_FILE,
    VARIANTS_FOLDER,
)
from nni_plugins.deploy.session import PROVIDER
from nni_plugins.deploy.variants import (
    BATCH_SIZES,
    COMPILED,
    EAGER,
    FLOAT16,
    FLOAT32,
    INT8,
    VARIANTS,
    Predict,
    Variant,
    float16_note,
    onnx_predictor,
    predict_classes,
    profile,
    refuse_unknown_provider,
    slower_operators,
    time_in_turns,
)
from nni_plugins.run.genotypes import read_report
from nni_plugins.run.report_page import page_of
from nni_plugins.run.result import load_net
from nni_plugins.run.work_folder import reserved
from nni_plugins.tools.atomic_files import (
    atomic_directory,
    atomic_write,
    clear_killed,
    refuse_existing_folder,
    strict_json,
)

INT8_FILE = "model.int8.onnx"
FLOAT16_FILE = "model.float16.onnx"
QUICK_VARIANTS = (FLOAT32, INT8, FLOAT16, EAGER)
"""All but the one that takes minutes to compile."""
_FILES = (VARIANTS_FILE, INT8_FILE, FLOAT16_FILE)
_TEST_BATCH = 64


@dataclass(frozen=True)
class VariantSettings:
    """How variants are made and measured.

    Parameters
    ----------
    only
        Names from ``VARIANTS`` to measure; float32, which the others are compared with, always is.
    provider
        onnxruntime's execution provider.
    calibration_images
        Training images that the ranges of INT8 are taken from; all, if there are fewer.
    calibration
        How they are taken: ``"minmax"``, ``"entropy"`` or ``"percentile"``.
    reduce_range
        Use 7 bits for weights, for a CPU without VNNI.
    seed
        Of the choice of the training images.
    runs
        Timed runs on one image; on a batch of 64 a tenth of it, and ten at least.
    threads
        Numbers of threads to time with; by default one, and one for each CPU that this process may use.

    Raises
    ------
    ValueError
        If a value is not possible; the message says what is.
    """

    only: tuple[str, ...] = VARIANTS
    provider: str = PROVIDER
    calibration_images: int = 256
    calibration: str = "minmax"
    reduce_range: bool = False
    seed: int = 0
    runs: int = 100
    threads: tuple[int, ...] = field(default_factory=lambda: tuple(sorted({1, available_cpus()})))

    def __post_init__(self) -> None:
        refuse_unknown_provider(self.provider)
        if unknown := [name for name in self.only if name not in VARIANTS]:
            raise ValueError(f"Unknown variant {unknown[0]!r}; choose from {', '.join(VARIANTS)}.")
        if self.calibration not in CALIBRATION_METHODS:
            raise ValueError(
                f"Calibration is one of {', '.join(CALIBRATION_METHODS)}, got {self.calibration!r}; choose one of them."
            )
        if self.calibration_images < 1:
            raise ValueError(
                f"INT8 needs training images to calibrate with, got --calibration-images {self.calibration_images}; "
                "give at least 1 (a few hundred are usual)."
            )
        for name, value, least in (
            ("--runs", self.runs, 1),
            ("--seed", self.seed, 0),
            *(("--threads", each, 1) for each in self.threads),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}.")


def refuse_existing_variants(folder: Path, *, force: bool = False) -> Path:
    """Return where the variants of a result go, if they may be written there.

    Raises
    ------
    FileExistsError
        If they are there already and ``force`` is not set.
    """
    return refuse_existing_folder(folder / VARIANTS_FOLDER, ours=_FILES, mark=VARIANTS_FILE, force=force)


def make_variants(
    folder: Path, data: ImageSet, settings: VariantSettings | None = None, *, force: bool = False
) -> dict[str, Any]:
    """Make and measure the variants of a result, keep them in its sub-folder ``variants``, and show them on its page.

    Parameters
    ----------
    folder
        What search, retrain or export has made.
    data
        The data set that it was trained on: training images calibrate, all test images test.
    settings
        By default all variants on the CPU.
    force
        Replace variants that are there already.

    Returns
    -------
    dict
        The content of ``variants.json``.

    Raises
    ------
    FileExistsError
        If there are variants already and ``force`` is not set.
    FileNotFoundError
        If the folder lacks its model, its reference or its report.
    ValueError
        If a file is damaged or not the one exported, or ``data`` is not what the result was trained on.
    """
    settings = settings or VariantSettings()
    target = refuse_existing_variants(folder, force=force)
    reference = _read_reference(folder)
    _refuse_other_data(folder, data)
    net = load_net(folder)
    with reserved(folder.resolve()), _cleared(target, force=force) as temporary:
        variants = _Workbench(folder / MODEL_FILE, temporary, net, data, reference, settings).measure()
        report: dict[str, Any] = {
            "model_sha256": reference.sha256,
            "data": {"name": data.name, "sha256": data.fingerprint(), "test_images": len(data.y_test)},
            "calibration": {
                "method": settings.calibration,
                "training_images": min(settings.calibration_images, len(data.y_train)),
                "seed": settings.seed,
                "reduce_range": settings.reduce_range,
            },
            "provider": settings.provider,
            "cpus": available_cpus(),
            "machine": platform.machine(),
            "versions": {name: importlib.metadata.version(name) for name in ("onnx", "onnxruntime", "torch")},
            "variants": [variant.to_dict() for variant in variants],
        }
        text = strict_json(report)
        (temporary / VARIANTS_FILE).write_text(text + "\n")
    atomic_write(folder / PAGE_FILE, page_of(folder))
    return json.loads(text)


@contextlib.contextmanager
def _cleared(target: Path, *, force: bool) -> Iterator[Path]:
    clear_killed(target)
    with atomic_directory(target, ours=_FILES, mark=VARIANTS_FILE, force=force) as temporary:
        yield temporary


def summary(report: dict[str, Any]) -> dict[str, float]:
    """Return INT8's figures beside float32's, flat: what a trial adds to its final result."""
    found: dict[str, float] = {}
    for variant in report["variants"]:
        if variant["name"] in (FLOAT32, INT8) and variant["not_run"] is None:
            found[f"{variant['name']}_accuracy"] = variant["accuracy"]
            found[f"{variant['name']}_latency_ms"] = variant["timings"][0]["p50_ms"]
            found[f"{variant['name']}_bytes"] = variant["file_bytes"]
    return found


def calibration_images(data: ImageSet, count: int, seed: int) -> np.ndarray:
    """Return up to ``count`` normalised training images (N, C, H, W), as they are, chosen by ``seed``."""
    indices = torch.randperm(len(data.y_train), generator=seeded(seed))[:count]
    batches = data.loader("train", training=False, batch_size=_TEST_BATCH, seed=0, indices=indices)
    return np.concatenate([images.cpu().contiguous().numpy() for images, _ in batches])


class _Workbench:
    """What measuring needs: the files, the network, the images."""

    def __init__(
        self, model: Path, out: Path, net: nn.Module, data: ImageSet, reference: Reference, settings: VariantSettings
    ) -> None:
        self._model, self._out, self._net, self._data, self._settings = model, out, net, data, settings
        self._images = reference.images
        self._openers: dict[str, Callable[[int], Predict]] = {}

    def measure(self) -> list[Variant]:
        """Return all variants asked for, float32 first."""
        variants = {name: Variant(name) for name in VARIANTS if name == FLOAT32 or name in self._settings.only}
        for variant in variants.values():
            self._prepare(variant)
        for threads in self._settings.threads:
            self._time(variants, threads)
        for variant in variants.values():
            self._profile(variant)
        if (quantised := variants.get(INT8)) and quantised.profile and (plain := variants[FLOAT32].profile):
            quantised.slower_operators = slower_operators(quantised.profile, plain)
        return list(variants.values())

    def _prepare(self, variant: Variant) -> None:
        """Write the file of a variant and note how it is opened, or why it cannot be."""
        file = self._model
        if variant.name == INT8:
            file = self._out / INT8_FILE
            chosen = self._settings
            variant.lossy_layers = to_int8(
                self._model,
                file,
                calibration_images(self._data, chosen.calibration_images, chosen.seed),
                method=chosen.calibration,
                reduce_range=chosen.reduce_range,
            )
        elif variant.name == FLOAT16:
            file = self._out / FLOAT16_FILE
            to_float16(self._model, file)
        elif variant.name == EAGER:
            self._openers[EAGER] = lambda threads: _torch_predictor(self._net)
            return
        elif variant.name == COMPILED:
            variant.not_run = _why_not_compiled()
            self._openers[COMPILED] = lambda threads: _torch_predictor(torch.compile(self._net, dynamic=False))
            return
        variant.file = file.name
        variant.file_bytes = file.stat().st_size
        variant.share_of_float32 = variant.file_bytes / self._model.stat().st_size
        self._openers[variant.name] = lambda threads: onnx_predictor(file, threads, self._settings.provider)

    def _time(self, variants: dict[str, Variant], threads: int) -> None:
        """Add timings with this number of threads, and what the variants say of the test set, once."""
        batches = [np.resize(self._images, (size, *self._images.shape[1:])) for size in BATCH_SIZES]
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            predictors = {}
            for variant in variants.values():
                if variant.not_run is None and (opened := self._open(variant, threads, batches)):
                    predictors[variant.name] = opened
            for images in batches:
                runs = self._settings.runs if len(images) == 1 else max(10, self._settings.runs // 10)
                for name, timing in time_in_turns(predictors, images, threads=threads, runs=runs).items():
                    variants[name].timings.append(timing)
            if variants[FLOAT32].accuracy is None:
                self._test(variants, predictors)
        finally:
            torch.set_num_threads(before)

    def _open(self, variant: Variant, threads: int, batches: list[np.ndarray]) -> Predict | None:
        """Return what runs the variant once it has run every batch; else note the reason."""
        try:
            predict = self._openers[variant.name](threads)
            for images in batches:
                predict(images)
        except Exception as error:
            if variant.name == FLOAT32:
                raise
            variant.not_run = f"it fails: {next(iter(str(error).strip().splitlines()), type(error).__name__)}"
            return None
        return predict

    def _test(self, variants: dict[str, Variant], predictors: dict[str, Predict]) -> None:
        labels = self._data.y_test.cpu().numpy()
        classes = {name: predict_classes(predict, self._test_images()) for name, predict in predictors.items()}
        for name, predicted in classes.items():
            variants[name].accuracy = 100 * float((predicted == labels).mean())
            variants[name].agreement = 100 * float((predicted == classes[FLOAT32]).mean())

    def _test_images(self) -> Iterator[np.ndarray]:
        for images, _ in self._data.loader("test", training=False, batch_size=_TEST_BATCH, seed=0):
            yield images.cpu().contiguous().numpy()

    def _profile(self, variant: Variant) -> None:
        if variant.file is None or variant.not_run is not None:
            return
        file = self._model if variant.name == FLOAT32 else self._out / variant.file
        variant.profile = profile(file, self._images[:1], self._settings.provider)
        if not variant.profile.on_provider:
            variant.notes.append(f"{self._settings.provider} took no operator of it; the CPU computed all")
        if variant.name == FLOAT16 and (note := float16_note(file, variant.profile)):
            variant.notes.append(note)


def _torch_predictor(net: Callable[[torch.Tensor], torch.Tensor]) -> Predict:
    def predict(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return net(torch.from_numpy(images)).numpy()

    return predict


def _why_not_compiled() -> str | None:
    """Return why torch.compile cannot work here, or None."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        return f"torch.compile needs a C++ compiler and there is no {compiler}; install it, or name another in CXX"
    return None


def _read_reference(folder: Path) -> Reference:
    for name in (MODEL_FILE, REFERENCE_FILE, REPORT_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} has no {name}; give a folder that search or retrain has made, or make it anew with "
                f"nni-plugins export {folder} --out NEW."
            )
    reference = load_reference(folder / REFERENCE_FILE)
    found = hashlib.sha256((folder / MODEL_FILE).read_bytes()).hexdigest()
    if found != reference.sha256:
        raise ValueError(
            f"{folder / MODEL_FILE} is not the file that was exported: its SHA-256 starts with {found[:12]}, "
            f"{REFERENCE_FILE} expects {reference.sha256[:12]}; make the folder anew with nni-plugins export {folder} "
            "--out NEW."
        )
    return reference


def _refuse_other_data(folder: Path, data: ImageSet) -> None:
    """Raise ValueError unless ``data`` is what the report says that the network was trained on."""
    recorded = read_report(folder).get("data")
    recorded = recorded if isinstance(recorded, dict) else {}
    given = {
        "sha256": data.fingerprint(),
        "classes": data.num_classes,
        "in_channels": data.in_channels,
        "image_size": data.image_size,
        "test_images": len(data.y_test),
    }
    if any(recorded.get(name, value) != value for name, value in given.items()):
        raise ValueError(
            f"{folder} was trained on {recorded.get('name', 'another data set')}, whose images are not those of "
            f"{data.name}; pass with --data the set that it was trained on."
        )
