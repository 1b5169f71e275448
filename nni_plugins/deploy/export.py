"""From a trained network to a folder that can be handed on: weights, ONNX model, pictures, report, checked.

The folder holds ``genotype.json``, ``cells.svg``, ``weights.safetensors``, ``model.onnx`` (one file, any batch size),
``reference.npz`` (what :mod:`nni_plugins.deploy.check` compares the model with) and ``report.json``.
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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
import safetensors.torch
import torch
from torch import Tensor, nn

from nni_plugins.data import ImageSet
from nni_plugins.data.streamed import available_cpus
from nni_plugins.deploy.additions import with_additions
from nni_plugins.deploy.check import Reference, check_deployment, open_session, run_model
from nni_plugins.deploy.result_folder import (
    CELLS_FILE,
    GENOTYPE_FILE,
    MODEL_FILE,
    REFERENCE_FILE,
    REPORT_FILE,
    WEIGHTS_FILE,
    new_result,
    refuse_existing_result,
)
from nni_plugins.report.cell_picture import draw_cells
from nni_plugins.tools.atomic_files import strict_json
from search_spaces import Genotype

_PACKAGES = ("torch", "torchvision", "pytorch-lightning", "nni", "numpy", "onnx", "onnxruntime", "onnxscript")
_REFERENCE_BYTES = 2**19
_REFERENCE_IMAGES = (64, 256)


def export_onnx(net: nn.Module, example: Tensor, path: str | Path) -> None:
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

    Raises
    ------
    ValueError
        If ``example`` is not a batch of images, or the network does not map it to logits (N, classes).
    """
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
        program = torch.onnx.export(
            net,
            (example,),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _drop_traces(model)
    onnx.save(model, path)


def export_result(
    folder: str | Path,
    *,
    genotype: Genotype,
    net: nn.Module,
    data: ImageSet,
    report: Mapping[str, Any],
    files: Mapping[str, str] | None = None,
    force: bool = False,
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
    files
        Further texts to put in, by file name.
    force
        Replace the result in ``folder`` if there is one; other files there are kept.

    Returns
    -------
    dict
        ``report`` with ``weights_sha256``, ``versions`` and ``deployment`` added, as in ``report.json``, where a number
        that is not finite is null. ``deployment`` is the report of
        :func:`nni_plugins.deploy.check.check_deployment` and ``test_accuracy``, percent of the whole test set through
        onnxruntime, or None if it does not run there. A model that fails the check is kept, for its weights are worth
        it: see ``deployment["passed"]``.

    Raises
    ------
    FileExistsError
        If ``folder`` exists and ``force`` is not set, or is something other than a result folder.
    ValueError
        If the network does not return logits.
    """
    refuse_existing_result(folder, force=force)
    net = copy.deepcopy(net).cpu().eval()
    images, labels = (torch.cat(parts) for parts in zip(*_test_batches(data, _reference_indices(data)), strict=True))

    with new_result(folder, force=force) as temporary:
        model_file = temporary / MODEL_FILE
        export_onnx(net, images, model_file)
        with torch.no_grad():
            logits = torch.cat([net(batch) for batch in images.split(64)])
        sha256 = hashlib.sha256(model_file.read_bytes()).hexdigest()
        accuracy = 100 * float((logits.argmax(1) == labels).double().mean())
        Reference(images.numpy(), labels.numpy(), logits.numpy(), sha256, accuracy).save(temporary / REFERENCE_FILE)

        for name, text in (files or {}).items():
            (temporary / name).write_text(text)
        genotype.save(temporary / GENOTYPE_FILE)
        draw_cells(genotype, temporary / CELLS_FILE)
        state = {name: tensor.detach().clone().contiguous() for name, tensor in net.state_dict().items()}
        weights = safetensors.torch.save(state)
        (temporary / WEIGHTS_FILE).write_bytes(weights)

        checked = check_deployment(temporary)
        deployment = checked.to_dict()
        deployment["test_accuracy"] = _test_accuracy(model_file, data) if checked.accuracy is not None else None
        deployment["test_images"] = len(data.y_test)
        text = strict_json(
            {
                **report,
                "weights_sha256": hashlib.sha256(weights).hexdigest(),
                "versions": {**_versions(), **report.get("versions", {})},
                "deployment": deployment,
            }
        )
        (temporary / REPORT_FILE).write_text(text + "\n")
    return json.loads(text)


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


def measure_accuracy(net: nn.Module, data: ImageSet) -> float:
    """Return the percentage of the test set that ``net``, in evaluation mode on the CPU, classifies as labelled."""
    net = copy.deepcopy(net).cpu().eval()
    with torch.no_grad():
        correct = sum(int((net(images).argmax(1) == labels).sum()) for images, labels in _test_batches(data))
    return 100 * correct / len(data.y_test)


def _drop_traces(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes (stack traces with the paths of this machine, module names): most of a small file."""
    graph = model.graph
    for entry in (model, graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        entry.ClearField("metadata_props")
        entry.ClearField("doc_string")


def _reference_indices(data: ImageSet) -> Tensor:
    """Return up to 256 test images, evenly spread: as many as fill half a megabyte as float32, but 64 in any case."""
    least, most = _REFERENCE_IMAGES
    fitting = _REFERENCE_BYTES // (4 * data.in_channels * data.image_size**2)
    total = len(data.y_test)
    return torch.linspace(0, total - 1, min(total, max(least, min(most, fitting)))).long()


def _test_batches(data: ImageSet, indices: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield normalised test images with their labels on the CPU, in order."""
    for images, labels in data.loader("test", training=False, batch_size=64, seed=0, indices=indices):
        yield images.cpu().contiguous(), labels.cpu()


def _test_accuracy(model_file: Path, data: ImageSet) -> float:
    """Return the percentage of the test set that onnxruntime classifies as labelled."""
    session = open_session(str(model_file), available_cpus())
    correct = sum(
        int((run_model(session, images.numpy()).argmax(1) == labels.numpy()).sum())
        for images, labels in _test_batches(data)
    )
    return 100 * correct / len(data.y_test)


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
