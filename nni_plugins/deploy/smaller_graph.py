"""Rewrites of an ONNX graph that keep what it computes and leave less of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnxscript import ir
from onnxscript.ir import convenience, passes

_Node = Any
"""A node of a graph; onnxscript's own type says of each of its parts that it may be missing."""


def fold_batchnorm(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose convolutions have taken over the BatchNorm that follows their concatenation.

    Exporter and runtimes fold BatchNorm that follows one convolution. DARTS's factorised reduction has it after the
    concatenation of two.

    Parameters
    ----------
    model
        Exported in evaluation mode. What does not match is left as it is.
    """
    folded: Any = ir.from_proto(model)
    for node in list(folded.graph):
        if node.op_type == "BatchNormalization":
            _fold_through_concatenation(node)
    passes.common.RemoveUnusedNodesPass()(folded)
    return ir.to_proto(folded)


def compact(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a quantised model of the same function in fewer bytes.

    In a small network names, equal scales, zero points that are zero and attributes that are the default take more
    room than weights. Operators of the network keep their names, tensors between them get short ones.

    Parameters
    ----------
    model
        With QDQ operators.
    """
    compacted: Any = ir.from_proto(model)
    graph = compacted.graph
    for node in graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.name = ""
        if node.op_type == "DequantizeLinear" and _is_zero_point_of_weights(node):
            node.resize_inputs(2)
        for name, default in _DEFAULTS.items() if node.op_type in ("Conv", "AveragePool", "MaxPool") else ():
            if name in node.attributes and set(np.ravel(node.attributes[name].value).tolist()) == {default}:
                del node.attributes[name]
        if node.op_type == "Conv":
            node.attributes.pop("kernel_shape", None)  # the weight has it
    passes.common.DeduplicateInitializersPass()(compacted)
    passes.common.RemoveUnusedNodesPass()(compacted)
    for index, constant in enumerate(list(graph.initializers.values())):
        constant.name = f"c{np.base_repr(index, 36)}"
    between = [value for node in graph for value in node.outputs if not value.is_graph_output()]
    for index, value in enumerate(between):
        value.name = f"t{np.base_repr(index, 36)}"
    smaller = ir.to_proto(compacted)
    del smaller.graph.value_info[:]
    return smaller


_DEFAULTS = {
    "auto_pad": "NOTSET",
    "ceil_mode": 0,
    "count_include_pad": 0,
    "dilations": 1,
    "group": 1,
    "pads": 0,
    "storage_order": 0,
    "strides": 1,
}


def _is_zero_point_of_weights(node: _Node) -> bool:
    """Return whether a weight is dequantised about zero; onnxruntime wants the zero points of activations written."""
    weight, _, *points = node.inputs
    return weight.const_value is not None and all(point and not point.const_value.numpy().any() for point in points)


def _fold_through_concatenation(norm: _Node) -> None:
    """Scale and shift the convolutions whose concatenated outputs ``norm`` alone reads."""
    joined = norm.inputs[0].producer()
    if not _is(joined, "Concat", axis=1) or len(joined.outputs[0].uses()) != 1:
        return
    convolutions = [value.producer() for value in joined.inputs]
    if not all(_is(node, "Conv") and len(node.outputs[0].uses()) == 1 for node in convolutions):
        return
    scale, shift, mean, variance = (_array(value) for value in norm.inputs[1:])
    factor = scale / np.sqrt(variance + norm.attributes.get_float("epsilon", 1e-5))
    start = 0
    for node in convolutions:
        weight = _array(node.inputs[1])
        bias = _array(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(len(weight))
        channels = slice(start, start := start + len(weight))
        folded = {
            "weight": weight * factor[channels].reshape(-1, *[1] * (weight.ndim - 1)),
            "bias": (bias - mean[channels]) * factor[channels] + shift[channels],
        }
        node.resize_inputs(3)
        for index, (kind, array) in enumerate(folded.items(), 1):
            tensor = ir.tensor(array.astype(np.float32), name=f"{node.outputs[0].name}_folded_{kind}")
            constant = ir.val(tensor.name, const_value=tensor)
            node.graph.register_initializer(constant)
            node.replace_input_with(index, constant)
    convenience.replace_nodes_and_values(norm.graph, norm, [norm], [], norm.outputs, joined.outputs)


def _is(node: _Node, op_type: str, **integers: int) -> bool:
    """Return whether ``node`` is an operator with these attributes."""
    return (
        node is not None
        and node.op_type == op_type
        and all(node.attributes.get_int(name) == value for name, value in integers.items())
    )


def _array(value: Any) -> np.ndarray:
    return value.const_value.numpy().astype(np.float64)
