"""Operators on quantised tensors, written as what they mean: dequantised, computed, quantised.

ONNX's own `QLinearConv` and `QLinearMatMul` and those of ONNX Runtime's QOperator format (com.microsoft).
Only their form changes here, so that scales may still be expressions. `ConvInteger` and `MatMulInteger`
whose sums are only read as floats become products of dequantised tensors of scale 1; where the 32-bit
integers themselves are wanted they stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from ofa_tvm.compiler.graph.folding import subgraphs
from ofa_tvm.compiler.graph.quantized.editing import DEQUANTIZE, QUANTIZE, Graph, attribute, is_a

_MICROSOFT = "com.microsoft"


def without_qoperators(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its quantised operators in QDQ form; itself if it has none."""
    if not any(_rewriter(node) or node.op_type in _INTEGERS for node in model.graph.node):
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = Graph(result)
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        rewriter = _rewriter(node)
        nodes += _Rewriting(graph, node).run(rewriter) if rewriter else [node]
    graph.nodes = nodes
    graph.index()
    _integer_products(graph)
    graph.write()
    domains = {node.domain for node in result.graph.node if node.domain} | {
        inner.domain
        for node in result.graph.node
        for g in subgraphs(node)
        for inner in g.node
        if inner.domain
    }
    if not model.functions:
        kept = [entry for entry in result.opset_import if entry.domain != _MICROSOFT or _MICROSOFT in domains]
        copies = [onnx.OperatorSetIdProto.FromString(entry.SerializeToString()) for entry in kept]
        del result.opset_import[:]
        result.opset_import.extend(copies)
    return result


@dataclass(frozen=True)
class _Rewriting:
    """One node on its way to QDQ."""

    graph: Graph
    node: onnx.NodeProto

    def run(self, rewriter: Callable[[_Rewriting], list[onnx.NodeProto]]) -> list[onnx.NodeProto]:
        return rewriter(self)

    def has(self, index: int) -> bool:
        return index < len(self.node.input) and bool(self.node.input[index])

    def real(self, index: int, axis: int | None = None) -> tuple[onnx.NodeProto, str]:
        """The operand at `index` dequantised by the scale and zero point behind it, and its name."""
        names = [self.node.input[i] for i in range(index, min(index + 3, len(self.node.input)))]
        while names and not names[-1]:
            names.pop()
        return self.dequantized(names, axis)

    def dequantized(self, names: Sequence[str], axis: int | None = None) -> tuple[onnx.NodeProto, str]:
        out = self.graph.fresh(f"{names[0]}__real")
        attributes = {} if axis is None else {"axis": axis}
        return helper.make_node(DEQUANTIZE, names, [out], name=self.node.name, **attributes), out

    def computed(
        self, kind: str, operands: Sequence[str], scale: int, *leave_out: str
    ) -> list[onnx.NodeProto]:
        """The operator and, if its result has a scale (operand number `scale`), its quantisation."""
        node, out = self.node, self.node.output[0]
        inner = self.graph.fresh(f"{out}__real") if self.has(scale) else out
        result = helper.make_node(kind, operands, [inner], name=node.name)
        result.attribute.extend(a for a in node.attribute if a.name not in ("channels_last", *leave_out))
        if not self.has(scale):
            return [result]
        names = [inner, *(name for name in node.input[scale : scale + 2] if name)]
        return [result, helper.make_node(QUANTIZE, names, [out], name=node.name)]


def _convolution(this: _Rewriting) -> list[onnx.NodeProto]:
    data, x = this.real(0)
    weight, w = this.real(3, axis=0)
    nodes, operands = [data, weight], [x, w]
    if this.has(8):
        scale = this.graph.fresh(f"{this.node.input[8]}__scale")
        nodes.append(helper.make_node("Mul", [this.node.input[1], this.node.input[4]], [scale]))
        bias, b = this.dequantized([this.node.input[8], scale], axis=0)
        nodes.append(bias)
        operands.append(b)
    return [*nodes, *this.computed("Conv", operands, 6)]


def _product(this: _Rewriting) -> list[onnx.NodeProto]:
    left, a = this.real(0, axis=-2)
    right, b = this.real(3, axis=-1)
    return [left, right, *this.computed("MatMul", [a, b], 6)]


def _gemm(this: _Rewriting) -> list[onnx.NodeProto]:
    """A bias' scale is that of the product; it is not multiplied by alpha."""
    node = this.node
    left, a = this.real(0)
    right, b = this.real(3, axis=0 if attribute(node, "transB", 0) else 1)
    nodes, operands = [left, right], [a, b]
    if this.has(6):
        scale = this.graph.fresh(f"{node.input[6]}__scale")
        nodes.append(helper.make_node("Mul", [node.input[1], node.input[4]], [scale]))
        alpha = attribute(node, "alpha", 1.0)
        if alpha != 1:
            factor = this.graph.constant("alpha", np.asarray(alpha, np.float32))
            product, scale = scale, this.graph.fresh(f"{scale}__alpha")
            nodes.append(helper.make_node("Mul", [product, factor], [scale]))
        bias, c = this.dequantized([node.input[6], scale], axis=0)
        nodes.append(bias)
        operands.append(c)
    return [*nodes, *this.computed("Gemm", operands, 7)]


def _binary(kind: str) -> Callable[[_Rewriting], list[onnx.NodeProto]]:
    def rewrite(this: _Rewriting) -> list[onnx.NodeProto]:
        left, a = this.real(0)
        right, b = this.real(3)
        return [left, right, *this.computed(kind, [a, b], 6)]

    return rewrite


def _unary(kind: str, *leave_out: str) -> Callable[[_Rewriting], list[onnx.NodeProto]]:
    def rewrite(this: _Rewriting) -> list[onnx.NodeProto]:
        data, x = this.real(0)
        return [data, *this.computed(kind, [x], 3, *leave_out)]

    return rewrite


def _where(this: _Rewriting) -> list[onnx.NodeProto]:
    left, a = this.real(1)
    right, b = this.real(4)
    return [left, right, *this.computed("Where", [this.node.input[0], a, b], 7)]


def _concatenation(this: _Rewriting) -> list[onnx.NodeProto]:
    """Its result's scale comes first."""
    node = this.node
    parts = [
        this.dequantized([name for name in node.input[i : i + 3] if name])
        for i in range(2, len(node.input), 3)
    ]
    return [*(part for part, _ in parts), *this.computed("Concat", [name for _, name in parts], 0)]


def _as_standard(this: _Rewriting) -> list[onnx.NodeProto]:
    """ONNX Runtime's own pair, which took 16-bit types before ONNX's did."""
    copy = onnx.NodeProto()
    copy.CopyFrom(this.node)
    copy.domain = ""
    return [copy]


def _to_float(this: _Rewriting) -> list[onnx.NodeProto]:
    """`MatMulIntegerToFloat`: operands A, B, their scales, their zero points, a bias in float."""
    names, graph = list(this.node.input), this.graph
    left, a = this.dequantized([n for n in (names[0], names[2], names[4] if this.has(4) else "") if n])
    right, b = this.dequantized(
        [n for n in (names[1], names[3], names[5] if this.has(5) else "") if n], axis=-1
    )
    out = this.node.output[0]
    product = graph.fresh(f"{out}__product") if this.has(6) else out
    nodes = [left, right, helper.make_node("MatMul", [a, b], [product], name=this.node.name)]
    return [*nodes, helper.make_node("Add", [product, names[6]], [out])] if this.has(6) else nodes


_STANDARD = {"QLinearConv": _convolution, "QLinearMatMul": _product}
_OF_ONNX_RUNTIME = {
    "DequantizeLinear": _as_standard,
    "MatMulIntegerToFloat": _to_float,
    "QGemm": _gemm,
    "QLinearAdd": _binary("Add"),
    "QLinearAveragePool": _unary("AveragePool"),
    "QLinearConcat": _concatenation,
    "QLinearConv": _convolution,
    "QLinearGlobalAveragePool": _unary("GlobalAveragePool"),
    "QLinearLeakyRelu": _unary("LeakyRelu"),
    "QLinearMul": _binary("Mul"),
    "QLinearSigmoid": _unary("Sigmoid"),
    "QLinearSoftmax": _unary("Softmax", "opset"),
    "QLinearWhere": _where,
    "QuantizeLinear": _as_standard,
}
_INTEGERS = {"ConvInteger": "Conv", "MatMulInteger": "MatMul"}


def _rewriter(node: onnx.NodeProto) -> Callable[[_Rewriting], list[onnx.NodeProto]] | None:
    """How a node is rewritten; None if it is not (the importer refuses what only optimised files hold)."""
    if node.domain in ("", "ai.onnx"):
        return _STANDARD.get(node.op_type)
    newer_softmax = node.op_type != "QLinearSoftmax" or attribute(node, "opset", 0) >= 13
    if node.domain != _MICROSOFT or attribute(node, "channels_last", 0) or not newer_softmax:
        return None
    return _OF_ONNX_RUNTIME.get(node.op_type)


def _integer_products(graph: Graph) -> None:
    """`ConvInteger` and `MatMulInteger` whose readers cast to float32, as dynamic quantisers write them."""
    dropped: list[onnx.NodeProto] = []
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        readers = graph.readers[node.output[0]] if is_a(node, *_INTEGERS) else []
        this = _Rewriting(graph, node)
        points = [_zero_points(this, 2), _zero_points(this, 3)]
        if (
            not readers
            or node.output[0] in graph.outputs
            or points[0] != 1
            or points[1] is None
            or not all(is_a(r, "Cast") and attribute(r, "to", 0) == TensorProto.FLOAT for r in readers)
        ):
            nodes.append(node)
            continue
        one = graph.constant(f"{node.output[0]}__one", np.ones((), np.float32))
        each = np.ones(() if points[1] == 1 else points[1], np.float32)
        scale = graph.constant(f"{node.output[0]}__ones", each)
        left, a = this.dequantized([node.input[0], one, *([node.input[2]] if this.has(2) else [])])
        names = [node.input[1], scale, *([node.input[3]] if this.has(3) else [])]
        right, b = this.dequantized(names, axis=0 if node.op_type == "ConvInteger" else -1)
        out = readers[0].output[0]
        product = helper.make_node(_INTEGERS[node.op_type], [a, b], [out], name=node.name)
        product.attribute.extend(node.attribute)
        nodes += [left, right, product]
        dropped.append(readers[0])
        for other in readers[1:]:
            nodes += graph.replace(other.output[0], out)
            dropped.append(other)
    graph.nodes = nodes
    graph.without(dropped)
    graph.index()


def _zero_points(this: _Rewriting, index: int) -> int | None:
    """How many zero points an operand has; None if that is not known, or if they are no list."""
    if not this.has(index):
        return 1
    name = this.node.input[index]
    value = this.graph.value(name)
    if value is not None:
        return value.size if value.size == 1 or value.ndim == 1 else None
    return 1 if this.graph.made_by(name, "DynamicQuantizeLinear") else None
