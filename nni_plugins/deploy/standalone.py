"""``standalone.onnx``: the network with everything in it that a picture needs, from pixels to probabilities.

    pictures (batch, height, width, C) uint8, of any size
        -> shorter side resized, centre cut out, normalised -> the nodes and weights of model.onnx -> softmax
        -> probabilities (batch, classes)

Class names, normalisation, sizes, the name of the training data and the SHA-256 of the weights are in the file as
``metadata_props``, each a JSON value.

The resizing is ONNX's Resize on uint8 with antialiasing, and with the weight outside the picture left out of the sum,
which is how Pillow's bilinear filter, and so the pipeline that tested the network, treats borders. What is left is one
grey level in at most a twentieth of the pixels, since onnxruntime holds the scale in single precision; in pictures more
than twice as high as wide, where Pillow 13 resizes columns before rows, in up to a quarter of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

from nni_plugins.deploy.result_folder import MODEL_FILE, STANDALONE_FILE, STANDALONE_REFERENCE_FILE
from nni_plugins.deploy.session import Unusable, first_line, open_session, read_arrays, read_bytes, run_model

if TYPE_CHECKING:
    from nni_plugins.data.preparation import Preparation

TOLERANCE = 1e-3
"""Largest difference of a probability from the pipeline's: a grey level here and there, and rounding."""

_PREPARE = """
prepare (uint8[batch, height, width, {channels}] pictures) => (float[batch, {channels}, {size}, {size}] images)
<int64[1] prepare_shorter_side = {{{shorter_side}}}, int64[2] prepare_square = {{{size}, {size}}},
 int64[2] prepare_axes = {{2, 3}}, float prepare_half = {{0.5}}>
{{
    prepare_planes = Transpose <perm = [0, 3, 1, 2]> (pictures)
    prepare_sides = Shape <start = 1, end = 3> (pictures)
    prepare_shorter = ReduceMin <keepdims = 1> (prepare_sides)
    prepare_product = Mul (prepare_sides, prepare_shorter_side)
    prepare_scaled = Div (prepare_product, prepare_shorter)
    prepare_others = Shape <start = 0, end = 2> (prepare_planes)
    prepare_shape = Concat <axis = 0> (prepare_others, prepare_scaled)
    prepare_resized = Resize <mode = "linear", antialias = 1, exclude_outside = 1> (
        prepare_planes, , , prepare_shape)
    prepare_margins = Sub (prepare_scaled, prepare_square)
    prepare_margins_float = Cast <to = 1> (prepare_margins)
    prepare_halves = Mul (prepare_margins_float, prepare_half)
    prepare_rounded = Round (prepare_halves)
    prepare_starts = Cast <to = 7> (prepare_rounded)
    prepare_ends = Add (prepare_starts, prepare_square)
    prepare_cut = Slice (prepare_resized, prepare_starts, prepare_ends, prepare_axes)
    prepare_pixels = Cast <to = 1> (prepare_cut)
    prepare_centred = Sub (prepare_pixels, prepare_mean)
    images = Div (prepare_centred, prepare_std)
}}
"""
"""Round takes halves to the even number, as torchvision's CenterCrop does. Resize is given all four sides, because
onnxruntime's optimiser of layouts reads two of them as four."""


class StandaloneReference(NamedTuple):
    """What ``standalone.npz`` holds: pictures of several sizes and the answers expected."""

    pictures: tuple[np.ndarray, ...]
    """uint8 (height, width, C) each."""
    probabilities: np.ndarray
    """float32 (pictures, classes): PyTorch's, of the pictures as the test pipeline prepares them."""
    sha256: str
    """Hexadecimal checksum of ``standalone.onnx``."""

    def save(self, path: Path) -> None:
        """Write one array for each picture, and the others, as one compressed ``.npz``."""
        pictures = {f"picture_{index}": picture for index, picture in enumerate(self.pictures)}
        np.savez_compressed(path, allow_pickle=False, probabilities=self.probabilities, sha256=self.sha256, **pictures)


@dataclass(frozen=True)
class StandaloneParity:
    """Agreement of ``standalone.onnx`` with the pipeline that tested the network."""

    pictures: int
    max_difference: float
    """Largest difference of a probability."""
    top1_equal: bool
    file_bytes: int


def build_standalone(
    model: onnx.ModelProto, preparation: Preparation, class_names: Sequence[str], facts: Mapping[str, Any]
) -> onnx.ModelProto:
    """Return the stand-alone graph around a model, whose nodes and weights are in it as they are.

    Parameters
    ----------
    model
        From ``images`` (batch, C, size, size), normalised, to ``logits`` (batch, classes).
    preparation
        What is done to a picture.
    class_names
        One for each class.
    facts
        Further metadata, JSON values.

    Raises
    ------
    ValueError
        If the model's operator set is older than 18, which cannot resize as Pillow does.
    """
    opset = opset_of(model)
    if opset < 18:
        raise ValueError(f"A stand-alone graph needs operator set 18 or later for its resizing, got {opset}.")
    net = model.graph
    front = parser.parse_graph(
        _PREPARE.format(channels=len(preparation.mean), size=preparation.size, shorter_side=preparation.shorter_side)
    )
    grey_levels = {"prepare_mean": preparation.mean, "prepare_std": preparation.std}
    constants = [
        numpy_helper.from_array((np.asarray(values, np.float32) * np.float32(255)).reshape(-1, 1, 1), name)
        for name, values in grey_levels.items()
    ]
    probabilities = helper.make_tensor_value_info(
        "probabilities", TensorProto.FLOAT, ["batch", net.output[0].type.tensor_type.shape.dim[1].dim_value]
    )
    graph = helper.make_graph(
        [*front.node, *net.node, helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1)],
        "standalone",
        list(front.input),
        [probabilities],
        [*front.initializer, *constants, *net.initializer],
        value_info=[*net.input, *net.value_info],
    )
    standalone = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    standalone.functions.extend(model.functions)
    metadata = {
        "class_names": list(class_names),
        "mean": list(preparation.mean),
        "std": list(preparation.std),
        "image_size": preparation.size,
        "shorter_side": preparation.shorter_side,
        **facts,
    }
    helper.set_model_props(standalone, {name: json.dumps(value) for name, value in metadata.items()})
    return standalone


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operator set that a model uses, 0 for none."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def check_standalone(folder: Path, model: onnx.ModelProto, threads: int) -> tuple[StandaloneParity | None, list[str]]:
    """Compare ``standalone.onnx`` with its reference, and its net with that of ``model.onnx``.

    Parameters
    ----------
    folder
        Result folder. One made before there were stand-alone graphs has neither of the two files and is not at fault.
    model
        The content of its ``model.onnx``.
    threads
        Threads that onnxruntime may use.

    Returns
    -------
    tuple
        What was measured, None if there is nothing to measure, and a sentence for each thing that is wrong.
    """
    if not any((folder / name).exists() for name in (STANDALONE_FILE, STANDALONE_REFERENCE_FILE)):
        return None, []
    try:
        return _compare(read_bytes(folder / STANDALONE_FILE), model, _load_reference(folder), threads)
    except Unusable as error:
        return None, [str(error)]


def _compare(
    content: bytes, model: onnx.ModelProto, reference: StandaloneReference, threads: int
) -> tuple[StandaloneParity, list[str]]:
    failures = []
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != reference.sha256:
        failures.append(
            f"{STANDALONE_FILE} is not the file that was exported: its SHA-256 starts with {sha256[:12]}, "
            f"{STANDALONE_REFERENCE_FILE} expects {reference.sha256[:12]}; export it again."
        )
    try:
        standalone = onnx.load_model_from_string(content)
        onnx.checker.check_model(standalone, full_check=True)
    except Exception as error:
        raise Unusable(f"{STANDALONE_FILE} does not satisfy onnx.checker: {first_line(error)}") from error
    if not _parts(model) <= _parts(standalone):
        failures.append(f"The network in {STANDALONE_FILE} is not that of {MODEL_FILE}; export both again.")

    session = open_session(content, threads, name=STANDALONE_FILE)
    found = np.concatenate([run_model(session, each[None], name=STANDALONE_FILE) for each in reference.pictures])
    if found.shape != reference.probabilities.shape:
        raise Unusable(
            f"{STANDALONE_FILE} gives probabilities of shape {found.shape} for {len(reference.pictures)} pictures, "
            f"expected {reference.probabilities.shape}; export it again."
        )
    parity = StandaloneParity(
        len(found),
        float(np.abs(found - reference.probabilities).max()),
        bool((found.argmax(1) == reference.probabilities.argmax(1)).all()),
        len(content),
    )
    # Written so that a difference of NaN fails too.
    if not parity.max_difference <= TOLERANCE:
        failures.append(
            f"The probabilities of {STANDALONE_FILE} differ from the test pipeline's by up to "
            f"{parity.max_difference:.3g}, more than the tolerance of {TOLERANCE:g}."
        )
    if not parity.top1_equal:
        failures.append(f"{STANDALONE_FILE} predicts another class than the test pipeline for at least one picture.")
    return parity, failures


def _parts(model: onnx.ModelProto) -> set[bytes]:
    return {part.SerializeToString(deterministic=True) for part in (*model.graph.node, *model.graph.initializer)}


def _load_reference(folder: Path) -> StandaloneReference:
    path = folder / STANDALONE_REFERENCE_FILE
    arrays = read_arrays(path, ("probabilities", "sha256"))
    probabilities = arrays["probabilities"]
    pictures = tuple(arrays[name] for name in (f"picture_{index}" for index in range(len(arrays))) if name in arrays)
    if (
        any(picture.dtype != np.uint8 or picture.ndim != 3 or not picture.size for picture in pictures)
        or probabilities.dtype != np.float32
        or probabilities.ndim != 2
        or not len(probabilities) == len(pictures) > 0
    ):
        raise Unusable(
            f"{path} must hold uint8 pictures (height, width, C) and float32 probabilities (pictures, classes), got "
            f"pictures {', '.join(f'{each.dtype} {each.shape}' for each in pictures) or 'none'} and "
            f"probabilities {probabilities.dtype} {probabilities.shape}; export the result again."
        )
    return StandaloneReference(pictures, probabilities, str(arrays["sha256"]))
