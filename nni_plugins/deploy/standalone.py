"""``standalone.onnx``: the network with everything in it that a picture needs, from pixels to probabilities.

    pictures (batch, height, width, C) uint8, of any size
        -> shorter side resized, centre cut out, normalised -> the nodes and weights of model.onnx -> softmax
        -> probabilities (batch, classes)

Class names, normalisation, sizes, the name of the training data and the SHA-256 of the weights are in the file as
``metadata_props``, each a JSON value.

The resizing is Pillow's bilinear filter, with which the network was tested, to the last bit: for each axis a matrix of
triangles as wide as the scale, in fixed point of 22 bits,

    out = (sum_i in_i k_i + 2^21) >> 22,   k = floor(2^22 w / sum w + 1/2),   w = max(0, 1 - |i + 1/2 - centre| / scale)

multiplied a byte of k at a time, as uint8 (MatMulInteger). Columns are resized before rows where Pillow 13 does so: in
pictures more than twice as high as wide that are reduced; Pillow before 13 differs there by a grey level. ONNX's own
Resize, antialiased and in uint8, is a grey level off in up to a twentieth of the pixels in onnxruntime, which holds the
scale in single precision: enough to move probabilities by 5e-3.
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
"""Largest difference of a probability from the pipeline's."""

_CONSTANTS = """
int64 zero = {0}, int64 one = {1}, int64 two = {2}, int64[1] first_axis = {0}, int64[1] second_axis = {1},
double d_zero = {0}, double d_half = {0.5}, double d_one = {1}, double d_fixed = {4194304},
int64 byte = {256}, int64 two_bytes = {65536}, int32 i_byte = {256}, int32 i_two_bytes = {65536},
int32 i_half = {2097152}, int32 i_fixed = {4194304}, int32 i_white = {255}, float f_half = {0.5}, int64[2] axes = {2, 3}
"""

_BEFORE = """
    heights = Shape <start = 1, end = 2> (pictures)
    widths = Shape <start = 2, end = 3> (pictures)
    height = Squeeze (heights)
    width = Squeeze (widths)
    shorter = Min (height, width)
    times_height = Mul (height, shorter_side)
    times_width = Mul (width, shorter_side)
    new_height = Div (times_height, shorter)
    new_width = Div (times_width, shorter)
    twice_width = Mul (two, width)
    high = Greater (height, twice_width)
    reduced = Less (new_height, height)
    columns_first = And (high, reduced)
    from_1 = Where (columns_first, height, width)
    to_1 = Where (columns_first, new_height, new_width)
    from_2 = Where (columns_first, width, height)
    to_2 = Where (columns_first, new_width, new_height)
    lying = Transpose <perm = [0, 3, 1, 2]> (pictures)
    in_1 = If (columns_first) <
        then_branch = columns () => (uint8[?, ?, ?, ?] turned_1) { turned_1 = Transpose <perm = [0, 1, 3, 2]> (lying) },
        else_branch = rows () => (uint8[?, ?, ?, ?] kept_1) { kept_1 = Identity (lying) }
    >
"""

_RESIZE = """
    d_from_# = Cast <to = 11> (from_#)
    d_to_# = Cast <to = 11> (to_#)
    scale_# = Div (d_from_#, d_to_#)
    spread_# = Max (scale_#, d_one)
    inverse_# = Div (d_one, spread_#)
    outputs_# = Range (zero, to_#, one)
    d_outputs_# = Cast <to = 11> (outputs_#)
    middles_# = Add (d_outputs_#, d_half)
    centres_# = Mul (middles_#, scale_#)
    inputs_# = Range (zero, from_#, one)
    d_inputs_# = Cast <to = 11> (inputs_#)
    column_# = Unsqueeze (d_inputs_#, second_axis)
    offset_# = Sub (column_#, centres_#)
    distance_# = Add (offset_#, d_half)
    relative_# = Mul (distance_#, inverse_#)
    absolute_# = Abs (relative_#)
    falling_# = Sub (d_one, absolute_#)
    triangle_# = Max (falling_#, d_zero)
    sum_# = ReduceSum <keepdims = 1> (triangle_#, first_axis)
    share_# = Div (triangle_#, sum_#)
    scaled_# = Mul (share_#, d_fixed)
    raised_# = Add (scaled_#, d_half)
    floor_# = Floor (raised_#)
    weights_# = Cast <to = 7> (floor_#)
    low_# = Mod (weights_#, byte)
    shifted_# = Div (weights_#, byte)
    middle_# = Mod (shifted_#, byte)
    top_# = Div (weights_#, two_bytes)
    low_byte_# = Cast <to = 2> (low_#)
    middle_byte_# = Cast <to = 2> (middle_#)
    top_byte_# = Cast <to = 2> (top_#)
    low_product_# = MatMulInteger (in_#, low_byte_#)
    middle_product_# = MatMulInteger (in_#, middle_byte_#)
    top_product_# = MatMulInteger (in_#, top_byte_#)
    middle_part_# = Mul (middle_product_#, i_byte)
    top_part_# = Mul (top_product_#, i_two_bytes)
    low_sum_# = Add (low_product_#, i_half)
    middle_sum_# = Add (low_sum_#, middle_part_#)
    total_# = Add (middle_sum_#, top_part_#)
    level_# = Div (total_#, i_fixed)
    clipped_# = Min (level_#, i_white)
    out_# = Cast <to = 2> (clipped_#)
"""
"""Along the last axis of ``in_#``, from ``from_#`` pixels to ``to_#``."""

_BETWEEN = """
    in_2 = Transpose <perm = [0, 1, 3, 2]> (out_1)
"""

_AFTER = """
    resized = If (columns_first) <
        then_branch = columns () => (uint8[?, ?, ?, ?] kept_2) { kept_2 = Identity (out_2) },
        else_branch = rows () => (uint8[?, ?, ?, ?] turned_2) { turned_2 = Transpose <perm = [0, 1, 3, 2]> (out_2) }
    >
    sides = Shape <start = 2, end = 4> (resized)
    margins = Sub (sides, square)
    f_margins = Cast <to = 1> (margins)
    half_margins = Mul (f_margins, f_half)
    whole_margins = Round (half_margins)
    starts = Cast <to = 7> (whole_margins)
    ends = Add (starts, square)
    cut = Slice (resized, starts, ends, axes)
    pixels = Cast <to = 1> (cut)
    centred = Sub (pixels, mean)
    images = Div (centred, std)
"""
"""Round takes halves to the even number, as torchvision's CenterCrop does."""


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
    """
    net = model.graph
    front = _front(preparation)
    probabilities = helper.make_tensor_value_info(
        "probabilities", TensorProto.FLOAT, ["batch", net.output[0].type.tensor_type.shape.dim[1].dim_value]
    )
    graph = helper.make_graph(
        [*front.node, *net.node, helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1)],
        "standalone",
        list(front.input),
        [probabilities],
        [*front.initializer, *net.initializer],
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


def _front(preparation: Preparation) -> onnx.GraphProto:
    """Return the graph from pictures to the network's input; all names but these two begin with ``prepare/``."""
    channels, size = len(preparation.mean), preparation.size
    own = f"int64 shorter_side = {{{preparation.shorter_side}}}, int64[2] square = {{{size}, {size}}}"
    nodes = "".join((_BEFORE, _RESIZE.replace("#", "1"), _BETWEEN, _RESIZE.replace("#", "2"), _AFTER))
    graph = parser.parse_graph(
        f"prepare (uint8[batch, height, width, {channels}] pictures)"
        f" => (float[batch, {channels}, {size}, {size}] images) "
        f"<{_CONSTANTS.strip()}, {own}> {{{nodes}}}"
    )
    for name, values in (("mean", preparation.mean), ("std", preparation.std)):
        grey_levels = np.asarray(values, np.float32) * np.float32(255)
        graph.initializer.append(numpy_helper.from_array(grey_levels.reshape(-1, 1, 1), name))
    return onnx.compose.add_prefix_graph(graph, "prepare/", rename_inputs=False, rename_outputs=False)


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
