"""Activations between two quantisations: hard-swish in one operator, no pairs that only serve the format.

Whether a pair may be left out is tried, not assumed: no value that may stand before it changes the integer
behind by more than one. A pair that stays costs an epilogue a rounding and two comparisons.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper

from ofa_tvm.compiler.graph.quantized.editing import (
    DEQUANTIZE,
    QUANTIZE,
    Array,
    Graph,
    Scheme,
    attribute,
    is_a,
)

_HARD_SWISH_SINCE = 14  # operator set
_SAMPLES = 32  # values tried a quantisation step
Function = Callable[[Array], Array]


def simplify_activations(graph: Graph) -> None:
    """Hard-swish and gates without what only served the format; clamps that the quantisation does anyway."""
    _gates(graph)
    _drop_pairs(graph)
    _drop_clamps(graph)


def _function(graph: Graph, node: onnx.NodeProto | None) -> Function | None:
    """What an activation computes, elementwise; None for other operators."""
    if node is None or node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Relu":
        return lambda x: np.maximum(x, 0)
    if node.op_type == "HardSwish":
        return lambda x: x * np.clip(x / 6 + 0.5, 0, 1)
    if node.op_type == "HardSigmoid":
        alpha, beta = attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)
        return lambda x: np.clip(alpha * x + beta, 0, 1)
    if node.op_type == "Sigmoid":
        return lambda x: 1 / (1 + np.exp(-np.clip(x, -80, 80)))
    if node.op_type == "LeakyRelu":
        slope = attribute(node, "alpha", 0.01)
        return lambda x: np.where(x < 0, slope * x, x)
    limits = _limits(graph, node)
    return None if limits is None else lambda x: np.clip(x, *limits)


def _limits(graph: Graph, node: onnx.NodeProto) -> tuple[float, float] | None:
    """Between what a node clamps; None if it does not, or not between constants."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    if node.op_type != "Clip":
        return None
    limits = []
    for index, name, default in ((1, "min", -np.inf), (2, "max", np.inf)):
        value = default
        if len(node.input) > index and node.input[index]:
            constant = graph.value(node.input[index])
            if constant is None or constant.size != 1:
                return None
            value = float(constant.reshape(()))
        limits.append(attribute(node, name, value))
    return limits[0], limits[1]


def _quantizer_behind(graph: Graph, name: str) -> tuple[onnx.NodeProto, Scheme] | None:
    """The quantisation that alone reads a value."""
    node = graph.alone(name)
    scheme = graph.scheme(node) if node is not None and is_a(node, QUANTIZE) else None
    return None if node is None or scheme is None else (node, scheme)


def _pair_before(graph: Graph, name: str) -> tuple[onnx.NodeProto, Scheme] | None:
    """The quantisation of what a node reads dequantised, if the two belong together."""
    real = graph.made_by(name, DEQUANTIZE)
    quantize = graph.made_by(real.input[0], QUANTIZE) if real is not None else None
    scheme = graph.scheme(real)
    return (
        None if quantize is None or scheme is None or graph.scheme(quantize) != scheme else (quantize, scheme)
    )


def _apart(after: Scheme, left: Array, right: Array) -> int:
    """Largest difference of what is quantised, in steps."""
    return int(np.abs(after.quantized(left).astype(int) - after.quantized(right).astype(int)).max())


def _gates(graph: Graph) -> None:
    """x times a gate that was quantised: by the gate itself, as hard-swish if it is x's own."""
    for node in graph.nodes:
        if not is_a(node, "Mul") or len(set(node.input)) < 2:
            continue
        for index in (0, 1):
            if _gate(graph, node, index):
                break
    graph.index()


def _gate(graph: Graph, node: onnx.NodeProto, index: int) -> bool:
    """Whether operand `index` was a quantised gate and is none any more."""
    behind = _quantizer_behind(graph, node.output[0])
    pair = _pair_before(graph, node.input[index])
    name = pair[0].input[0] if pair is not None else node.input[index]
    gate = graph.made_by(name, "HardSigmoid", "Sigmoid")
    function = _function(graph, gate)
    x = graph.scheme(graph.made_by(node.input[1 - index], DEQUANTIZE))
    c = graph.scheme(graph.made_by(gate.input[0], DEQUANTIZE)) if gate is not None else None
    if gate is None or function is None or x is None or c is None or (pair is not None and behind is None):
        return False
    own = _same(graph, gate.input[0], node.input[1 - index])
    swish = own and _is_swish(gate) and graph.opset >= _HARD_SWISH_SINCE
    if pair is None and not swish:
        return False
    if pair is not None and behind is not None:
        inner = pair[1]
        values = x.real(x.codes)
        exact = function(values if own else c.real(c.codes)[:, None])
        if _apart(behind[1], values * inner.real(inner.quantized(exact)), values * exact) > 1:
            return False
    if swish:
        other = node.input[1 - index]
        node.CopyFrom(helper.make_node("HardSwish", [other], [node.output[0]], name=node.name))
    else:
        node.input[index] = gate.output[0]
    graph.index()
    return True


def _is_swish(gate: onnx.NodeProto) -> bool:
    alpha, beta = attribute(gate, "alpha", 0.2), attribute(gate, "beta", 0.5)
    return gate.op_type == "HardSigmoid" and abs(alpha - 1 / 6) < 1e-6 and beta == 0.5


def _same(graph: Graph, left: str, right: str) -> bool:
    """Whether two values are one, or one dequantised twice."""
    a, b = graph.made_by(left, DEQUANTIZE), graph.made_by(right, DEQUANTIZE)
    if left == right:
        return True
    return a is not None and b is not None and a.input[0] == b.input[0] and graph.scheme(a) == graph.scheme(b)


def _drop_pairs(graph: Graph) -> None:
    """Quantised, dequantised, an activation, quantised: without the first two where that is harmless."""
    for node in graph.nodes:
        function = _function(graph, node)
        pair = _pair_before(graph, node.input[0]) if function is not None else None
        behind = _quantizer_behind(graph, node.output[0]) if pair is not None else None
        if function is None or pair is None or behind is None:
            continue
        quantize, before = pair
        if graph.alone(quantize.output[0]) is None or graph.alone(node.input[0]) is None:
            continue
        values = _around(before)
        rounded = before.real(before.quantized(values))
        if _apart(behind[1], function(rounded), function(values)) <= 1:
            node.input[0] = quantize.input[0]
            graph.index()


def _around(scheme: Scheme) -> Array:
    """Values within what a scheme can say, between its steps, and beyond."""
    codes = scheme.codes
    steps = np.linspace(codes[0] - 256, codes[-1] + 256, 768 * _SAMPLES + 1)
    far = np.array([-1e6, -1e3, 1e3, 1e6])
    return np.concatenate([(steps - scheme.zero) * scheme.scale, far * scheme.scale]).astype(np.float32)


def _drop_clamps(graph: Graph) -> None:
    """A rectifier or clip before a quantisation whose integers end where it would clamp."""
    for node in graph.nodes:
        limits = _limits(graph, node) if is_a(node, "Relu", "Clip") else None
        behind = _quantizer_behind(graph, node.output[0]) if limits is not None else None
        if limits is None or behind is None:
            continue
        quantize, scheme = behind
        low, high = (int(scheme.quantized(np.asarray(limit, np.float32))) for limit in limits)
        if low <= scheme.codes[0] and high >= scheme.codes[-1]:
            quantize.input[0] = node.input[0]
            graph.index()
