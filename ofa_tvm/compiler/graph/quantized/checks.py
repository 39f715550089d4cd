"""Quantisation that cannot be followed, refused in a sentence that names the node."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto

from ofa_tvm.compiler.graph.quantized.editing import DEQUANTIZE, QUANTIZE, Graph, attribute, bad, is_a
from ofa_tvm.errors import UserError

_ADVICE = "quantise it to 8 bits, for example with ofa-tvm quantize"
_SUPPORTED = frozenset({"INT8", "UINT8", "INT16", "UINT16", "INT32"})
_WEIGHED = ("Conv", "ConvTranspose")  # operators whose second operand is a weight in any case


def check_quantization(model: onnx.ModelProto) -> None:
    """Refuse what has no meaning, or none that kernels follow.

    Parameters
    ----------
    model
        With constants folded and types inferred.

    Raises
    ------
    UserError
        If a scale is zero, negative or not finite, if scales are one a block, if a zero point has another
        type than its data, if integers have less than 8 bits or are floats, if scales and axis do not fit
        the tensor, or if a convolution's weight is quantised but computed by the network.
    """
    if not any(is_a(node, QUANTIZE, DEQUANTIZE) for node in model.graph.node):
        return
    graph = Graph(model)
    for node in graph.nodes:
        if is_a(node, QUANTIZE, DEQUANTIZE):
            _check_types(graph, node)
            _check_scale(graph, node)
        elif is_a(node, *_WEIGHED):
            _check_weight(graph, node)


def _check_types(graph: Graph, node: onnx.NodeProto) -> None:
    zero = _elem_type(graph, node.input[2]) if len(node.input) > 2 and node.input[2] else 0
    if node.op_type == DEQUANTIZE:
        data = _elem_type(graph, node.input[0])
    else:
        data = attribute(node, "output_dtype", 0) or zero or TensorProto.UINT8
    name = TensorProto.DataType.Name(data) if data else "INT8"
    if name not in _SUPPORTED:
        raise bad(node, f"its integers are of type {name.lower()}; {_ADVICE}")
    if zero and data and zero != data:
        point = TensorProto.DataType.Name(zero).lower()
        raise bad(
            node, f"its zero point is of type {point}, its integers are {name.lower()}; both must be one"
        )
    if attribute(node, "precision", 0) not in (0, TensorProto.FLOAT):
        raise bad(node, "it asks for a division in another precision than float32")


def _check_scale(graph: Graph, node: onnx.NodeProto) -> None:
    if attribute(node, "block_size", 0) or len(_shape(graph, node.input[1]) or ()) > 1:
        raise bad(node, f"its scales are one a block; {_ADVICE}, which gives a channel one scale")
    scale = graph.value(node.input[1])
    if scale is not None:
        values = np.asarray(scale, np.float64)
        wrong = values[~(np.isfinite(values) & (values > 0))]
        if wrong.size:
            raise bad(node, f"its scale holds {wrong.reshape(-1)[0]:g}; scales are positive numbers")
    count, *points = [_count(graph, name) for name in node.input[1:] if name]
    if points and points[0] and count and points[0] != count:
        raise bad(node, f"it has {count} scales, but {points[0]} zero points")
    shape = _shape(graph, node.input[0])
    if count in (0, 1) or shape is None:
        return
    axis = attribute(node, "axis", 1)
    if len(shape) == 1 and axis == 1:
        axis = 0
    if not -len(shape) <= axis < len(shape) or shape[axis] != count:
        sizes = "x".join(map(str, shape))
        raise bad(
            node,
            f"it has {count} scales along axis {axis} of a tensor of shape {sizes}, where they do not fit",
        )


def _check_weight(graph: Graph, node: onnx.NodeProto) -> None:
    """A weight's integers are constant; where its scale is not either, as in ONNX's tests, all is float."""
    source = graph.made_by(node.input[1], DEQUANTIZE)
    data = graph.made_by(node.input[0], DEQUANTIZE)
    if source is None or data is None or graph.value(source.input[1]) is None:
        return
    if not _is_constant(graph, source.input[0]):
        raise bad(
            node,
            f"its weight {node.input[1]!r} is quantised but not constant: the network computes it, or takes "
            "it as an input; make it an initializer, or leave that operator unquantised",
        )


def _is_constant(graph: Graph, name: str) -> bool:
    if name in graph.tensors:
        return True
    maker = graph.maker.get(name)
    return maker is not None and all(_is_constant(graph, n) for n in maker.input if n)


def _elem_type(graph: Graph, name: str) -> int:
    if name in graph.tensors:
        return int(graph.tensors[name].data_type)
    return int(graph.types[name].elem_type) if name in graph.types else 0


def _shape(graph: Graph, name: str) -> tuple[int, ...] | None:
    if name in graph.tensors:
        return tuple(graph.tensors[name].dims)
    if name not in graph.types or not graph.types[name].HasField("shape"):
        return None
    dims = graph.types[name].shape.dim
    return tuple(d.dim_value for d in dims) if all(d.HasField("dim_value") for d in dims) else None


def _count(graph: Graph, name: str) -> int:
    """Elements of a value, 0 if that is not known."""
    shape = _shape(graph, name)
    return 0 if shape is None else math.prod(shape)


def output_channel(node: onnx.NodeProto, axis: int, expected: int) -> UserError:
    """The error for a weight whose scales belong to another axis than the output channel."""
    return bad(
        node,
        f"the scales of its weight lie along axis {axis}, but its output channel is axis {expected}; "
        "give each output channel one scale",
    )
