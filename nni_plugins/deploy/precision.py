"""The exported network in other precisions: 8-bit integers and float16, by onnxruntime's own tools."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    qdq_loss_debug,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from nni_plugins.deploy.smaller_graph import compact

CALIBRATION_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
_CALIBRATION_BATCH = 32
_IMAGES_COMPARED = 4
_LAYERS_NAMED = 3


class LossyLayer(NamedTuple):
    """A tensor that 8 bits hold badly."""

    layer: str
    """The node that computes it."""
    operator: str
    noise_ratio_db: float
    """Signal to quantisation noise against the float model, in decibels: 20 is an error of a tenth of the signal."""


def to_int8(
    source: Path,
    target: Path,
    images: np.ndarray,
    *,
    method: str = "minmax",
    reduce_range: bool = False,
    **options: Any,
) -> list[LossyLayer]:
    """Write a statically quantised model: weights int8 per channel, activations uint8, QDQ operators around all.

    Parameters
    ----------
    source
        Exported float model.
    target
        File to write.
    images
        Normalised training images (N, C, H, W) that the ranges of the activations are taken from.
    method
        How they are taken: ``"minmax"`` (the whole range), ``"entropy"`` or ``"percentile"``.
    reduce_range
        Use 7 bits for weights, for a CPU without VNNI, on which sums of 8-bit products saturate.
    **options
        Further arguments of ``onnxruntime.quantization.quantize_static``.

    Returns
    -------
    list of LossyLayer
        The three whose values 8 bits hold worst, worst first.

    Raises
    ------
    ValueError
        If there are no images, or the method is not known.
    """
    if len(images) == 0:
        raise ValueError("INT8 needs images to calibrate with, got none; take at least one training image.")
    if method not in CALIBRATION_METHODS:
        raise ValueError(f"Calibration is one of {', '.join(CALIBRATION_METHODS)}, got {method!r}; choose one of them.")
    chosen = {
        "quant_format": QuantFormat.QDQ,
        "per_channel": True,
        # The pair that onnxruntime has integer convolutions for on x86; with int8 activations a third of them run in
        # float between conversions.
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
        "reduce_range": reduce_range,
        "calibrate_method": CALIBRATION_METHODS[method],
        # A float bias takes a third of an int32 one with its scales; onnxruntime quantises it as it loads the model.
        "extra_options": {"QuantizeBias": False},
        **options,
    }
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        prepared, quantised = _prepared(source, Path(folder)), Path(folder) / "quantised.onnx"
        quantize_static(prepared, quantised, _Batches(images), **chosen)
        onnx.save(compact(onnx.load(quantised)), target)
        return _lossy_layers(prepared, quantised, images[:_IMAGES_COMPARED])


def to_float16(source: Path, target: Path) -> None:
    """Write a model that computes in float16; its input and output stay float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with _quiet():
        onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)


def _lossy_layers(prepared: Path, quantised: Path, images: np.ndarray) -> list[LossyLayer]:
    float_values, quantised_values = (_activations(path, images, prepared.parent) for path in (prepared, quantised))
    producers = {name: node for node in onnx.load(prepared).graph.node for name in node.output}
    matched = {
        name: match
        for name, match in qdq_loss_debug.create_activation_matching(quantised_values, float_values).items()
        if match.get("float") and name in producers
    }
    errors = {
        name: float(error["xmodel_err"]) for name, error in qdq_loss_debug.compute_activation_error(matched).items()
    }
    worst = sorted(errors, key=errors.__getitem__)[:_LAYERS_NAMED]
    return [LossyLayer(producers[name].name, producers[name].op_type, errors[name]) for name in worst]


def _prepared(source: Path, folder: Path) -> Path:
    """Write the float model as quantisation takes it, with the shapes of all tensors."""
    prepared = folder / "prepared.onnx"
    # Symbolic shape inference is for transformers; what onnx infers is all that convolutional networks need.
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    return prepared


def _activations(model: Path, images: np.ndarray, folder: Path) -> dict[str, list[np.ndarray]]:
    augmented = str(folder / "augmented.onnx")
    qdq_loss_debug.modify_model_output_intermediate_tensors(str(model), augmented)
    return qdq_loss_debug.collect_activations(augmented, _Batches(images))


class _Batches(CalibrationDataReader):
    """Images in batches, as onnxruntime's calibration asks for them."""

    def __init__(self, images: np.ndarray) -> None:
        starts: Sequence[int] = range(0, len(images), _CALIBRATION_BATCH)
        self._batches = iter([{"images": images[start : start + _CALIBRATION_BATCH]} for start in starts])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings about scalars that fit no axis and values too small for float16, and prints of histograms."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
