"""From a trained network to a folder that can be handed on: weights, ONNX model, pictures, report, checked.

The folder holds ``genotype.json``, ``cells.svg``, ``weights.safetensors``, ``model.onnx`` (one file, any batch size),
``reference.npz`` (what :mod:`nni_plugins.deploy.check` compares the model with), ``standalone.onnx`` with
``standalone.npz`` (:mod:`nni_plugins.deploy.standalone`), ``report.json`` and the pages that the caller makes of it.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib.metadata
import json
import logging
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nni_plugins.data import ImageSet
from nni_plugins.data.image_set import class_names_of, named_classes
from nni_plugins.data.images import SMALLEST_IMAGE
from nni_plugins.data.preparation import Preparation
from nni_plugins.data.streamed import available_cpus
from nni_plugins.deploy.additions import with_additions
from nni_plugins.deploy.check import TOLERANCE, Parity, Reference, check_deployment
from nni_plugins.deploy.result_folder import (
    CELLS_FILE,
    GENOTYPE_FILE,
    MODEL_FILE,
    REFERENCE_FILE,
    REPORT_FILE,
    STANDALONE_FILE,
    STANDALONE_REFERENCE_FILE,
    WEIGHTS_FILE,
    new_result,
    refuse_existing_result,
)
from nni_plugins.deploy.session import first_line, open_session, run_model
from nni_plugins.deploy.smaller_graph import fold_batchnorm
from nni_plugins.deploy.standalone import StandaloneReference, build_standalone, opset_of
from nni_plugins.report.cell_picture import draw_cells
from nni_plugins.report.complexity import total_stride
from nni_plugins.tools.atomic_files import strict_json
from search_spaces import Genotype

_PACKAGES = ("torch", "torchvision", "pytorch-lightning", "nni", "numpy", "onnx", "onnxruntime", "onnxscript")
_REFERENCE_BYTES = 2**19
_REFERENCE_IMAGES = (64, 256)
_REFERENCE_PICTURES = 4

OPSET = 20
"""The version of ONNX's operator set that models are written in unless another is asked for."""
OLDEST_OPSET = 18
"""torch writes none older."""


def export_onnx(net: nn.Module, example: Tensor, path: str | Path, *, opset: int = OPSET) -> None:
    """Write ``net`` in evaluation mode as one ONNX file with input ``images`` (batch, C, H, W) and output ``logits``.

    The network itself is not touched: a copy on the CPU is exported.

    Parameters
    ----------
    net
        Trained network.
    example
        Normalised images (N, C, H, W); N does not limit the batch size of the model.
    path
        The file to write.
    opset
        Version of ONNX's operator set.

    Raises
    ------
    ValueError
        If ``example`` is not a batch of images, the network does not map it to logits (N, classes), or the operator set
        is not one of those that can be written, or cannot express the network.
    """
    refuse_opset(opset)
    if example.ndim != 4 or len(example) == 0:
        raise ValueError(
            f"An export needs an example batch of images (N, C, H, W), got shape {tuple(example.shape)}; "
            "add the batch dimension."
        )
    net = with_additions(copy.deepcopy(net).cpu().eval())
    # A batch of one would be taken for a constant by the exporter.
    example = example[:2].detach().cpu().expand(2, -1, -1, -1).contiguous()
    with torch.no_grad():
        logits = net(example)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"In evaluation mode the network must return logits (N, classes), for N = 2 it gave {got}.")
    with _quiet():
        try:
            program = torch.onnx.export(
                net,
                (example,),
                dynamo=True,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=opset,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ValueError(f"torch cannot write the network as ONNX: {first_line(error)}") from error
    assert program is not None
    model = program.model_proto
    # Where a conversion fails, the exporter leaves the model in the version that it was written in.
    if opset_of(model) != opset:
        raise ValueError(
            f"Operator set {opset} cannot express the network, which was written in {opset_of(model)}; choose opset "
            f"{OPSET}, or another from {OLDEST_OPSET} on."
        )
    model = fold_batchnorm(model)
    _drop_traces(model)
    onnx.save(model, path)


def refuse_opset(opset: int) -> None:
    """Refuse a version of ONNX's operator set that models are not written in.

    Raises
    ------
    ValueError
        If it is older than 18 or newer than what the installed onnx knows.
    """
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise ValueError(f"opset must be from {OLDEST_OPSET} to {newest}, got {opset}; the default is {OPSET}.")


def refuse_too_small(net: nn.Module, data: ImageSet, image_size: int) -> None:
    """Refuse a side of images that the reductions of ``net``, trained on ``data``, leave nothing of.

    Raises
    ------
    ValueError
        If it is smaller than a data set's images may be, or than one pixel of the network's smallest feature map.
    """
    smallest = max(SMALLEST_IMAGE, total_stride(net, data.in_channels, data.image_size))
    if image_size < smallest:
        raise ValueError(
            f"Images of {image_size}x{image_size} are too small for the reductions of the network; choose a size of at "
            f"least {smallest}."
        )


def export_result(
    folder: str | Path,
    *,
    genotype: Genotype,
    net: nn.Module,
    data: ImageSet,
    report: Mapping[str, Any],
    pages: Callable[[Mapping[str, Any], Genotype], Mapping[str, str]] | None = None,
    force: bool = False,
    opset: int = OPSET,
    image_size: int | None = None,
    class_names: Sequence[str] = (),
) -> dict[str, Any]:
    """Write everything there is to keep of a found and trained network to ``folder``, and check it.

    Parameters
    ----------
    folder
        Appears complete or not at all.
    genotype
        The architecture.
    net
        The trained network; it is not touched.
    data
        The data set; only its test images are used.
    report
        What is known so far (settings, seed, split, history, accuracies), JSON values only.
    pages
        Makes further texts to put in, by file name, from the finished report and the genotype.
    force
        Replace the result in ``folder`` if there is one; other files there are kept.
    opset
        Version of ONNX's operator set.
    image_size
        Side of the images that the models take, in pixels; by default that of ``data``, whose images are resized to
        any other.
    class_names
        One for each class; by default those of ``data``.

    Returns
    -------
    dict
        ``report`` with ``weights_sha256``, ``versions`` and ``deployment`` added, as in ``report.json``, where a number
        that is not finite is null. ``deployment`` is the report of
        :func:`nni_plugins.deploy.check.check_deployment`, the models' ``image_size``,
        ``test_accuracy``, percent of the whole test set through onnxruntime, and ``test_parity``, onnxruntime's
        agreement with PyTorch on it; the two are None if the model does not run there. A model that fails the check is
        kept, for its weights are worth it: see ``deployment["passed"]``.

    Raises
    ------
    FileExistsError
        If ``folder`` exists and ``force`` is not set, or is something other than a result folder.
    ValueError
        If the network does not return logits, its reductions leave nothing of the images, the names are not as many as
        the classes, or as :func:`export_onnx`.
    """
    refuse_existing_result(folder, force=force)
    refuse_opset(opset)
    names = named_classes("The export", class_names, data.num_classes) if class_names else class_names_of(data)
    net = copy.deepcopy(net).cpu().eval()
    preparation = Preparation.of(data, image_size)
    if image_size is not None:
        refuse_too_small(net, data, image_size)
    size = preparation.size
    chosen = _test_batches(data, _reference_indices(data, size), size)
    images, labels = (torch.cat(parts) for parts in zip(*chosen, strict=True))

    with new_result(folder, force=force) as temporary:
        model_file = temporary / MODEL_FILE
        export_onnx(net, images, model_file, opset=opset)
        with torch.no_grad():
            logits = torch.cat([net(batch) for batch in images.split(64)])
        sha256 = hashlib.sha256(model_file.read_bytes()).hexdigest()
        accuracy = 100 * float((logits.argmax(1) == labels).double().mean())
        Reference(images.numpy(), labels.numpy(), logits.numpy(), sha256, accuracy).save(temporary / REFERENCE_FILE)

        genotype.save(temporary / GENOTYPE_FILE)
        draw_cells(genotype, temporary / CELLS_FILE)
        state = {name: tensor.detach().clone().contiguous() for name, tensor in net.state_dict().items()}
        weights = safetensors.torch.save(state)
        weights_sha256 = hashlib.sha256(weights).hexdigest()
        (temporary / WEIGHTS_FILE).write_bytes(weights)
        standalone = build_standalone(
            onnx.load(model_file), preparation, names, {"data": data.name, "weights_sha256": weights_sha256}
        )
        onnx.save(standalone, temporary / STANDALONE_FILE)
        sha256 = hashlib.sha256((temporary / STANDALONE_FILE).read_bytes()).hexdigest()
        _standalone_reference(net, data, preparation, sha256).save(temporary / STANDALONE_REFERENCE_FILE)

        checked = check_deployment(temporary)
        deployment = checked.to_dict()
        deployment |= {"image_size": size, "test_images": len(data.y_test)}
        deployment |= {"test_accuracy": None, "test_parity": None}
        if checked.accuracy is not None:
            accuracy, parity = _whole_test_set(net, model_file, data, size)
            deployment |= {"test_accuracy": accuracy, "test_parity": asdict(parity)}
            if not parity.max_rel_difference <= TOLERANCE:
                deployment["passed"] = False
                deployment["failures"].append(
                    f"On the whole test set the logits differ from PyTorch's by up to {parity.max_rel_difference:.3g} "
                    f"of the largest logit, more than the tolerance of {TOLERANCE:g}."
                )
        text = strict_json(
            {
                **report,
                "weights_sha256": weights_sha256,
                "versions": {**_versions(), **report.get("versions", {})},
                "deployment": deployment,
            }
        )
        (temporary / REPORT_FILE).write_text(text + "\n")
        finished: dict[str, Any] = json.loads(text)
        for name, page in (pages(finished, genotype) if pages else {}).items():
            (temporary / name).write_text(page, encoding="utf-8")
    return finished


def load_weights(folder: Path, report: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the state dict that an export wrote to ``folder``.

    Parameters
    ----------
    folder
        Exported folder.
    report
        The content of its ``report.json``.

    Raises
    ------
    ValueError
        If the file's SHA-256 is not the one in ``report``, so that its weights are not those that were tested.
    """
    content = (folder / WEIGHTS_FILE).read_bytes()
    found, expected = hashlib.sha256(content).hexdigest(), str(report.get("weights_sha256", "none"))
    if found != expected:
        raise ValueError(
            f"{folder / WEIGHTS_FILE} is not the file that was exported: its SHA-256 starts with {found[:12]}, "
            f"report.json has {expected[:12]}; restore the folder from a copy, or train its genotype again with "
            f"nni-plugins retrain {folder} --out NEW."
        )
    return safetensors.torch.load(content)


def measure_accuracy(net: nn.Module, data: ImageSet, image_size: int | None = None) -> float:
    """Return the percentage of the test set that ``net``, in evaluation mode on the CPU, classifies as labelled.

    Images are resized to ``image_size`` if it is given.
    """
    net = copy.deepcopy(net).cpu().eval()
    batches = _test_batches(data, image_size=image_size)
    with torch.no_grad():
        correct = sum(int((net(images).argmax(1) == labels).sum()) for images, labels in batches)
    return 100 * correct / len(data.y_test)


def _drop_traces(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes (stack traces with the paths of this machine, module names): most of a small file."""
    graph = model.graph
    for entry in (model, graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        entry.ClearField("metadata_props")
        entry.ClearField("doc_string")


def _reference_indices(data: ImageSet, image_size: int) -> Tensor:
    """Return up to 256 test images, evenly spread: as many as fill half a megabyte as float32, but 64 in any case."""
    least, most = _REFERENCE_IMAGES
    return _spread(data, max(least, min(most, _REFERENCE_BYTES // (4 * data.in_channels * image_size**2))))


def _spread(data: ImageSet, count: int) -> Tensor:
    """Return the indices of ``count`` test images, or of all if there are fewer, evenly spread."""
    total = len(data.y_test)
    return torch.linspace(0, total - 1, min(total, count)).long()


def _test_batches(
    data: ImageSet, indices: Tensor | None = None, image_size: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield normalised test images, resized if need be, with their labels on the CPU, in order."""
    for images, labels in data.loader("test", training=False, batch_size=64, seed=0, indices=indices):
        images = images.cpu().contiguous()
        if image_size is not None and image_size != data.image_size:
            images = F.interpolate(images, size=(image_size, image_size), mode="bilinear", antialias=True)
        yield images, labels.cpu()


def _standalone_reference(net: nn.Module, data: ImageSet, preparation: Preparation, sha256: str) -> StandaloneReference:
    """Return a few test images as pictures of several sizes, and PyTorch's probabilities of them once prepared.

    A picture is one of the test images enlarged, reduced or neither, by pixels repeated or left out: the first as it
    is, the others of unlike sides.
    """
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (data.mean, data.std))
    (images, _), *_ = _test_batches(data, _spread(data, _REFERENCE_PICTURES))
    side = data.image_size
    sides = ((side, side), (side + 3, 2 * side - 1), (2 * side + 1, side + side // 2), (side // 2 + 1, side - 1))
    pictures = tuple(
        F.interpolate((255 * (image * std + mean))[None].round().clamp(0, 255), size=size, mode="nearest")[0]
        .permute(1, 2, 0)
        .to(torch.uint8)
        .numpy()
        for image, size in zip(images, sides, strict=False)
    )
    with torch.no_grad():
        logits = net(torch.stack([preparation(picture) for picture in pictures]))
    return StandaloneReference(pictures, logits.softmax(1).numpy(), sha256)


def _whole_test_set(net: nn.Module, model_file: Path, data: ImageSet, image_size: int) -> tuple[float, Parity]:
    """Return the percentage of the test set that onnxruntime classifies as labelled, and its agreement with ``net``."""
    session = open_session(str(model_file), available_cpus(), name=MODEL_FILE)
    correct, difference, scale, top1_equal = 0, 0.0, float(np.finfo(np.float32).tiny), True
    for images, labels in _test_batches(data, image_size=image_size):
        found = torch.from_numpy(run_model(session, images.numpy(), name=MODEL_FILE))
        with torch.no_grad():
            expected = net(images)
        correct += int((found.argmax(1) == labels).sum())
        # np.maximum keeps a NaN.
        difference = float(np.maximum(difference, (found - expected).abs().max()))
        scale = max(scale, float(expected.abs().max()))
        top1_equal &= bool((found.argmax(1) == expected.argmax(1)).all())
    total = len(data.y_test)
    return 100 * correct / total, Parity(64, total, difference, difference / scale, top1_equal)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporter tells its developers; its errors are exceptions."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
