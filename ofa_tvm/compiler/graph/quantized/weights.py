"""Constants that are stored quantised: int8 weights of integer products, float32 for all else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from ofa_tvm.compiler.graph.quantized.checks import output_channel
from ofa_tvm.compiler.graph.quantized.editing import (
    BYTES,
    DEQUANTIZE,
    QUANTIZE,
    Array,
    Graph,
    attribute,
    integers,
    is_a,
    set_attributes,
    set_inputs,
)

_RESHAPES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
_PRODUCTS = ("Conv", "Gemm", "MatMul")  # those of which integer kernels are made


@dataclass(frozen=True)
class Stored:
    """A quantised constant: its integers, and scales and zero points of the whole or along an axis."""

    data: Array
    scale: Array
    zero: Array
    axis: int | None

    def _along(self, values: Array) -> Array:
        if self.axis is None:
            return values.reshape(())
        return values.reshape([-1 if i == self.axis else 1 for i in range(self.data.ndim)])

    def real(self) -> Array:
        """Its values, computed as ONNX does."""
        moved = self.data.astype(np.int64) - self._along(self.zero).astype(np.int64)
        return (moved.astype(np.float32) * self._along(self.scale)).astype(np.float32)

    def signed(self) -> Stored:
        """The same values by int8, around zero where they fit."""
        data = self.data.astype(np.int32) - (128 if self.data.dtype == np.uint8 else 0)
        zero = self.zero.astype(np.int32) - (128 if self.data.dtype == np.uint8 else 0)
        centred = data - self._along(zero)
        if centred.size and centred.min() >= -128 and centred.max() <= 127:
            data, zero = centred, np.zeros_like(zero)
        return Stored(data.astype(np.int8), self.scale, zero.astype(np.int8), self.axis)

    def transposed(self, axes: list[int]) -> Stored:
        axis = None if self.axis is None else axes.index(self.axis)
        return Stored(np.ascontiguousarray(self.data.transpose(axes)), self.scale, self.zero, axis)

    def reshaped(self, shape: tuple[int, ...]) -> Stored | None:
        """In another shape, if the axis of its scales is one there, too."""
        data, axis = self.data.reshape(shape), self.axis
        if axis is not None:
            before, length = int(np.prod(self.data.shape[:axis])), self.data.shape[axis]
            found = [i for i in range(data.ndim) if data.shape[i] == length and np.prod(shape[:i]) == before]
            if not found:
                return None
            axis = found[0]
        return Stored(data, self.scale, self.zero, axis)


def stored(graph: Graph, node: onnx.NodeProto | None) -> Stored | None:
    """The constant that a node dequantises, None if it does no such thing."""
    if node is None or not is_a(node, DEQUANTIZE):
        return None
    data, scale = graph.value(node.input[0]), graph.value(node.input[1])
    given = len(node.input) > 2 and bool(node.input[2])
    if data is None or scale is None or data.dtype.kind not in "iu" or scale.dtype != np.float32:
        return None
    zero = graph.value(node.input[2]) if given else np.zeros(scale.shape, data.dtype)
    if zero is None:
        return None
    if scale.size == 1:
        return Stored(data, scale.reshape(()), zero.reshape(()), None)
    axis = attribute(node, "axis", 1)
    axis = 0 if data.ndim == 1 else axis % data.ndim
    return Stored(data, scale.reshape(-1), zero.reshape(-1), axis)


def quantize_constants(graph: Graph) -> None:
    """Compute what quantises constants, as exporters that keep weights in float write it."""
    for node in graph.nodes:
        values = graph.value(node.input[0]) if is_a(node, QUANTIZE) else None
        scale = graph.value(node.input[1]) if values is not None else None
        dtype = graph.integer_type(node) if values is not None else None
        given = len(node.input) > 2 and bool(node.input[2])
        zero = graph.value(node.input[2]) if given else np.zeros(1, np.int64)
        if values is None or scale is None or zero is None or dtype is None:
            continue
        shape = [1] * values.ndim
        if scale.size > 1:
            axis = 0 if values.ndim == 1 else attribute(node, "axis", 1)
            shape[axis] = -1
        point = zero.astype(np.int64).reshape(shape if zero.size > 1 else [1] * values.ndim)
        made = integers(values, scale.reshape(shape), point, dtype)
        for old in graph.replace(node.output[0], graph.constant(node.output[0], made)):
            graph.nodes.append(old)
    graph.index()


def move_constants(graph: Graph) -> None:
    """Transpose and reshape the integers where exporters do so with the dequantised weight."""
    for node in graph.nodes:
        if not is_a(node, "Transpose", *_RESHAPES):
            continue
        constant = stored(graph, graph.maker.get(node.input[0]))
        if constant is None or constant.data.dtype not in BYTES:
            continue
        moved: Stored | None
        if node.op_type == "Transpose":
            default = list(reversed(range(constant.data.ndim)))
            moved = constant.transposed(list(attribute(node, "perm", default)))
        else:
            moved = _reshaped(graph, node, constant)
        if moved is not None:
            store(graph, node, moved)
    graph.index()


def _reshaped(graph: Graph, node: onnx.NodeProto, constant: Stored) -> Stored | None:
    out = graph.types.get(node.output[0])
    if out is None or not out.HasField("shape"):
        return None
    shape = tuple(d.dim_value for d in out.shape.dim)
    return constant.reshaped(shape) if int(np.prod(shape)) == constant.data.size else None


def store(graph: Graph, node: onnx.NodeProto, constant: Stored) -> None:
    """Make a node the one that dequantises a constant."""
    base = node.output[0]
    names = [
        graph.constant(f"{base}__{what}", value)
        for what, value in (
            ("integers", constant.data),
            ("scale", constant.scale),
            ("zero_point", constant.zero),
        )
    ]
    node.op_type, node.domain = DEQUANTIZE, ""
    del node.attribute[:]
    set_inputs(node, names)
    if constant.axis is not None:
        set_attributes(node, axis=constant.axis)


def settle_constants(graph: Graph) -> None:
    """Weights of integer products in their canonical form, all other constants in float32."""
    weights: set[str] = set()
    added: dict[int, list[onnx.NodeProto]] = {}
    for node in graph.nodes:
        if not is_a(node, *_PRODUCTS) or graph.scheme(graph.made_by(node.input[0], DEQUANTIZE)) is None:
            continue
        constant = stored(graph, graph.maker.get(node.input[1]))
        if constant is None or constant.data.dtype not in BYTES:
            continue
        weight = _weight(graph, node, constant)
        if weight is not None:
            fresh = onnx.NodeProto(name=graph.maker[node.input[1]].name)
            fresh.output.append(graph.fresh(f"{node.input[1]}__weight"))
            store(graph, fresh, weight.signed())
            added[id(node)] = [fresh]
            node.input[1] = fresh.output[0]
            weights.add(fresh.output[0])
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        constant = stored(graph, node)
        if constant is not None:
            name = graph.constant(node.output[0], constant.real())
            nodes += graph.replace(node.output[0], name)
            continue
        nodes += [*added.get(id(node), []), node]
    graph.nodes = nodes
    graph.index()


def _weight(graph: Graph, node: onnx.NodeProto, constant: Stored) -> Stored | None:
    """The weight of a product as its canonical operator has it; None where no integer product can be made."""
    if node.op_type == "Gemm":
        return _gemm_weight(graph, node, constant)
    channel = constant.data.ndim - 1 if node.op_type == "MatMul" else 0
    if constant.axis not in (None, channel):
        raise output_channel(node, constant.axis or 0, channel)
    return constant


def _gemm_weight(graph: Graph, node: onnx.NodeProto, constant: Stored) -> Stored | None:
    """Of a Gemm that becomes one without factors, whose matrix lies as MatMul's."""
    alpha, beta = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
    bias = _real_constant(graph, node.input[2]) if len(node.input) > 2 and node.input[2] else None
    has_bias = len(node.input) > 2 and bool(node.input[2])
    if attribute(node, "transA", 0) or alpha <= 0 or (has_bias and bias is None and beta != 1):
        return None
    channel = 0 if attribute(node, "transB", 0) else 1
    if constant.axis not in (None, channel):
        raise output_channel(node, constant.axis or 0, channel)
    if attribute(node, "transB", 0):
        constant = constant.transposed([1, 0])
    if bias is not None and beta != 1:
        node.input[2] = graph.constant(
            f"{node.output[0]}__bias", (bias * np.float32(beta)).astype(np.float32)
        )
    set_attributes(node, alpha=None, beta=None, transA=None, transB=None)
    scale = (constant.scale * np.float32(alpha)).astype(np.float32)
    return Stored(constant.data, scale, constant.zero, constant.axis)


def _real_constant(graph: Graph, name: str) -> Array | None:
    constant = stored(graph, graph.maker.get(name))
    return constant.real() if constant is not None else graph.value(name)
