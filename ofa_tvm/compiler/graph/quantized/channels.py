"""A scale a channel on feature maps, as NNCF has before depthwise convolutions: moved into the weights.

The map is divided by its scales before it is quantised, by one scale that is 1, and the depthwise convolution
behind it multiplies. The division goes into the convolution before where only a rectifier stands between;
behind other activations it is a product with constants. Zero points must be one, since borders are padded
with them; maps with others stay in float.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from onnx import helper

from ofa_tvm.compiler.graph.quantized.editing import (
    BYTES,
    DEQUANTIZE,
    QUANTIZE,
    Array,
    Graph,
    Scheme,
    attribute,
    is_a,
    set_inputs,
)
from ofa_tvm.compiler.graph.quantized.weights import store, stored


def move_channel_scales(graph: Graph) -> None:
    """Give maps whose channels have scales of their own a single one, where only depthwise ones read them."""
    for node in list(graph.nodes):
        found = _channel_scales(graph, node) if is_a(node, QUANTIZE) else None
        if found is None:
            continue
        scales, zero, dtype = found
        readers = graph.readers[node.output[0]]
        convolutions = [conv for reader in readers for conv in graph.readers[reader.output[0]]]
        outside = {node.output[0], *(reader.output[0] for reader in readers)} & graph.outputs
        if outside or not all(_channel_scales(graph, r) is not None for r in readers):
            continue
        if not all(_same(found, _channel_scales(graph, reader)) for reader in readers) or not convolutions:
            continue
        if not all(_is_depthwise(graph, conv, len(scales)) for conv in convolutions):
            continue
        for conv in convolutions:
            _scale_weights(graph, conv, scales)
        unit = Scheme(np.float32(1), zero, dtype)
        for other in (node, *readers):
            fresh = graph.quantizer(other.op_type, other.input[0], unit, other.output[0], other.name)
            other.CopyFrom(fresh)
        _divide(graph, node, scales)
        graph.index()


def _channel_scales(graph: Graph, node: onnx.NodeProto) -> tuple[Array, int, np.dtype] | None:
    """Scales along axis 1, the zero point of all, and the type; None for nodes that have no such scales."""
    if not is_a(node, QUANTIZE, DEQUANTIZE) or node.input[0] in graph.tensors:
        return None
    scale, dtype = graph.value(node.input[1]), graph.integer_type(node)
    given = len(node.input) > 2 and bool(node.input[2])
    zero = graph.value(node.input[2]) if given else np.zeros(1, np.uint8)
    if scale is None or zero is None or scale.size < 2 or scale.dtype != np.float32 or dtype not in BYTES:
        return None
    rank = _rank(graph, node)
    if rank < 3 or attribute(node, "axis", 1) % rank != 1 or len(np.unique(zero)) > 1:
        return None
    return scale.reshape(-1), int(zero.reshape(-1)[0]), np.dtype(dtype)


def _same(left: tuple[Array, int, np.dtype], right: tuple[Array, int, np.dtype] | None) -> bool:
    return right is not None and left[1:] == right[1:] and np.array_equal(left[0], right[0])


def _rank(graph: Graph, node: onnx.NodeProto) -> int:
    known = graph.types.get(node.input[0])
    return len(known.shape.dim) if known is not None and known.HasField("shape") else 0


def _weights(graph: Graph, conv: onnx.NodeProto) -> bool:
    """Whether all but the first operand of a convolution are constants."""
    return all(
        not name or name in graph.tensors or stored(graph, graph.maker.get(name)) is not None
        for name in conv.input[1:]
    )


def _is_depthwise(graph: Graph, conv: onnx.NodeProto, channels: int) -> bool:
    return is_a(conv, "Conv") and attribute(conv, "group", 1) == channels and _weights(graph, conv)


def _scale_weights(graph: Graph, conv: onnx.NodeProto, factors: Array) -> None:
    """Multiply what each output channel (of which a depthwise input channel may have several) adds up."""
    weight = stored(graph, graph.maker.get(conv.input[1]))
    name = f"{conv.output[0]}__scaled"
    if weight is None:
        value = graph.value(conv.input[1])
        assert value is not None
        each = np.repeat(factors, len(value) // len(factors)).reshape(-1, *[1] * (value.ndim - 1))
        conv.input[1] = graph.constant(name, (value * each).astype(np.float32))
        return
    each = np.repeat(factors, len(weight.data) // len(factors))
    scale = np.broadcast_to(weight.scale, each.shape) if weight.axis is None else weight.scale
    zero = np.broadcast_to(weight.zero, each.shape) if weight.axis is None else weight.zero
    scaled = replace(weight, scale=(scale * each).astype(np.float32), zero=np.array(zero), axis=0)
    fresh = onnx.NodeProto(name=graph.maker[conv.input[1]].name)
    fresh.output.append(graph.fresh(name))
    store(graph, fresh, scaled)
    graph.nodes.insert(next(i for i, node in enumerate(graph.nodes) if node is conv), fresh)
    graph.maker[fresh.output[0]] = fresh
    conv.input[1] = fresh.output[0]


def _divide(graph: Graph, quantize: onnx.NodeProto, scales: Array) -> None:
    """What a node quantises, divided by channel."""
    factors = (1 / scales).astype(np.float32)
    name = quantize.input[0]
    relu = graph.made_by(name, "Relu")
    before = relu.input[0] if relu is not None and graph.alone(name) is not None else name
    conv = graph.made_by(before, "Conv")
    whole = conv is not None and graph.alone(before) is not None and _weights(graph, conv)
    if conv is not None and whole and graph.alone(name) is not None and _channel_axis_fits(graph, conv):
        _scale_weights(graph, conv, factors)
        if len(conv.input) > 2 and conv.input[2]:
            bias = stored(graph, graph.maker.get(conv.input[2]))
            value = graph.value(conv.input[2]) if bias is None else bias.real()
            assert value is not None
            conv.input[2] = graph.constant(f"{conv.output[0]}__bias", (value * factors).astype(np.float32))
        return
    shape = [-1 if i == 1 else 1 for i in range(_rank(graph, quantize))]
    constant = graph.constant(f"{name}__reciprocals", factors.reshape(shape))
    divided = graph.fresh(f"{name}__divided")
    product = helper.make_node("Mul", [name, constant], [divided], name=quantize.name)
    graph.nodes.insert(next(i for i, node in enumerate(graph.nodes) if node is quantize), product)
    set_inputs(quantize, [divided, *quantize.input[1:]])


def _channel_axis_fits(graph: Graph, conv: onnx.NodeProto) -> bool:
    """Whether scales of its weight, if it has several, are those of its output channels."""
    weight = stored(graph, graph.maker.get(conv.input[1]))
    return weight is None or weight.axis in (None, 0)
