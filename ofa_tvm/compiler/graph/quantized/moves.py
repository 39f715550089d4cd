"""Operators that only move or choose values, on integers: exact, since the whole tensor has one scale.

`DequantizeLinear` sinks below them and `QuantizeLinear` rises above them, until one meets the other and both
are left out, or a product whose epilogue or operand they are.
"""

from __future__ import annotations

import numpy as np
import onnx

from ofa_tvm.compiler.graph.quantized.editing import (
    BYTES,
    DEQUANTIZE,
    QUANTIZE,
    Graph,
    Scheme,
    attribute,
    is_a,
    set_attributes,
    set_inputs,
)

_MOVES = frozenset(
    {"DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Reshape", "Slice", "SpaceToDepth"}
    | {"Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
_BYTES_SINCE = {"MaxPool": 12}  # operator set; the others take every type


def move_pairs(graph: Graph) -> None:
    """Let dequantisation sink and quantisation rise as far as they can, and leave out what meets."""
    _merge_equal(graph)
    while _sink(graph) | _rise(graph) | _cancel(graph):
        pass


def moved_operands(graph: Graph, node: onnx.NodeProto) -> list[str]:
    """Operands that a node moves unchanged to its results; none if it is no such node."""
    if is_a(node, "Concat"):
        return list(node.input)
    single = len([name for name in node.output if name]) == 1 or node.op_type == "Split"
    if not is_a(node, *_MOVES) or not single or graph.opset < _BYTES_SINCE.get(node.op_type, 1):
        return []
    return [node.input[0]]


def _operands_replaced(node: onnx.NodeProto, names: list[str]) -> None:
    set_inputs(node, names if node.op_type == "Concat" else [*names, *node.input[1:]])


def _sink(graph: Graph) -> bool:
    nodes: list[onnx.NodeProto] = []
    changed = False
    for node in graph.nodes:
        nodes.append(node)
        names = moved_operands(graph, node)
        makers = [graph.made_by(name, DEQUANTIZE) for name in names]
        schemes = {graph.scheme(maker) for maker in makers}
        if not names or len(schemes) != 1 or None in schemes:
            continue
        if all(maker is None or maker.input[0] in graph.tensors for maker in makers):
            continue  # a constant
        scheme = next(iter(schemes))
        assert scheme is not None
        _operands_replaced(node, [maker.input[0] for maker in makers if maker is not None])
        for index, out in enumerate(node.output):
            node.output[index] = graph.fresh(f"{out}__quantized")
            made = graph.quantizer(DEQUANTIZE, node.output[index], scheme, out, node.name)
            graph.maker[out] = made
            nodes.append(made)
        changed = True
    graph.nodes = nodes
    graph.index()
    return changed


def _rise(graph: Graph) -> bool:
    """Where a quantisation alone reads what was moved."""
    before: dict[int, list[onnx.NodeProto]] = {}
    dropped: list[onnx.NodeProto] = []
    for node in graph.nodes:
        scheme = graph.scheme(node) if is_a(node, QUANTIZE) else None
        mover = graph.maker.get(node.input[0]) if scheme is not None else None
        if scheme is None or mover is None or len(mover.output) != 1 or id(mover) in before:
            continue
        names = moved_operands(graph, mover)
        if not names or graph.alone(mover.output[0]) is None or all(name in graph.tensors for name in names):
            continue
        quantized = [graph.fresh(f"{name}__quantized") for name in names]
        before[id(mover)] = [
            graph.quantizer(QUANTIZE, name, scheme, new, node.name)
            for name, new in zip(names, quantized, strict=True)
        ]
        _operands_replaced(mover, quantized)
        mover.output[0] = node.output[0]
        dropped.append(node)
    graph.without(dropped)
    graph.nodes = [one for node in graph.nodes for one in [*before.get(id(node), []), node]]
    graph.index()
    return bool(dropped)


def _cancel(graph: Graph) -> bool:
    """A value dequantised and quantised by the same scale is what it was."""
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        scheme = graph.scheme(node) if is_a(node, QUANTIZE) else None
        source = graph.made_by(node.input[0], DEQUANTIZE) if scheme is not None else None
        if source is not None and graph.scheme(source) == scheme:
            nodes += graph.replace(node.output[0], source.input[0])
            for reader in graph.readers.pop(node.output[0], []):
                graph.readers[source.input[0]].append(reader)
        else:
            nodes.append(node)
    changed = len(nodes) < len(graph.nodes) or any(
        a is not b for a, b in zip(nodes, graph.nodes, strict=False)
    )
    graph.nodes = nodes
    graph.index()
    return changed


def _merge_equal(graph: Graph) -> None:
    """One quantisation where several do the same with a value."""
    seen: dict[tuple[str, Scheme], str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        scheme = graph.scheme(node) if is_a(node, QUANTIZE) else None
        if scheme is not None:
            key = (node.input[0], scheme)
            if key in seen:
                nodes += graph.replace(node.output[0], seen[key])
                continue
            seen[key] = node.output[0]
        nodes.append(node)
    graph.nodes = nodes
    graph.index()


def as_unsigned(graph: Graph) -> None:
    """Every int8 feature map as the uint8 one of the same values, 128 more; others get it beside them."""
    nodes: list[onnx.NodeProto] = []
    shifted: dict[str, tuple[str, Scheme]] = {}
    int8 = BYTES[1]

    def old_form(name: str) -> list[onnx.NodeProto]:
        """What makes the int8 integers, for those who want them, of the shifted ones."""
        if (
            all(_takes_shifted(graph, reader, shifted) for reader in graph.readers[name])
            and name not in graph.outputs
        ):
            return []
        new, scheme = shifted[name]
        real = graph.fresh(f"{name}__real")
        after = Scheme(scheme.scale, scheme.zero - 128, np.dtype(int8))
        return [
            graph.quantizer(DEQUANTIZE, new, scheme, real, ""),
            graph.quantizer(QUANTIZE, real, after, name, ""),
        ]

    for node in graph.nodes:
        scheme = graph.scheme(node, int8)
        if scheme is not None and node.op_type == QUANTIZE:
            name, new = node.output[0], graph.fresh(f"{node.output[0]}__unsigned")
            shifted[name] = (new, scheme.shifted)
            nodes.append(graph.quantizer(QUANTIZE, node.input[0], scheme.shifted, new, node.name))
            nodes += old_form(name)
        elif scheme is not None and node.input[0] in shifted:
            source = shifted[node.input[0]][0]
            nodes.append(graph.quantizer(DEQUANTIZE, source, scheme.shifted, node.output[0], node.name))
        elif scheme is not None and node.input[0] not in graph.tensors:
            out = node.output[0]
            real, new = graph.fresh(f"{out}__signed"), graph.fresh(f"{out}__unsigned")
            node.output[0] = real
            nodes.append(node)
            nodes.append(graph.quantizer(QUANTIZE, real, scheme.shifted, new, node.name))
            nodes.append(graph.quantizer(DEQUANTIZE, new, scheme.shifted, out, node.name))
        elif _takes_shifted(graph, node, shifted) and moved_operands(graph, node):
            sources = [shifted[name] for name in moved_operands(graph, node)]
            _operands_replaced(node, [new for new, _ in sources])
            outputs = list(node.output)
            for index, name in enumerate(outputs):
                node.output[index] = graph.fresh(f"{name}__unsigned")
                shifted[name] = (node.output[index], sources[0][1])
            nodes.append(node)
            for name in outputs:
                nodes += old_form(name)
        else:
            nodes.append(node)
    graph.nodes = nodes
    graph.index()


def _takes_shifted(graph: Graph, node: onnx.NodeProto, shifted: dict[str, tuple[str, Scheme]]) -> bool:
    """Whether a node reads shifted integers as well as those that it reads."""
    if graph.scheme(node, BYTES[1]) is not None and node.op_type == DEQUANTIZE:
        return True
    names = moved_operands(graph, node)
    return (
        bool(names)
        and all(name in shifted for name in names)
        and len({shifted[name][1] for name in names}) == 1
    )


def spell_out(graph: Graph) -> None:
    """Scales and zero points of whole tensors as scalars, always given; no attributes that say the same."""
    for node in graph.nodes:
        scheme = graph.scheme(node)
        if scheme is not None and node.input[0] not in graph.tensors:
            fresh = graph.quantizer(node.op_type, node.input[0], scheme, node.output[0], node.name)
            set_inputs(node, list(fresh.input))
            set_attributes(node, axis=None, output_dtype=None, saturate=None, block_size=None, precision=None)
        elif is_a(node, QUANTIZE, DEQUANTIZE) and attribute(node, "axis", 1) < 0:
            _count_axis_from_front(graph, node)
    graph.index()


def _count_axis_from_front(graph: Graph, node: onnx.NodeProto) -> None:
    found = graph.types.get(node.input[0])
    rank = len(graph.tensors[node.input[0]].dims) if node.input[0] in graph.tensors else None
    if rank is None and found is not None and found.HasField("shape"):
        rank = len(found.shape.dim)
    if rank:
        set_attributes(node, axis=attribute(node, "axis", 1) % rank)


def separate_readers(graph: Graph) -> None:
    """One dequantisation a reader, so that each is computed where it is read."""
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        for index, name in enumerate(node.input):
            source = graph.made_by(name, DEQUANTIZE)
            if source is None or len(graph.readers[name]) < 2 or source.input[0] in graph.tensors:
                continue
            copy = onnx.NodeProto()
            copy.CopyFrom(source)
            copy.output[0] = graph.fresh(f"{name}__of_{node.name or node.output[0]}")
            nodes.append(copy)
            node.input[index] = copy.output[0]
        nodes.append(node)
    graph.nodes = nodes
    graph.index()
